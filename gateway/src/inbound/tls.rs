//! TLS of one connection, without its socket: ciphertext and plain text in and out. Made of
//! rustls's unbuffered machine, so that an idle connection holds its keys and no buffer; the room to
//! work in is the shard's.

mod files;

pub(crate) use files::{Files, read_config};

use crate::limits::{READ_BYTES, TLS_CHUNK_BYTES, TLS_PARTIAL_BYTES_MAX, TLS_UNSENT_BYTES_MAX};
use rustls::Error;
use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData};
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

/// Buffers that all TLS connections of a shard share; empty in a shard without any.
#[derive(Default)]
pub(crate) struct Room {
    /// Ciphertext that was read, behind what was left of the last read.
    incoming: Vec<u8>,
    /// Plain text of several frames, gathered for one record.
    gathered: Vec<u8>,
    /// Ciphertext on its way out; lent to the connection that writes.
    outgoing: Vec<u8>,
}

/// What a look at the socket came to.
#[derive(Debug)]
pub(crate) enum Came {
    /// So many bytes of plain text; the socket may hold more.
    Plain(usize),
    /// So many bytes of plain text; the socket was emptied.
    Emptied(usize),
    /// So many bytes of plain text, the last ones: the peer has ended the TLS session.
    Last(usize),
    /// The peer is gone.
    Gone,
    /// The peer does not speak TLS as it should; an alert may wait to be written.
    Failed(Error),
}

/// The server's end of a TLS session.
pub(crate) struct Tls {
    machine: UnbufferedServerConnection,
    /// The beginning of a record whose end has not come.
    partial: Vec<u8>,
    /// Ciphertext that the socket has not taken.
    unsent: Vec<u8>,
    /// Bytes of `unsent` that it has.
    sent: usize,
}

