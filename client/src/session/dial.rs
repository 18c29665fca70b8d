//! Opening a WebSocket: TCP connect, TLS, handshake, subprotocol.

use crate::core::DialFailure;
use crate::limits::{CONNECT_MS_MAX, SERVER_FRAME_BYTES_MAX, WRITE_BUFFER_BYTES_MAX};
use crate::trust::Trust;
use proto::SUBPROTOCOL_PROTO;
use rustls::{ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;
use tungstenite::client::ClientRequestBuilder;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, HandshakeError, WebSocket, http::Uri};

/// Written frames are gathered up to here before they go to the socket, at the latest with a flush.
const WRITE_BATCH_BYTES: usize = 64 * 1024;
/// Buffer that a connection reads into.
const READ_BUFFER_BYTES: usize = 16 * 1024;

pub(super) type Socket = WebSocket<Transport>;

/// What carries the WebSocket.
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Transport {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl AsRawFd for Transport {
    fn as_raw_fd(&self) -> RawFd {
        self.tcp().as_raw_fd()
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// The WebSocket URL of a gateway's base URL: `http://HOST:PORT` becomes
/// `ws://HOST:PORT/v1/connect`, and `https://` becomes `wss://`; a `ws://` or `wss://` URL stays as
/// it is.
///
/// # Errors
/// What is wrong with the URL.
pub fn websocket_url(base: &str) -> Result<String, String> {
    let base = base.trim_end_matches('/');
    let url = match (base.strip_prefix("http://"), base.strip_prefix("https://")) {
        (Some(rest), _) => format!("ws://{rest}/v1/connect"),
        (_, Some(rest)) => format!("wss://{rest}/v1/connect"),
        _ => base.to_owned(),
    };
    Target::parse(&url).map(|_| url)
}

/// A URL that was looked at.
pub(super) struct Target {
    uri: Uri,
    host: String,
    port: u16,
    encrypted: bool,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
        let encrypted = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => {
                return Err(format!(
                    "{url:?} cannot be connected to: http://, https://, ws:// and wss:// URLs are \
                     supported"
                ));
            }
        };
        let host = uri.host().ok_or_else(|| format!("{url:?} names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        Ok(Self { uri, host, port, encrypted })
    }

    /// Connects and shakes hands; the socket that comes back is non-blocking.
    pub(super) fn dial(self, token: &str, trust: &Trust) -> Result<Socket, DialFailure> {
        let stream = self.connect().map_err(|error| failure(error.to_string(), None))?;
        let stream = if self.encrypted {
            let shaken = trust.shake_hands(&self.host, stream);
            Transport::Tls(shaken.map_err(|problem| failure(problem, None))?)
        } else {
            Transport::Plain(stream)
        };
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
        let set_up = socket.get_ref().tcp().set_nonblocking(true);
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
        assert_eq!(websocket_url("https://host").unwrap(), "wss://host/v1/connect");
        assert_eq!(Target::parse("wss://host/x").unwrap().port, 443);
        assert!(websocket_url("ftp://host").unwrap_err().contains("supported"));
        assert!(websocket_url("not a url").unwrap_err().contains("no URL"));
        assert_eq!(Target::parse("ws://[::1]:9/x").unwrap().host, "::1");
    }
}
