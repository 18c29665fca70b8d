//! Shards on loopback, clients that speak to them, and the other threads' part played by the test.

#![allow(clippy::disallowed_types, reason = "the test's own threads")]

use crate::close::Reason;
use crate::config::{Overflow, Settings};
use crate::conn::Policy;
use crate::drain::DrainTimes;
use crate::inbound::frame::FrameLimits;
use crate::inbound::listen::Bound;
use crate::inbound::proxy::Proxies;
use crate::inbound::tls::tests::Identity;
use crate::inbound::token::Verifier;
use crate::mail::{Answer, Ask, Asked, Delivery, Mail, RouteNote};
use crate::mailbox::{Mailboxes, pair};
use crate::metrics::{GatewayMetrics, ShardMetrics};
use crate::progress::Progress;
use crate::rate::{Allowed, Limits};
use crate::shard::{BELL, Beyond, Parts, Shard};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, unbounded};
use jsonwebtoken::crypto::sign;
use jsonwebtoken::{Algorithm, EncodingKey};
use mio::{Poll, Waker};
use proto::client::client_frame::Frame as Up;
use proto::client::event::Kind;
use proto::client::server_frame::Frame as Down;
use proto::client::{ClientFrame, Error, Event, Hello, Message as ChatMessage, ServerFrame};
use proto::link::response::Response;
use proto::{Message, Uuid};
use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::{Role, WebSocket};

const PATIENCE: Duration = Duration::from_secs(60);
/// RFC 8032 section 7.1, test 1.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// Came (true) or went, user, connection.
type Change = (bool, Uuid, u64);

struct Notebook {
    /// What the shard's thread has allocated, at each census.
    allocations: Sender<u64>,
    asks: Sender<Ask>,
    changes: Sender<Change>,
    routes: Sender<RouteNote>,
}

impl Beyond for Notebook {
    fn route(&self, note: RouteNote) -> bool {
        self.routes.send(note).is_ok()
    }

    fn ask(&self, ask: Ask) -> Result<(), Box<Ask>> {
        self.asks.send(ask).map_err(|refused| Box::new(refused.0))
    }

    fn connected(&self, user: Uuid, _: Uuid, connection: u64) {
        let _ = self.changes.send((true, user, connection));
    }

    fn disconnected(&self, user: Uuid, _: Uuid, connection: u64) {
        let _ = self.changes.send((false, user, connection));
    }

    fn census(&self, _: u16, _: Vec<(Uuid, Uuid, u64)>) {
        let _ = self.allocations.send(crate::allocations::of_this_thread());
    }
}

pub(super) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

pub(super) struct Gateway {
    pub(super) mailboxes: Mailboxes,
    pub(super) address: SocketAddr,
    /// Of the TLS listener.
    pub(super) tls_address: SocketAddr,
    pub(super) identity: Identity,
    metrics: GatewayMetrics,
    asks: Receiver<Ask>,
    changes: Receiver<Change>,
    /// Users who came and went, in a gateway that is routed to.
    pub(super) routes: Receiver<RouteNote>,
    allocations: Receiver<u64>,
    threads: Vec<JoinHandle<()>>,
}

pub(super) fn settings() -> Settings {
    Settings {
        instance: "gateway-test".into(),
        policy: Policy {
            frames: FrameLimits { message_bytes_max: 65_536, fragments_max: 256, inflates: false },
            origins: Vec::new(),
            proxies: Proxies::default(),
            deflate: false,
            echo: false,
        },
        limits: Arc::new(Limits::new(Allowed::default())),
        sessions_per_user_max: 0,
        tls_handshake_ms: 5_000,
        tls_handshakes_max: 100,
        sessions_max: 1_000,
        ring_entries: 256,
        ring_bytes_max: 1 << 20,
        partial_bytes_max: 1 << 26,
        backlog_bytes_max: 1 << 26,
        payload_bytes_max: 1 << 28,
        handshake_ms: 5_000,
        body_ms: 5_000,
        // Longer than a drain: what is not answered is dropped by that.
        answer_ms: 60_000,
        keep_alive_ms: 5_000,
        hello_ms: 5_000,
        ping_ms: 54_000,
        pong_ms: 60_000,
        events_ms: 15_000,
        write_ms: 10_000,
        drain_ms: 5_000,
        drain: DrainTimes::of(7_200),
        overflow: Overflow::Close,
        recent_bytes_max: 1 << 20,
        is_routed: false,
    }
}

