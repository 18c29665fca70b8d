//! An HTTP server that takes deliveries as a push service would.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// One POST, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) path: String,
    pub(crate) batch_id: String,
    pub(crate) signature: String,
    pub(crate) body: String,
}

impl Delivery {
    pub(crate) fn requests(&self) -> Vec<Value> {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        body["requests"].as_array().unwrap().clone()
    }
}

/// What is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reply {
    Status(u16),
    /// To the receiver itself, at another path.
    Redirect,
    /// The connection stays open, and nothing comes.
    Never,
}

type Decide = Box<dyn FnMut(&Delivery) -> Reply + Send>;

pub(crate) struct Receiver {
    address: SocketAddr,
    deliveries: Arc<Mutex<Vec<Delivery>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    pub(crate) fn start(decide: impl FnMut(&Delivery) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (deliveries, stop) = (Arc::<Mutex<Vec<Delivery>>>::default(), Arc::default());
        let mut server = Server {
            deliveries: Arc::clone(&deliveries),
            decide: Box::new(decide),
            unanswered: Vec::new(),
        };
        let stopping: Arc<AtomicBool> = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::Acquire) {
                    return;
                }
                server.serve(stream.unwrap());
            }
        });
        Self { address, deliveries, stop, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/deliveries", self.address)
    }

    /// All that came, in order.
    pub(crate) fn deliveries(&self) -> Vec<Delivery> {
        self.deliveries.lock().unwrap().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // So that it looks.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Server {
    deliveries: Arc<Mutex<Vec<Delivery>>>,
    decide: Decide,
    unanswered: Vec<TcpStream>,
}

impl Server {
    /// One request a connection.
    fn serve(&mut self, stream: TcpStream) {
        let Some(delivery) = read(&stream) else { return };
        let reply = (self.decide)(&delivery);
        self.deliveries.lock().unwrap().push(delivery);
        let mut stream = stream;
        let status = match reply {
            Reply::Never => return self.unanswered.push(stream),
            Reply::Status(status) => format!("{status} Whatever\r\n"),
            Reply::Redirect => "302 Found\r\nLocation: /elsewhere\r\n".to_owned(),
        };
        let rest = "Content-Length: 0\r\nConnection: close\r\n\r\n";
        let _ = write!(stream, "HTTP/1.1 {status}{rest}");
    }
}

fn read(stream: &TcpStream) -> Option<Delivery> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut batch_id, mut signature, mut length) = (String::new(), String::new(), 0);
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "x-realchat-batch-id" => value.clone_into(&mut batch_id),
            "x-realchat-signature" => value.clone_into(&mut signature),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Delivery { path, batch_id, signature, body: String::from_utf8(body).ok()? })
}
