//! Phase flush: rings to sockets, many frames with one system call.

use super::Shard;
use super::table::{Connection, Tick};
use crate::close::Reason;
use crate::inbound::tls::Room;
use crate::limits::{LATENCY_US_MAX, WRITE_FRAMES_MAX, WRITES_IN_A_ROW_MAX};
use crate::outbound::payload::{Handle, Payloads};
use crate::outbound::ring::Rings;
use crate::recovery::catchup::Step;
use mio::{Interest, Token};
use socket2::SockRef;
use std::io::{self, IoSlice, Write};
use std::net::Shutdown;

/// What one write came to.
pub(super) enum Written {
    /// Everything that was offered.
    All,
    /// The socket took less: it is full.
    Full,
    Failed,
}

impl Shard {
    pub(super) fn flush(&mut self) {
        self.now = self.clock.now();
        let spare = std::mem::take(&mut self.spare_dirty);
        let mut dirty = std::mem::replace(&mut self.dirty, spare);
        for slot in dirty.drain(..) {
            if let Some(connection) = self.table.get_mut(slot) {
                connection.in_dirty = false;
                let is_encrypted = connection.tls.is_some();
                self.flush_connection(slot);
                if is_encrypted {
                    self.count_partial(slot);
                }
            }
        }
        self.spare_dirty = dirty;
    }

    /// Writes what waits, as far as the socket takes it.
    pub(super) fn flush_connection(&mut self, slot: u32) {
        for _ in 0..WRITES_IN_A_ROW_MAX {
            if self.table.session(slot).is_some_and(|session| session.extra.is_some()) {
                self.tell_gaps(slot);
                self.refill(slot);
            }
            let Some(connection) = self.table.get(slot) else { return };
            if connection.blocked {
                return;
            }
            match self.flush_encrypted(slot) {
                Written::All => {}
                Written::Full => return self.block(slot),
                Written::Failed => return self.drop_connection(slot, Reason::PeerGone),
            }
            let Some(connection) = self.table.get(slot) else { return };
            if self.rings.queued(connection.ring).entries == 0 {
                return self.all_written(slot);
            }
            match self.write(slot) {
                Written::All => {}
                Written::Full => return self.block(slot),
                Written::Failed => return self.drop_connection(slot, Reason::PeerGone),
            }
        }
        self.mark_dirty(slot);
    }

    fn write(&mut self, slot: u32) -> Written {
        let Some(connection) = self.table.get_mut(slot) else { return Written::Failed };
        let (outcome, offered) = offer(connection, &self.rings, &self.payloads, &mut self.room);
        let emptied = connection.tls.as_ref().is_none_or(|tls| !tls.has_unsent());
        self.counts.writes.increment();
        match outcome {
            Ok(bytes) => {
                self.taken(slot, bytes);
                if bytes == offered && emptied { Written::All } else { Written::Full }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Written::Full,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Written::All,
            Err(_) => Written::Failed,
        }
    }

    /// The socket took so many bytes: the frames that are whole leave the ring.
    fn taken(&mut self, slot: u32, mut bytes: usize) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        self.counts.bytes_written.add(bytes as u64);
        let encoding = connection.conn.encoding();
        if bytes > 0 && connection.deadlines.write != Tick::NEVER {
            // It is slow, but it moves.
            connection.deadlines.write = Tick::after(self.now, self.settings.write_ms);
        }
        while let Some(handle) = self.rings.first(connection.ring) {
            let whole = self.payloads.bytes(handle, encoding).len();
            let left = whole - self.rings.written(connection.ring);
            if bytes < left {
                self.rings.advance(connection.ring, u32::try_from(bytes).unwrap_or(u32::MAX));
                return;
            }
            bytes -= left;
            self.rings.pop(&mut connection.ring, u32::try_from(whole).unwrap_or(u32::MAX));
            self.queued -= 1;
            let created_at_us = self.payloads.created_at_us(handle);
            if created_at_us > 0 {
                self.counts.lane(self.payloads.lane(handle)).written.increment();
                let latency_us = self.now.wall_us.saturating_sub(created_at_us);
                if latency_us <= LATENCY_US_MAX {
                    self.counts.delivery_latency.observe(latency_us);
                }
            }
            self.payloads.release(handle);
        }
    }