impl Gateway {
    pub(super) fn start(shards: usize, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let settings = Arc::new(settings);
        let (polls, boxes): (Vec<_>, Vec<_>) = (0..shards)
            .map(|_| {
                let poll = Poll::new().unwrap();
                let (mailbox, inbox) =
                    pair(1_024, Some(Waker::new(poll.registry(), BELL).unwrap()));
                ((poll, inbox), mailbox)
            })
            .unzip();
        let mailboxes = Mailboxes::new(boxes);
        let metrics = GatewayMetrics::register(shards, &daemon::Metrics::new("gateway"));
        let (ask_sender, asks) = unbounded();
        let (change_sender, changes) = unbounded();
        let (route_sender, routes) = unbounded();
        // Bounded, so that sending allocates nothing.
        let (allocation_sender, allocations) = crossbeam_channel::bounded(16);
        let start = |(id, (poll, inbox)): (u16, _)| {
            let parts = Parts {
                id,
                poll,
                inbox,
                settings: Arc::clone(&settings),
                mailboxes: mailboxes.clone(),
                progress: Arc::new(Progress::new(1, shards)),
                metrics: metrics.clone(),
                beyond: Box::new(Notebook {
                    allocations: allocation_sender.clone(),
                    asks: ask_sender.clone(),
                    changes: change_sender.clone(),
                    routes: route_sender.clone(),
                }),
            };
            std::thread::Builder::new().spawn(move || Shard::new(parts).run()).unwrap()
        };
        let threads = (0..).zip(polls).map(start).collect();
        let any = ["127.0.0.1:0".to_owned()];
        let bound = Bound::new(&any, &any, shards).unwrap();
        bound.limit_unsent(16 * 1024).unwrap();
        let (address, tls_address) = (bound.addresses[0].1, bound.addresses[1].1);
        let identity = Identity::new();
        let verifier = Arc::new(verifier());
        for (mailbox, listeners) in mailboxes.iter().zip(bound.listen().unwrap()) {
            mailbox.send(Mail::Keys(Arc::clone(&verifier))).unwrap();
            mailbox.send(Mail::Certificate(identity.config())).unwrap();
            mailbox.send(Mail::Listen(listeners)).unwrap();
        }
        Self {
            mailboxes,
            address,
            tls_address,
            identity,
            metrics,
            asks,
            changes,
            routes,
            allocations,
            threads,
        }
    }

