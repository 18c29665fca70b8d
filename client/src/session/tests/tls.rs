//! Sessions and API calls over TLS, against a server with a certificate that signs itself.

use super::*;
use crate::api::Api;
use crate::trust::Trust;
use crate::update::Notice;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::path::PathBuf;

type Encrypted = StreamOwned<ServerConnection, TcpStream>;

struct Server {
    listener: TcpListener,
    config: Arc<ServerConfig>,
    file: PathBuf,
}

impl Server {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
            .unwrap();
        let file = std::env::temp_dir().join(format!("realchat-ca-{}.pem", proto::id::new()));
        std::fs::write(&file, made.cert.pem()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { listener, config: Arc::new(config), file }
    }

    fn authority(&self) -> String {
        format!("localhost:{}", self.listener.local_addr().unwrap().port())
    }

    fn trust(&self) -> Trust {
        Trust::with_file(&self.file).unwrap()
    }

    fn accept(&self) -> Encrypted {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        StreamOwned::new(ServerConnection::new(Arc::clone(&self.config)).unwrap(), stream)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

fn upgraded(stream: Encrypted) -> WebSocket<Encrypted> {
    #[allow(clippy::result_large_err, reason = "tungstenite's callback type")]
    let choose = |request: &Request, mut answer: Response| {
        let protocol = request.headers()["Sec-WebSocket-Protocol"].clone();
        answer.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        Ok(answer)
    };
    tungstenite::accept_hdr(stream, choose).unwrap()
}

fn write(socket: &mut WebSocket<Encrypted>, request_id: u64, frame: Frame) {
    let bytes = ServerFrame { request_id, frame: Some(frame) }.encode_to_vec();
    socket.send(Message::Binary(bytes.into())).unwrap();
}

fn read(socket: &mut WebSocket<Encrypted>) -> ClientFrame {
    loop {
        if let Message::Binary(bytes) = socket.read().unwrap() {
            return ClientFrame::decode(bytes).unwrap();
        }
    }
}

#[test]
fn a_session_over_tls_carries_events_and_sends_of_every_size() {
    let server = Server::new();
    let mut options = Options::new(
        vec![format!("wss://{}/v1/connect", server.authority())],
        Options::fixed_token("token"),
    );
    options.trust = server.trust();
    options.acknowledge = false;
    let (session, events) = Session::connect(options).unwrap();
    let mut socket = upgraded(server.accept());
    let hello = read(&mut socket);
    write(&mut socket, hello.request_id, Frame::Welcome(Welcome::default()));
    for sequence_number in 1..=200 {
        let mut event = event(sequence_number);
        let text = "x".repeat(usize::try_from(sequence_number).unwrap() * 100);
        event.kind = Some(Kind::Message(Text { text, ..Text::default() }));
        write(&mut socket, 0, Frame::Event(event));
    }
    let (mut seen, started) = (0, Instant::now());
    while seen < 200 {
        if let Waited::Update(Update::Event(delivery)) = events.recv_for(PATIENCE) {
            seen += 1;
            assert_eq!(delivery.sequence_number, seen);
        }
        assert!(started.elapsed() < PATIENCE);
    }
    let text = "y".repeat(16_000);
    let pending: Vec<_> =
        (0..50).map(|key| session.send(CHAT, &format!("k{key}"), &text)).collect();
    for _ in 0..50 {
        let frame = loop {
            let frame = read(&mut socket);
            if matches!(frame.frame, Some(client_frame::Frame::Send(_))) {
                break frame;
            }
        };
        write(&mut socket, frame.request_id, Frame::Sent(Sent::default()));
    }
    for pending in pending {
        pending.wait_for(PATIENCE).unwrap().unwrap();
    }
    session.close();
}

#[test]
fn a_certificate_of_nobody_known_is_refused_and_the_reason_is_told() {
    let server = Server::new();
    let other = Server::new();
    let url = format!("wss://{}/v1/connect", server.authority());
    let mut options = Options::new(vec![url], Options::fixed_token("token"));
    options.trust = other.trust();
    let (told, problems) = sync_channel(16);
    options.hook = Some(Arc::new(move |notice| {
        if let Notice::DialFailed { problem, .. } = notice {
            let _ = told.try_send(problem.clone());
        }
    }));
    let (session, _events) = Session::connect(options).unwrap();
    let mut stream = server.accept();
    assert!(stream.conn.complete_io(&mut stream.sock).is_err());
    let problem = problems.recv_timeout(PATIENCE).unwrap();
    assert!(problem.contains("TLS") && problem.contains("certificate"), "{problem}");
    session.close();
}

#[test]
fn the_api_is_called_over_tls() {
    let server = Server::new();
    let url = format!("https://{}", server.authority());
    let api = Api::with_trust(vec![url], &server.trust());
    let stream = server.accept_later(|stream| {
        let mut request = [0; 4_096];
        let count = stream.read(&mut request).unwrap();
        assert!(request[..count].starts_with(b"GET /v1/jwks.json HTTP/1.1\r\n"));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}").unwrap();
        stream.flush().unwrap();
    });
    assert_eq!(api.jwks().unwrap()["keys"].as_array().map(Vec::len), Some(0));
    stream.join().unwrap();
}

impl Server {
    fn accept_later(&self, serve: impl FnOnce(&mut Encrypted) + Send + 'static) -> JoinHandle<()> {
        let (listener, config) = (self.listener.try_clone().unwrap(), Arc::clone(&self.config));
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
            serve(&mut stream);
        })
    }
}
