//! A client's WebSocket message as a frame of the client protocol.

use crate::close::Reason;
use crate::inbound::upgrade::Encoding;
use proto::Message;
use proto::client::ClientFrame;
use proto::error::ErrorCode;

/// A frame that is answered with an error; the session goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) request_id: u64,
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

pub(crate) fn from_text(text: &str) -> Result<ClientFrame, Refused> {
    proto::json::decode_client_frame(text).map_err(|error| Refused {
        request_id: error.request_id,
        code: error.code,
        message: error.message,
    })
}

pub(crate) fn from_binary(bytes: &[u8]) -> Result<ClientFrame, Refused> {
    let frame = ClientFrame::decode(bytes).map_err(|error| Refused {
        request_id: 0,
        code: ErrorCode::MalformedFrame,
        message: format!("the message is no ClientFrame: {error}"),
    })?;
    if frame.frame.is_none() {
        let known = proto::json::CLIENT_FRAMES.join(", ");
        return Err(Refused {
            request_id: frame.request_id,
            code: ErrorCode::UnknownFrame,
            message: format!("a frame holds exactly one of: {known}"),
        });
    }
    Ok(frame)
}

/// Text belongs to the JSON encoding, binary to protobuf.
pub(crate) fn check_kind(is_text: bool, encoding: Encoding) -> Result<(), Reason> {
    if is_text == encoding.is_text() { Ok(()) } else { Err(Reason::UnsupportedData) }
}
