//! The writing half of a connection. A thread of its own writes what is queued, many frames in one system
//! call. Where nothing else is under way there is nothing to gather: whoever has the frame writes it
//! itself, if the socket takes it without waiting, and spares a change of threads.

use super::stream::Stream;
use proto::{Message, framing};
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError, TryLockError};

pub(super) struct WriteHalf(Mutex<Half>);

struct Half {
    stream: Stream,
    /// Of a frame that the socket took a part of; goes before everything else.
    rest: Vec<u8>,
}

/// What became of a frame that was to be written at once.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    Whole,
    /// The writing thread must be woken, to write the rest.
    InPart,
    /// Nothing of it: it must be queued. Whatever is wrong, the writing thread will meet it.
    Not,
}

impl WriteHalf {
    pub(super) fn new(stream: Stream) -> Self {
        Self(Mutex::new(Half { stream, rest: Vec::new() }))
    }

    /// Never waits: neither for the socket nor for the writing thread. A message that does not fit into a
    /// frame is not written; the writing thread says so.
    pub(super) fn try_send(&self, message: &impl Message) -> Written {
        let mut frame = Vec::new();
        match framing::append(message, &mut frame) {
            Ok(()) => self.try_write(&frame),
            Err(_) => Written::Not,
        }
    }

    fn try_write(&self, frame: &[u8]) -> Written {
        let mut half = match self.0.try_lock() {
            Ok(half) => half,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Written::Not,
        };
        if !half.rest.is_empty() {
            return Written::Not;
        }
        match half.stream.send_now(frame) {
            Ok(count) if count == frame.len() => Written::Whole,
            Ok(count) if count > 0 => {
                half.rest.extend_from_slice(&frame[count..]);
                Written::InPart
            }
            Ok(_) | Err(_) => Written::Not,
        }
    }

    /// For the writing thread, which may wait.
    pub(super) fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut half = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let half = &mut *half;
        if !half.rest.is_empty() {
            half.stream.write_all(&half.rest)?;
            half.rest = Vec::new();
        }
        half.stream.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn frames_arrive_whole_and_in_order_whoever_writes_them() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let half = WriteHalf::new(Stream::Unix(ours));
        let frame = vec![7; 300_000];
        let mut whole = 0;
        while half.try_write(&frame[..1000]) == Written::Whole {
            whole += 1;
            assert!(whole < 100_000, "a socket that nobody reads took everything");
        }
        assert!(whole > 0);
        // A part of a frame stays behind as soon as something of it fits.
        let mut drained = vec![0; 500];
        while half.try_write(&frame) != Written::InPart {
            theirs.read_exact(&mut drained).unwrap();
        }
        assert_eq!(half.try_write(b"later"), Written::Not);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| half.write_all(b"end"));
            let mut all = Vec::new();
            while !all.ends_with(b"end") {
                let mut chunk = [0; 65_536];
                let count = theirs.read(&mut chunk).unwrap();
                all.extend_from_slice(&chunk[..count]);
            }
            writing.join().unwrap().unwrap();
            assert!(all[..all.len() - 3].iter().all(|byte| *byte == 7));
        });
        assert_eq!(half.try_write(b"now"), Written::Whole);
    }

    #[test]
    fn whoever_finds_the_thread_writing_leaves_it_to_the_thread() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let half = WriteHalf::new(Stream::Unix(ours));
        std::thread::scope(|scope| {
            scope.spawn(|| half.write_all(&vec![0; 8_000_000]));
            let busy = || half.0.try_lock().is_err();
            while !busy() {
                std::thread::yield_now();
            }
            assert_eq!(half.try_write(b"x"), Written::Not);
            drop(theirs);
        });
    }
}