impl Tls {
    pub(crate) fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let machine = UnbufferedServerConnection::new(config)?;
        Ok(Self { machine, partial: Vec::new(), unsent: Vec::new(), sent: 0 })
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.machine.is_handshaking()
    }

    /// Ciphertext that came in part, and that the socket has not taken.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.partial.len() + self.unsent.len()
    }

    /// Whether ciphertext waits for the socket.
    pub(crate) fn has_unsent(&self) -> bool {
        self.sent < self.unsent.len()
    }

    /// Reads from the socket once; the plain text goes to `plain`, which has [`READ_BYTES`].
    pub(crate) fn read(
        &mut self,
        socket: &mut impl Read,
        room: &mut Room,
        plain: &mut [u8],
    ) -> io::Result<Came> {
        room.incoming.resize(READ_BYTES, 0);
        let before = self.partial.len();
        room.incoming[..before].copy_from_slice(&self.partial);
        let bytes = match socket.read(&mut room.incoming[before..])? {
            0 => return Ok(Came::Gone),
            bytes => bytes,
        };
        let emptied = before + bytes < READ_BYTES;
        let mut filled = 0;
        match self.take(&mut room.incoming[..before + bytes], plain, &mut filled) {
            Err(error) => Ok(Came::Failed(error)),
            Ok(true) => Ok(Came::Last(filled)),
            Ok(false) if emptied => Ok(Came::Emptied(filled)),
            Ok(false) => Ok(Came::Plain(filled)),
        }
    }

    /// Takes ciphertext; says whether the peer has ended the session.
    fn take(
        &mut self,
        cipher: &mut [u8],
        plain: &mut [u8],
        filled: &mut usize,
    ) -> Result<bool, Error> {
        let (mut used, mut ended) = (0, false);
        loop {
            let status = self.machine.process_tls_records(&mut cipher[used..]);
            let mut discard = status.discard;
            let mut go_on = true;
            match status.state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        // Plain text is shorter than its ciphertext, and that fits.
                        let end = *filled + record.payload.len();
                        plain[*filled..end].copy_from_slice(record.payload);
                        *filled = end;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(&mut self.unsent, &mut data)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => {
                    go_on = false;
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    (ended, go_on) = (true, false);
                }
                Ok(_) => {
                    return Err(Error::General("early data came, which is not on offer".into()));
                }
                Err(error) => {
                    self.collect_alert();
                    return Err(error);
                }
            }
            used += discard;
            if self.unsent.len() - self.sent > TLS_UNSENT_BYTES_MAX {
                return Err(Error::General("the peer asks for more than it reads".into()));
            }
            if !go_on {
                break;
            }
        }
        let rest = &cipher[used..];
        if rest.len() > TLS_PARTIAL_BYTES_MAX {
            return Err(Error::General("a handshake message is too long".into()));
        }
        // What is gone is given back at once: most sessions are idle most of the time.
        self.partial = rest.to_vec();
        Ok(ended)
    }

    /// After an error: the alert that says so.
    fn collect_alert(&mut self) {
        for _ in 0..4 {
            match self.machine.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    if append(&mut self.unsent, &mut data).is_err() {
                        return;
                    }
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                _ => return,
            }
        }
    }

    /// Writes what waits. False: the socket is full.
    pub(crate) fn flush(&mut self, socket: &mut impl Write, room: &mut Room) -> io::Result<bool> {
        while self.has_unsent() {
            match socket.write(&self.unsent[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sent = 0;
        let mut buffer = std::mem::take(&mut self.unsent);
        if buffer.capacity() > room.outgoing.capacity() {
            buffer.clear();
            room.outgoing = buffer;
        }
        Ok(true)
    }

    /// Encrypts as much of `slices` as the socket takes the ciphertext of, and a little more: says
    /// how many bytes. What the socket did not take waits ([`Self::has_unsent`]); nothing may wait
    /// before.
    pub(crate) fn write(
        &mut self,
        socket: &mut impl Write,
        slices: &[IoSlice<'_>],
        room: &mut Room,
    ) -> io::Result<usize> {
        let mut taken = 0;
        let mut slices = slices.iter();
        let mut rest: &[u8] = &[];
        loop {
            room.gathered.clear();
            while room.gathered.len() < TLS_CHUNK_BYTES {
                if rest.is_empty() {
                    match slices.next() {
                        Some(slice) => rest = slice,
                        None => break,
                    }
                }
                let piece = rest.len().min(TLS_CHUNK_BYTES - room.gathered.len());
                room.gathered.extend_from_slice(&rest[..piece]);
                rest = &rest[piece..];
            }
            if room.gathered.is_empty() {
                return Ok(taken);
            }
            if self.unsent.is_empty() {
                self.unsent = std::mem::take(&mut room.outgoing);
            }
            self.encrypt(&room.gathered).map_err(io::Error::other)?;
            taken += room.gathered.len();
            if !self.flush(socket, room)? {
                return Ok(taken);
            }
        }
    }

    /// Appends the ciphertext to what waits.
    fn encrypt(&mut self, plain: &[u8]) -> Result<(), Error> {
        loop {
            match self.machine.process_tls_records(&mut []).state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    append(&mut self.unsent, &mut data)?;
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    let before = self.unsent.len();
                    let records = plain.len() / RECORD_BYTES + 1;
                    self.unsent.resize(before + plain.len() + records * RECORD_OVERHEAD_BYTES, 0);
                    let written = traffic.encrypt(plain, &mut self.unsent[before..]);
                    self.unsent.truncate(before + written.as_ref().copied().unwrap_or(0));
                    return written.map(|_| ()).map_err(|_| Error::EncryptError);
                }
                // After the peer's close_notify we may still write.
                ConnectionState::PeerClosed => {}
                _ => return Err(Error::HandshakeNotComplete),
            }
        }
    }

    /// Says goodbye (RFC 8446 section 6.1), if there is a session to end.
    pub(crate) fn say_goodbye(&mut self) {
        for _ in 0..4 {
            match self.machine.process_tls_records(&mut []).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let before = self.unsent.len();
                    self.unsent.resize(before + RECORD_OVERHEAD_BYTES, 0);
                    let written = traffic.queue_close_notify(&mut self.unsent[before..]);
                    // Without it nothing is missed: the peer sees the end anyway.
                    return self.unsent.truncate(before + written.unwrap_or(0));
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => {}
                _ => return,
            }
        }
    }
}

/// Appends a handshake record or an alert.
fn append<D>(out: &mut Vec<u8>, data: &mut EncodeTlsData<'_, D>) -> Result<(), Error> {
    let bytes = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(it)) => it.required_size,
        Ok(_) | Err(EncodeError::AlreadyEncoded) => return Ok(()),
    };
    let before = out.len();
    out.resize(before + bytes, 0);
    data.encode(&mut out[before..]).map(drop).map_err(|_| Error::EncryptError)
}

/// Plain text of one record (RFC 8446 section 5.1).
const RECORD_BYTES: usize = 1 << 14;
/// What a record is longer than its plain text, at most; also all of an alert.
const RECORD_OVERHEAD_BYTES: usize = 64;

const _: () = assert!(TLS_PARTIAL_BYTES_MAX < READ_BYTES);

#[cfg(test)]
pub(crate) mod tests;