    /// Encrypted, and shaken hands.
    pub(super) fn tls_stream(
        &self,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> TlsStream {
        let stream = narrow(self.tls_address);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = StreamOwned::new(self.identity.client(&[version]), stream);
        stream.conn.complete_io(&mut stream.sock).unwrap();
        stream
    }

    pub(super) fn stream(&self) -> TcpStream {
        let stream = narrow(self.address);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A token that expires so many seconds from now.
    pub(super) fn token(&self, user: Uuid, expires_in_s: i64) -> String {
        let now_s = daemon::clock::now_us() / 1_000_000;
        token_at(user, now_s.saturating_add_signed(expires_in_s))
    }

    pub(super) fn hello(&self, user: Uuid) -> Hello {
        Hello { token: self.token(user, 600), ..Hello::default() }
    }

    pub(super) fn delivery(&self, recipients: Vec<Uuid>, event: Event) -> Delivery {
        Delivery { created_at_us: daemon::clock::now_us(), ..delivery(recipients, event) }
    }

    pub(super) fn deliver(&self, user: Uuid, event: Event) {
        let home = self.mailboxes.get(self.mailboxes.home(&user));
        home.send(Mail::Deliver(self.delivery(vec![user], event))).unwrap();
    }

    pub(super) fn next_ask(&self) -> Ask {
        self.asks.recv_timeout(PATIENCE).unwrap()
    }

    pub(super) fn no_ask(&self) -> bool {
        self.asks.is_empty()
    }

    pub(super) fn next_change(&self) -> Change {
        self.changes.recv_timeout(PATIENCE).unwrap()
    }

    pub(super) fn answer(&self, ask: &Ask, asked: Asked, outcome: Result<Response, Error>) {
        let (session, request_id) = (ask.session, ask.request_id);
        let answer = Answer { session, request_id, asked, outcome };
        self.mailboxes.get(session.shard).send(Mail::Answer(answer)).unwrap();
    }

    pub(super) fn closes(&self, reason: Reason) -> u64 {
        (0..self.mailboxes.len())
            .map(|shard| self.metrics.shard(shard.try_into().unwrap()).closes[reason.index()].get())
            .sum()
    }

    pub(super) fn counts(&self, shard: u16) -> Arc<ShardMetrics> {
        self.metrics.shard(shard)
    }

    /// What shard 0 has allocated by now.
    pub(super) fn allocations(&self) -> u64 {
        self.mailboxes.get(0).send(Mail::Census).unwrap();
        self.allocations.recv_timeout(PATIENCE).unwrap()
    }

    /// Sessions that were closed because their ring was full.
    pub(super) fn overflows(&self) -> u64 {
        let shards = 0..u16::try_from(self.mailboxes.len()).unwrap();
        shards.map(|shard| self.metrics.shard(shard).events_overflowed.get()).sum()
    }

    pub(super) fn connections(&self) -> u64 {
        self.metrics.connections()
    }

    pub(super) fn drain(&self) {
        for mailbox in self.mailboxes.iter() {
            mailbox.send(Mail::Drain).unwrap();
        }
    }

    /// Every shard ends and has given everything back.
    pub(super) fn stop(self) {
        self.drain();
        for mailbox in self.mailboxes.iter() {
            mailbox.send(Mail::Stop).unwrap();
        }
        for thread in self.threads {
            thread.join().unwrap();
        }
        for shard in 0..self.mailboxes.len() {
            let counts = self.metrics.shard(shard.try_into().unwrap());
            assert_eq!(counts.send_queue_depth.get(), 0);
            assert_eq!(counts.rings_borrowed.get(), 0);
            // The ping's own.
            assert_eq!(counts.payloads_live.get(), 1);
            assert_eq!(counts.tls_handshakes.get(), 0);
        }
    }
}

/// Of an event that was made at no time.
pub(super) fn delivery(recipients: Vec<Uuid>, event: Event) -> Delivery {
    Delivery {
        recipients: crate::mail::Recipients::Own(recipients.into()),
        conversation: Uuid::from_slice(&event.conversation_id).unwrap(),
        sequence_number: event.sequence_number,
        priority: crate::mail::Priority::Normal,
        lane: crate::metrics::Lane::NONE,
        partition: 0,
        offset: i64::try_from(event.sequence_number).unwrap(),
        membership: false,
        created_at_us: 0,
        frame: frame_bytes(event),
    }
}

/// A token that expires at that time.
pub(super) fn token_at(user: Uuid, expires_at_s: u64) -> String {
    let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k"});
    let claims = json!({"iss": "realchat", "aud": "realchat", "sub": user.to_string(),
        "did": user.to_string(), "iat": expires_at_s - 1_000, "exp": expires_at_s, "jti": "1"});
    signed(&header, &claims)
}

/// A token with the right signature, whatever it says.
pub(super) fn signed(header: &Value, claims: &Value) -> String {
    let encode = |it: &Value| URL_SAFE_NO_PAD.encode(it.to_string());
    let message = format!("{}.{}", encode(header), encode(claims));
    let der = [unhex("302e020100300506032b657004220420"), unhex(SEED)].concat();
    let key = EncodingKey::from_ed_der(&der);
    format!("{message}.{}", sign(message.as_bytes(), &key, Algorithm::EdDSA).unwrap())
}

/// Signed with what everybody knows, the public key, as if it were a secret.
pub(super) fn hmac_confused(claims: &Value) -> String {
    let header = json!({"alg": "HS256", "typ": "at+jwt", "kid": "k"});
    let encode = |it: &Value| URL_SAFE_NO_PAD.encode(it.to_string());
    let message = format!("{}.{}", encode(&header), encode(claims));
    let key = EncodingKey::from_secret(&unhex(PUBLIC));
    format!("{message}.{}", sign(message.as_bytes(), &key, Algorithm::HS256).unwrap())
}

pub(super) fn verifier() -> Verifier {
    let x = URL_SAFE_NO_PAD.encode(unhex(PUBLIC));
    let key =
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": "k", "x": x});
    Verifier::from_jwks(&json!({"keys": [key]}).to_string(), "realchat", "realchat").unwrap()
}

/// Connects with a receive buffer that does not grow: where the kernel lets it grow to many megabytes,
/// nobody is ever slow.
pub(super) fn narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.into()
}

/// A client by tungstenite, as an independent implementation.
pub(super) struct Client<S = TcpStream> {
    pub(super) socket: WebSocket<S>,
    binary: bool,
    /// Pings that came, which are answered while reading goes on.
    pub(super) pings: usize,
}

impl Client {
    pub(super) fn connect(gateway: &Gateway, binary: bool) -> Self {
        Self::over(gateway.stream(), binary)
    }