    /// The socket is full: the poll tells when it is not.
    fn block(&mut self, slot: u32) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        connection.blocked = true;
        if connection.deadlines.write == Tick::NEVER {
            connection.deadlines.write = Tick::after(self.now, self.settings.write_ms);
        }
        let both = Interest::READABLE | Interest::WRITABLE;
        let stream = &mut connection.stream;
        match self.poll.registry().reregister(stream, Token(slot as usize), both) {
            Ok(()) => self.arm(slot),
            Err(_) => self.drop_connection(slot, Reason::PeerGone),
        }
    }

    /// Nothing waits any more.
    fn all_written(&mut self, slot: u32) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        if connection.deadlines.write != Tick::NEVER {
            connection.deadlines.write = Tick::NEVER;
            let (stream, token) = (&mut connection.stream, Token(slot as usize));
            if self.poll.registry().reregister(stream, token, Interest::READABLE).is_err() {
                return self.drop_connection(slot, Reason::PeerGone);
            }
            // What came meanwhile is not told again.
            connection.readable = true;
            self.mark_ready(slot);
            self.arm(slot);
        }
        let Some(connection) = self.table.get_mut(slot) else { return };
        if let Some(reason) = connection.ending {
            if reason == Reason::PeerClosed {
                return self.forget(slot);
            }
            if !std::mem::replace(&mut connection.shut, true) {
                if let Some(tls) = &mut connection.tls {
                    tls.say_goodbye();
                    // Best effort: the socket has just taken everything.
                    let _ = tls.flush(&mut &connection.stream, &mut self.room);
                }
                // The peer reads what was sent, then hangs up; what it sends is thrown away.
                let _ = connection.stream.shutdown(Shutdown::Write);
            }
            return;
        }
        let was_paused = connection.conn.is_paused();
        if connection.conn.written() {
            return self.close(slot, Reason::HttpDone, None);
        }
        if was_paused && !connection.conn.is_paused() {
            if self.drain_until_ms.is_some() {
                return self.close(slot, Reason::Draining, None);
            }
            connection.kick = connection.conn.has_stash();
            self.follow_stage(slot);
            self.mark_ready(slot);
        }
    }

    /// Moves what the session catches up on into its ring, while at least half of that is free.
    fn refill(&mut self, slot: u32) {
        let limits = self.rings.limits();
        loop {
            let Some(connection) = self.table.get_mut(slot) else { return };
            let queued = self.rings.queued(connection.ring);
            let Some(session) = &mut connection.session else { return };
            let Some(catch_up) = session.catch_up() else { return };
            if queued.entries >= limits.entries / 2 || queued.bytes >= limits.bytes_max / 2 {
                return;
            }
            let before = catch_up.bytes();
            let Some(step) = catch_up.next_step() else { return session.tidy() };
            self.backlog_bytes -= before - catch_up.bytes();
            let encoding = connection.conn.encoding();
            let handle = match step {
                Step::Frame(frame) => {
                    if let Some(told) = session.told() {
                        told.frame(&frame);
                    }
                    self.payloads.add_reply(&frame, encoding)
                }
                Step::Event(handle) => {
                    self.counts.lane(self.payloads.lane(handle)).enqueued.increment();
                    handle
                }
            };
            self.push_unchecked(slot, handle);
        }
    }

    /// Puts a payload into the ring without a verdict; the ring takes the caller's reference.
    pub(super) fn push_unchecked(&mut self, slot: u32, handle: Handle) {
        let Some(connection) = self.table.get_mut(slot) else {
            return self.payloads.release(handle);
        };
        let bytes = self.payloads.prepare(handle, connection.conn.encoding());
        let bytes = bytes.and_then(|it| u32::try_from(it).ok()).filter(|it| *it > 0);
        match bytes {
            Some(bytes) if self.rings.push(&mut connection.ring, handle, bytes) => self.queued += 1,
            _ => self.payloads.release(handle),
        }
    }
}

/// One system call for all that waits, as far as its slices reach: what the socket took, and how many
/// bytes it was offered.
fn offer(
    connection: &mut Connection,
    rings: &Rings,
    payloads: &Payloads,
    room: &mut Room,
) -> (io::Result<usize>, usize) {
    let encoding = connection.conn.encoding();
    let mut frames = rings.iter(connection.ring);
    let Some(first) = frames.next() else { return (Ok(0), 0) };
    let first = &payloads.bytes(first, encoding)[rings.written(connection.ring)..];
    if frames.len() == 0 && connection.tls.is_none() {
        // send(2): cheaper than a vector of one.
        return ((&connection.stream).write(first), first.len());
    }
    let mut slices = [IoSlice::new(&[]); WRITE_FRAMES_MAX];
    slices[0] = IoSlice::new(first);
    let (mut count, mut offered) = (1, first.len());
    for (slice, handle) in slices[1..].iter_mut().zip(frames) {
        let bytes = payloads.bytes(handle, encoding);
        *slice = IoSlice::new(bytes);
        count += 1;
        offered += bytes.len();
    }
    let slices = &slices[..count];
    let outcome = match &mut connection.tls {
        // sendmsg(2) is told that it has a socket; writev(2) must find out.
        None => {
            SockRef::from(&connection.stream).send_vectored_with_flags(slices, libc::MSG_NOSIGNAL)
        }
        Some(tls) => tls.write(&mut &connection.stream, slices, room),
    };
    (outcome, offered)
}
