//! Both ends together, on real sockets.

use super::{Client, ClientSettings, Handler, Incoming, LinkError, Reply, ServerSettings, serve};
use crossbeam_channel::{Receiver, unbounded};
use proto::client::{Accepted, Sent};
use proto::link::{Send, request, response};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SECRET: &str = "a secret of enough bytes";
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers sends with their key's length; keeps the reply of the key `hold`; drops that of `drop`.
#[derive(Default)]
struct Echo {
    held: Mutex<Vec<Reply>>,
}

impl Handler for Echo {
    fn handle(&self, incoming: Incoming, reply: Reply) {
        let request::Request::Send(send) = incoming.request else {
            return reply.send(response::Response::Accepted(Accepted {}));
        };
        match send.send.unwrap().idempotency_key.as_str() {
            "hold" => self.held.lock().unwrap().push(reply),
            "drop" => drop(reply),
            key => {
                let sent = Sent { sequence_number: key.len() as u64, ..Default::default() };
                reply.send(response::Response::Sent(sent));
            }
        }
    }
}

type Answer = (u32, Result<response::Response, LinkError>);

fn server(address: &str) -> String {
    let settings =
        ServerSettings { address: address.into(), secret: SECRET.into(), instance: "chatd".into() };
    serve(settings, Arc::new(Echo::default())).unwrap().address().to_owned()
}

fn client(address: &str, secret: &str) -> (Client<u32>, Receiver<Answer>) {
    let (answers, received) = unbounded();
    let settings = ClientSettings {
        address: address.into(),
        secret: secret.into(),
        instance: "gateway-1".into(),
        in_flight_max: 1000,
    };
    let on_answer = move |context, outcome| answers.send((context, outcome)).unwrap();
    (Client::start(settings, on_answer, |_| {}).unwrap(), received)
}

fn send(key: &str) -> request::Request {
    let send = proto::client::Send { idempotency_key: key.into(), ..Default::default() };
    request::Request::Send(Send { send: Some(send), ..Default::default() })
}

fn wait_connected(client: &Client<u32>) {
    let start = Instant::now();
    while !client.is_connected() {
        assert!(start.elapsed() < PATIENCE, "the link did not connect");
        std::thread::yield_now();
    }
}

#[test]
fn pipelined_requests_are_answered_with_their_contexts() {
    let unix = std::env::temp_dir().join(format!("realchat-link-{}", proto::id::new()));
    for address in ["127.0.0.1:0".to_owned(), format!("unix:{}", unix.display())] {
        let (client, received) = client(&server(&address), SECRET);
        wait_connected(&client);
        for context in 0..1000 {
            let key = "k".repeat(context as usize % 7);
            client.submit(send(&key), String::new(), PATIENCE, context).unwrap();
        }
        for _ in 0..1000 {
            let (context, outcome) = received.recv_timeout(PATIENCE).unwrap();
            let Ok(response::Response::Sent(sent)) = outcome else { panic!("{outcome:?}") };
            assert_eq!(sent.sequence_number, u64::from(context) % 7);
        }
    }
    std::fs::remove_file(unix).unwrap();
}

#[test]
fn a_dropped_reply_is_an_error_and_a_late_one_misses_its_deadline() {
    let (client, received) = client(&server("127.0.0.1:0"), SECRET);
    wait_connected(&client);
    client.submit(send("drop"), String::new(), PATIENCE, 1).unwrap();
    let (_, outcome) = received.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(outcome, Ok(response::Response::Error(error)) if error.code == "internal"));
    client.submit(send("hold"), String::new(), Duration::from_millis(50), 2).unwrap();
    assert_eq!(received.recv_timeout(PATIENCE).unwrap(), (2, Err(LinkError::Deadline)));
}

#[test]
fn one_request_past_the_limit_is_refused_and_comes_back() {
    let (client, _received) = client(&server("127.0.0.1:0"), SECRET);
    wait_connected(&client);
    for context in 0..1000 {
        client.submit(send("hold"), String::new(), PATIENCE, context).unwrap();
    }
    let refused = client.submit(send("hold"), String::new(), PATIENCE, 1000);
    assert_eq!(refused, Err((1000, LinkError::Full)));
}

#[test]
fn a_wrong_secret_never_connects_and_garbage_harms_nobody() {
    let address = server("127.0.0.1:0");
    let (wrong, _) = client(&address, "another secret altogether");
    for round in 0..200_u32 {
        let mut stream = TcpStream::connect(&address).unwrap();
        let garbage: Vec<u8> = (0..round).map(|_| fastrand::u8(..)).collect();
        stream.write_all(&garbage).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // The challenge, then the end.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(!wrong.is_connected());
    let refused = wrong.submit(send("k"), String::new(), PATIENCE, 1);
    assert_eq!(refused, Err((1, LinkError::Disconnected)));
    let (client, received) = client(&address, SECRET);
    wait_connected(&client);
    client.submit(send("four"), String::new(), PATIENCE, 1).unwrap();
    assert!(received.recv_timeout(PATIENCE).unwrap().1.is_ok());
}
