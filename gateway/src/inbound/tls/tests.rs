use super::*;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::collections::VecDeque;
use std::path::PathBuf;

/// A folder of the test's own with a certificate for `localhost`, signed by itself.
pub(crate) struct Identity {
    pub(crate) folder: PathBuf,
    pub(crate) files: Files,
    pub(crate) certificate: CertificateDer<'static>,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("realchat-tls-{}", proto::id::new()));
        std::fs::create_dir_all(&folder).unwrap();
        let files = Files { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
        let mut identity = Self { folder, files, certificate: Vec::new().into() };
        identity.renew();
        identity
    }

    /// Another certificate and key in the same files.
    pub(crate) fn renew(&mut self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&self.files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&self.files.key, made.signing_key.serialize_pem()).unwrap();
        self.certificate = made.cert.der().clone();
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        read_config(&self.files).unwrap()
    }

    /// A client that trusts this certificate and speaks these versions.
    pub(crate) fn client(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        ClientConnection::new(Arc::new(config), name).unwrap()
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// One direction of a pretended socket, which takes and gives so many bytes at once.
struct Pipe {
    bytes: VecDeque<u8>,
    piece: usize,
    room: usize,
}

impl Read for Pipe {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.piece.min(out.len()).min(self.bytes.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for (place, byte) in out.iter_mut().zip(self.bytes.drain(..count)) {
            *place = byte;
        }
        Ok(count)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.piece.min(bytes.len()).min(self.room - self.bytes.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.bytes.extend(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Pair {
    client: ClientConnection,
    server: Tls,
    room: Room,
    up: Pipe,
    down: Pipe,
    /// Plain text that the server got.
    got: Vec<u8>,
    last: Option<Came>,
}

impl Pair {
    fn new(
        identity: &Identity,
        versions: &[&'static rustls::SupportedProtocolVersion],
        piece: usize,
    ) -> Self {
        let pipe = || Pipe { bytes: VecDeque::new(), piece, room: 10_000 };
        Self {
            client: identity.client(versions),
            server: Tls::new(identity.config()).unwrap(),
            room: Room::default(),
            up: pipe(),
            down: pipe(),
            got: Vec::new(),
            last: None,
        }
    }

    /// Lets everything flow until nothing moves.
    fn settle(&mut self) {
        let mut plain = vec![0; READ_BYTES];
        let mut quiet = 0;
        while quiet < 3 {
            quiet += 1;
            while self.client.wants_write() && self.client.write_tls(&mut self.up).is_ok() {
                quiet = 0;
            }
            match self.server.read(&mut self.up, &mut self.room, &mut plain) {
                Ok(came) => {
                    quiet = 0;
                    if let Came::Plain(n) | Came::Emptied(n) | Came::Last(n) = &came {
                        self.got.extend_from_slice(&plain[..*n]);
                    }
                    self.last = Some(came);
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            self.server.flush(&mut self.down, &mut self.room).unwrap();
            while self.client.read_tls(&mut self.down).is_ok_and(|count| count > 0) {
                quiet = 0;
                self.client.process_new_packets().unwrap();
            }
        }
    }
}

#[test]
fn both_versions_carry_bytes_both_ways_however_the_pieces_are_cut() {
    let identity = Identity::new();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for piece in [1, 7, 1_000, 100_000] {
            let mut pair = Pair::new(&identity, &[version], piece);
            assert!(pair.server.is_handshaking());
            pair.settle();
            assert!(!pair.server.is_handshaking() && !pair.client.is_handshaking());
            assert_eq!(pair.client.alpn_protocol(), Some(&b"http/1.1"[..]));
            let sent: Vec<u8> = (0..30_000_u32).flat_map(u32::to_le_bytes).collect();
            pair.client.writer().write_all(&sent[..20_000]).unwrap();
            pair.settle();
            assert_eq!(pair.got, sent[..20_000]);
            let (mut offset, mut read) = (0, Vec::new());
            while read.len() < sent.len() {
                if offset < sent.len() && !pair.server.has_unsent() {
                    let (one, two) = sent[offset..].split_at((sent.len() - offset) / 3);
                    let slices = [IoSlice::new(one), IoSlice::new(&[]), IoSlice::new(two)];
                    offset += pair.server.write(&mut pair.down, &slices, &mut pair.room).unwrap();
                }
                pair.settle();
                let mut some = [0; 4_096];
                while let Ok(count) = pair.client.reader().read(&mut some) {
                    read.extend_from_slice(&some[..count]);
                }
            }
            assert!(read == sent && !pair.server.has_unsent());
            // Idle: nothing but keys is held.
            assert_eq!((pair.server.partial.capacity(), pair.server.unsent.capacity()), (0, 0));
        }
    }
}

#[test]
fn the_end_is_told_in_both_directions() {
    let identity = Identity::new();
    let mut pair = Pair::new(&identity, &[&rustls::version::TLS13], 500);
    pair.settle();
    pair.client.writer().write_all(b"bye").unwrap();
    pair.client.send_close_notify();
    pair.settle();
    assert!(matches!(pair.last, Some(Came::Last(_))), "{:?}", pair.last);
    assert_eq!(pair.got, b"bye");
    pair.server.say_goodbye();
    pair.settle();
    let mut rest = Vec::new();
    assert_eq!(pair.client.reader().read_to_end(&mut rest).unwrap(), 0);
}

#[test]
fn what_is_no_tls_fails_with_an_alert() {
    let identity = Identity::new();
    let mut pair = Pair::new(&identity, &[&rustls::version::TLS13], 500);
    pair.up.bytes.extend(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut plain = vec![0; READ_BYTES];
    let came = pair.server.read(&mut pair.up, &mut pair.room, &mut plain).unwrap();
    assert!(matches!(came, Came::Failed(_)), "{came:?}");
    assert!(pair.server.has_unsent());
    pair.server.flush(&mut pair.down, &mut pair.room).unwrap();
    assert_eq!(pair.down.bytes[0], 21, "the record is an alert");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let identity = Identity::new();
    let other = Identity::new();
    let error = |files: &Files| read_config(files).unwrap_err();
    let mut files = identity.files.clone();
    files.key = other.files.key.clone();
    assert!(error(&files).contains("does not belong to tls.certificate"), "{}", error(&files));
    files.key = identity.folder.join("none.pem");
    assert!(error(&files).contains("none.pem: "), "{}", error(&files));
    files.key = identity.files.certificate.clone();
    assert!(error(&files).contains("no PEM private key"), "{}", error(&files));
    files.certificate = identity.files.key.clone();
    assert!(error(&files).contains("no PEM certificate"), "{}", error(&files));
}

#[test]
fn a_handshake_message_waits_for_its_rest_up_to_the_limit() {
    // A hello that says it is longer than what may wait, in records of 16 KiB.
    let hello = |bytes: usize| {
        let message = [&[1, 0, 0xee, 0x00], vec![0; bytes].as_slice()].concat();
        let mut stream = Vec::new();
        for piece in message.chunks(RECORD_BYTES) {
            stream.extend([22, 3, 1]);
            stream.extend(u16::try_from(piece.len()).unwrap().to_be_bytes());
            stream.extend(piece);
        }
        stream
    };
    let identity = Identity::new();
    let came = |bytes: usize| {
        let mut pair = Pair::new(&identity, &[&rustls::version::TLS13], READ_BYTES);
        pair.up.bytes.extend(&hello(READ_BYTES / 2)[..bytes]);
        let mut plain = vec![0; READ_BYTES];
        pair.server.read(&mut pair.up, &mut pair.room, &mut plain)
    };
    assert!(!matches!(came(TLS_PARTIAL_BYTES_MAX), Ok(Came::Failed(_))));
    let Ok(Came::Failed(error)) = came(TLS_PARTIAL_BYTES_MAX + 1) else { panic!("it waits") };
    assert!(error.to_string().contains("too long"), "{error}");
}
