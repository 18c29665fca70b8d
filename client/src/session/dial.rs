//! Opening a WebSocket: TCP connect, handshake, subprotocol.

use crate::core::DialFailure;
use crate::limits::{CONNECT_MS_MAX, SERVER_FRAME_BYTES_MAX, WRITE_BUFFER_BYTES_MAX};
use proto::SUBPROTOCOL_PROTO;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;
use tungstenite::client::ClientRequestBuilder;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, HandshakeError, WebSocket, http::Uri};

/// Written frames are gathered up to here before they go to the socket, at the latest with a flush.
const WRITE_BATCH_BYTES: usize = 64 * 1024;
/// Buffer that a connection reads into.
const READ_BUFFER_BYTES: usize = 16 * 1024;

pub(super) type Socket = WebSocket<TcpStream>;

/// The WebSocket URL of a gateway's base URL: `http://HOST:PORT` becomes
/// `ws://HOST:PORT/v1/connect`; a `ws://` URL stays as it is.
///
/// # Errors
/// What is wrong with the URL.
pub fn websocket_url(base: &str) -> Result<String, String> {
    let base = base.trim_end_matches('/');
    let url = match base.strip_prefix("http://") {
        Some(rest) => format!("ws://{rest}/v1/connect"),
        None => base.to_owned(),
    };
    Target::parse(&url).map(|_| url)
}

/// A URL that was looked at.
pub(super) struct Target {
    uri: Uri,
    host: String,
    port: u16,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
        if uri.scheme_str() != Some("ws") {
            return Err(format!(
                "{url:?} cannot be connected to: http:// and ws:// URLs are supported"
            ));
        }
        let host = uri.host().ok_or_else(|| format!("{url:?} names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(80);
        Ok(Self { uri, host, port })
    }

    /// Connects and shakes hands; the socket that comes back is non-blocking.
    pub(super) fn dial(self, token: &str) -> Result<Socket, DialFailure> {
        let stream = self.connect().map_err(|error| failure(error.to_string(), None))?;
        let request = ClientRequestBuilder::new(self.uri)
            .with_header("Authorization", format!("Bearer {token}"))
            .with_sub_protocol(SUBPROTOCOL_PROTO);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BATCH_BYTES)
            .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
            .max_message_size(Some(SERVER_FRAME_BYTES_MAX))
            .max_frame_size(Some(SERVER_FRAME_BYTES_MAX));
        let (socket, answer) =
            tungstenite::client::client_with_config(request, stream, Some(config))
                .map_err(handshake_failure)?;
        let chosen = answer.headers().get("Sec-WebSocket-Protocol");
        if chosen.is_none_or(|chosen| chosen.as_bytes() != SUBPROTOCOL_PROTO.as_bytes()) {
            let problem = format!("the server does not speak {SUBPROTOCOL_PROTO}");
            return Err(failure(problem, None));
        }
        let set_up = socket.get_ref().set_nonblocking(true);
        set_up.map_err(|error| failure(error.to_string(), None))?;
        Ok(socket)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let limit = Duration::from_millis(CONNECT_MS_MAX);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, limit) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(limit))?;
                    stream.set_write_timeout(Some(limit))?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn failure(problem: String, status: Option<u16>) -> DialFailure {
    DialFailure::Connect { problem, status }
}

fn handshake_failure<R: tungstenite::handshake::HandshakeRole>(
    error: HandshakeError<R>,
) -> DialFailure {
    match error {
        HandshakeError::Interrupted(_) => failure("the handshake took too long".to_owned(), None),
        HandshakeError::Failure(Error::Http(answer)) => {
            let status = answer.status();
            let body = answer.body().as_deref().unwrap_or_default();
            let body = String::from_utf8_lossy(body.get(..200).unwrap_or(body)).into_owned();
            failure(
                format!("the upgrade was answered with {status}: {body}"),
                Some(status.as_u16()),
            )
        }
        HandshakeError::Failure(error) => failure(error.to_string(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_become_websocket_urls_and_others_are_refused_by_name() {
        assert_eq!(websocket_url("http://host:1/").unwrap(), "ws://host:1/v1/connect");
        assert_eq!(websocket_url("ws://[::1]:1/x").unwrap(), "ws://[::1]:1/x");
        assert!(websocket_url("https://host").unwrap_err().contains("supported"));
        assert!(websocket_url("not a url").unwrap_err().contains("no URL"));
        assert_eq!(Target::parse("ws://[::1]:9/x").unwrap().host, "::1");
    }
}