    pub(super) fn greeted(gateway: &Gateway, user: Uuid, binary: bool) -> Self {
        let mut client = Self::connect(gateway, binary);
        client.greet(gateway, user);
        client
    }
}

impl<S: Read + Write> Client<S> {
    /// Of a connection that was upgraded to JSON already.
    pub(super) fn upgraded(stream: S) -> Self {
        let socket = WebSocket::from_raw_socket(stream, Role::Client, None);
        Self { socket, binary: false, pings: 0 }
    }

    pub(super) fn over(stream: S, binary: bool) -> Self {
        let mut request = "ws://localhost/v1/connect".into_client_request().unwrap();
        let protocol = if binary { proto::SUBPROTOCOL_PROTO } else { proto::SUBPROTOCOL_JSON };
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        let (socket, _) = tungstenite::client(request, stream).unwrap();
        Self { socket, binary, pings: 0 }
    }

    pub(super) fn greet(&mut self, gateway: &Gateway, user: Uuid) {
        let client = self;
        client.send(1, Up::Hello(gateway.hello(user)));
        let (1, Down::Welcome(welcome)) = client.next() else { panic!("a welcome is awaited") };
        assert_eq!(welcome.user_id, user.as_bytes());
    }

    pub(super) fn send(&mut self, request_id: u64, frame: Up) {
        let frame = ClientFrame { request_id, frame: Some(frame) };
        let message = if self.binary {
            tungstenite::Message::binary(frame.encode_to_vec())
        } else {
            tungstenite::Message::text(serde_json::to_string(&frame).unwrap())
        };
        self.socket.send(message).unwrap();
    }

    pub(super) fn next(&mut self) -> (u64, Down) {
        loop {
            let frame: ServerFrame = match self.socket.read().unwrap() {
                tungstenite::Message::Binary(bytes) => ServerFrame::decode(bytes).unwrap(),
                tungstenite::Message::Text(text) => serde_json::from_str(&text).unwrap(),
                tungstenite::Message::Ping(_) => {
                    self.pings += 1;
                    continue;
                }
                other => panic!("{other:?} came"),
            };
            return (frame.request_id, frame.frame.unwrap());
        }
    }

    /// The next event's; watermarks come when they come.
    pub(super) fn next_sequence_number(&mut self) -> u64 {
        loop {
            match self.next() {
                (0, Down::Event(event)) => return event.sequence_number,
                (0, Down::Watermark(_)) => {}
                other => panic!("an event is awaited, {other:?} came"),
            }
        }
    }

    /// Reads on to the close frame.
    pub(super) fn close_code(&mut self) -> Option<u16> {
        loop {
            match self.socket.read() {
                Ok(tungstenite::Message::Close(frame)) => return frame.map(|it| it.code.into()),
                Ok(_) => {}
                Err(error) => panic!("no close frame: {error}"),
            }
        }
    }

    pub(super) fn close(&mut self) {
        self.socket.close(None).unwrap();
        while self.socket.read().is_ok() {}
    }
}

pub(super) fn event(conversation: Uuid, sequence_number: u64) -> Event {
    Event {
        conversation_id: conversation.as_bytes().to_vec(),
        sequence_number,
        kind: Some(Kind::Message(ChatMessage::default())),
        ..Event::default()
    }
}

pub(super) fn big_event(bytes: usize) -> Event {
    let message = ChatMessage { text: "x".repeat(bytes), ..ChatMessage::default() };
    Event { kind: Some(Kind::Message(message)), ..event(Uuid::from_u128(7), 1) }
}

pub(super) fn frame_bytes(event: Event) -> Bytes {
    ServerFrame { request_id: 0, frame: Some(Down::Event(event)) }.encode_to_vec().into()
}

pub(super) fn upgrade_request(more: &str) -> String {
    format!(
        "GET /v1/connect HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

pub(super) fn read_bytes(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

pub(super) fn read_to_end(stream: &mut TcpStream) -> String {
    String::from_utf8(read_bytes(stream)).unwrap()
}
