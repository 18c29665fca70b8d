//! The floor: what writing the bytes costs without anything else. A process of its own with one
//! epoll loop, which takes records from a pipe and writes each, framed, to every socket of its
//! conversation: one write for each socket that has something, each time the loop wakes up.
//!
//! A record in the pipe is `conversation: u32, length: u32, bytes`, big-endian. A socket says in
//! its upgrade's path which conversation it belongs to.

use crate::failure::{Context, Failure, Outcome};
use crate::limits::READ_BYTES;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use proto::Message;
use proto::client::{ServerFrame, Welcome, server_frame};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, ChildStdin, Command, Stdio};
use tungstenite::protocol::frame::FrameHeader;

const FEED: Token = Token(usize::MAX - 1);
const LISTENER: Token = Token(usize::MAX - 2);
const RECORD_HEAD_BYTES: usize = 8;

/// A running floor, as its parent sees it.
pub(super) struct Floor {
    pub(super) address: SocketAddr,
    pub(super) feed: ChildStdin,
    pub(super) child: Running,
}

/// Ends with its owner.
pub(super) struct Running(Child);

impl Floor {
    pub(super) fn start() -> Outcome<Self> {
        let own = std::env::current_exe().doing("the path of this program")?;
        let mut child = Command::new(own)
            .arg("floor")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .doing("the floor")?;
        let (Some(feed), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::Refused("the floor has no pipes".into()));
        };
        let child = Running(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).doing("the floor's address")?;
        let address = line.trim().parse().doing("the floor's address")?;
        Ok(Self { address, feed, child })
    }
}

impl Running {
    pub(super) fn pid(&self) -> Outcome<i32> {
        i32::try_from(self.0.id()).doing("the floor's process id")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Socket {
    stream: TcpStream,
    conversation: Option<u32>,
    greeted: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    dirty: bool,
}

struct Loop {
    poll: Poll,
    listener: TcpListener,
    sockets: Vec<Option<Socket>>,
    members: HashMap<u32, Vec<usize>>,
    dirty: Vec<usize>,
    feed: Vec<u8>,
    chunk: Vec<u8>,
}

/// The floor itself; runs until its feed ends.
pub(crate) fn serve() -> Outcome {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).doing("a listener")?;
    let address = listener.local_addr().doing("a listener")?;
    writeln!(io::stdout(), "{address}").doing("standard output")?;
    let feed = io::stdin().as_fd().try_clone_to_owned().doing("the feed")?;
    serve_on(listener, File::from(feed))
}

fn serve_on(listener: TcpListener, mut input: File) -> Outcome {
    let mut floor = Loop {
        poll: Poll::new().doing("epoll")?,
        listener,
        sockets: Vec::new(),
        members: HashMap::new(),
        dirty: Vec::new(),
        feed: Vec::new(),
        chunk: vec![0; READ_BYTES],
    };
    let feed = input.as_raw_fd();
    // SAFETY: the descriptor is open for as long as `input` lives.
    unsafe { libc::fcntl(feed, libc::F_SETFL, libc::O_NONBLOCK) };
    let registry = floor.poll.registry();
    registry.register(&mut SourceFd(&feed), FEED, Interest::READABLE).doing("epoll")?;
    registry.register(&mut floor.listener, LISTENER, Interest::READABLE).doing("epoll")?;
    let mut events = Events::with_capacity(1_024);
    loop {
        if let Err(error) = floor.poll.poll(&mut events, None)
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(error).doing("epoll");
        }
        for event in &events {
            match event.token() {
                LISTENER => floor.accept().doing("accept")?,
                FEED if floor.take_feed(&mut input).doing("the feed")? => {}
                FEED => return Ok(()),
                Token(index) => floor.serve(index, event.is_readable()),
            }
        }
        floor.flush();
    }
}

impl Loop {
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(self.sockets.len()), interest)?;
            self.sockets.push(Some(Socket {
                stream,
                conversation: None,
                greeted: false,
                input: Vec::new(),
                output: Vec::new(),
                written: 0,
                dirty: false,
            }));
        }
    }

    /// Reads records until the pipe is empty; false when it ended.
    fn take_feed(&mut self, input: &mut File) -> io::Result<bool> {
        let mut open = true;
        let mut feed = std::mem::take(&mut self.feed);
        loop {
            match input.read(&mut self.chunk) {
                Ok(0) => open = false,
                Ok(count) => {
                    feed.extend_from_slice(&self.chunk[..count]);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            break;
        }
        let mut start = 0;
        while let Some((conversation, payload)) = record(&feed[start..]) {
            start += RECORD_HEAD_BYTES + payload.len();
            self.enqueue(conversation, payload);
        }
        feed.drain(..start);
        self.feed = feed;
        Ok(open)
    }

    fn enqueue(&mut self, conversation: u32, payload: &[u8]) {
        let mut frame = Vec::with_capacity(payload.len() + 4);
        append(payload, &mut frame);
        for index in self.members.get(&conversation).into_iter().flatten() {
            let Some(Some(socket)) = self.sockets.get_mut(*index) else { continue };
            socket.output.extend_from_slice(&frame);
            if !socket.dirty {
                socket.dirty = true;
                self.dirty.push(*index);
            }
        }
    }

    fn flush(&mut self) {
        for index in std::mem::take(&mut self.dirty) {
            if let Some(slot) = self.sockets.get_mut(index)
                && let Some(socket) = slot
            {
                socket.dirty = false;
                if socket.flush().is_err() {
                    *slot = None;
                }
            }
        }
    }

    fn serve(&mut self, index: usize, readable: bool) {
        let Some(slot) = self.sockets.get_mut(index) else { return };
        let Some(socket) = slot else { return };
        let mut outcome = socket.flush();
        if readable && outcome.is_ok() {
            outcome = socket.read(&mut self.chunk);
            if let (None, Some(conversation)) = (socket.conversation, socket.upgrade()) {
                self.members.entry(conversation).or_default().push(index);
            }
        }
        if outcome.is_err() {
            *slot = None;
        }
    }
}

impl Socket {
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<()> {
        loop {
            match self.stream.read(chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if self.greeted => {}
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // After the upgrade the first bytes are the hello.
        if self.conversation.is_some() && !self.greeted && !self.input.is_empty() {
            self.greeted = true;
            self.input = Vec::new();
            let frame = Some(server_frame::Frame::Welcome(Welcome::default()));
            append(&ServerFrame { request_id: 1, frame }.encode_to_vec(), &mut self.output);
            return self.flush();
        }
        Ok(())
    }

    /// Answers a whole upgrade; gives back the conversation that its path names.
    fn upgrade(&mut self) -> Option<u32> {
        let end = self.input.windows(4).position(|it| it == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
        self.input.drain(..end + 4);
        let path = head.split(' ').nth(1)?;
        let conversation = path.trim_start_matches('/').parse().ok()?;
        self.conversation = Some(conversation);
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                      Connection: Upgrade\r\n\r\n";
        self.output.extend_from_slice(answer.as_bytes());
        self.flush().ok()?;
        Some(conversation)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.written = 0;
        self.output.clear();
        Ok(())
    }
}

/// Appends an unmasked binary frame.
fn append(payload: &[u8], out: &mut Vec<u8>) {
    let header = FrameHeader { opcode: crate::load::codec::BINARY, ..FrameHeader::default() };
    // Writing to a Vec cannot fail.
    let _ = header.format(payload.len() as u64, out);
    out.extend_from_slice(payload);
}

/// The first record of a feed, if it is whole.
fn record(feed: &[u8]) -> Option<(u32, &[u8])> {
    let (conversation, rest) = feed.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    Some((u32::from_be_bytes(*conversation), rest.get(..length)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Driver, Handler, Spec};
    use std::os::fd::OwnedFd;

    const SESSIONS: usize = 30;
    const CONVERSATIONS: usize = 3;
    const RECORDS: u32 = 300;

    struct Seen(Vec<Vec<Vec<u8>>>);

    impl Handler for Seen {
        fn frame(&mut self, session: usize, payload: &[u8]) {
            self.0[session].push(payload.to_vec());
        }

        fn closed(&mut self, session: usize, code: u16) {
            panic!("session {session} was closed with {code}");
        }
    }

    #[test]
    fn every_socket_gets_its_conversations_records_in_order() {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let (reader, mut feed) = io::pipe().unwrap();
        let floor = std::thread::spawn(|| serve_on(listener, OwnedFd::from(reader).into()));
        let spec = |session: usize| Spec {
            address,
            source: None,
            tls: None,
            path: format!("/{}", session % CONVERSATIONS),
            token: String::new(),
            hello: crate::load::live(),
            pace: crate::load::Pace::Full,
        };
        let mut seen = Seen(vec![Vec::new(); SESSIONS]);
        let mut driver = Driver::new().unwrap();
        driver.open_all((0..SESSIONS).map(spec).collect(), &mut seen).unwrap();
        for record in 0..RECORDS {
            let payload = vec![record.to_be_bytes()[3]; 500];
            feed.write_all(&(record % 3).to_be_bytes()).unwrap();
            feed.write_all(&500_u32.to_be_bytes()).unwrap();
            feed.write_all(&payload).unwrap();
        }
        let until_us = crate::clock::now_us() + 10_000_000;
        let all = |it: &Seen| it.0.iter().all(|frames| frames.len() == RECORDS as usize / 3);
        driver.run_until(until_us, &mut seen, all).unwrap();
        for (session, frames) in seen.0.iter().enumerate() {
            let records: Vec<u8> = frames.iter().map(|frame| frame[0]).collect();
            let first = u32::try_from(session % CONVERSATIONS).unwrap();
            let expected: Vec<u8> =
                (first..RECORDS).step_by(3).map(|record| record.to_be_bytes()[3]).collect();
            assert_eq!(records, expected);
        }
        drop(feed);
        floor.join().unwrap().unwrap();
    }
}
