//! What carries a session: the socket, or TLS on it.

use mio::net::TcpStream;
use rustls::ClientConnection;
use std::io::{self, Read, Write};

#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<Encrypted>),
}

#[derive(Debug)]
pub(super) struct Encrypted {
    machine: ClientConnection,
    socket: TcpStream,
}

impl Transport {
    pub(super) fn new(socket: TcpStream, machine: Option<ClientConnection>) -> Self {
        match machine {
            None => Self::Plain(socket),
            Some(machine) => Self::Tls(Box::new(Encrypted { machine, socket })),
        }
    }

    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(encrypted) => &encrypted.socket,
        }
    }
}

impl Encrypted {
    /// Writes the ciphertext that the socket takes; the rest goes when it is writable again.
    fn push(&mut self) -> io::Result<()> {
        while self.machine.wants_write() {
            match self.machine.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Encrypted { machine, socket } = match self {
            Self::Plain(socket) => return socket.read(buffer),
            Self::Tls(encrypted) => &mut **encrypted,
        };
        loop {
            match machine.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
            if machine.read_tls(socket)? == 0 {
                return Ok(0);
            }
            let taken = machine.process_new_packets();
            // What follows from it, or the alert that says what is wrong with it.
            while machine.wants_write() {
                match machine.write_tls(socket) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            taken.map_err(io::Error::other)?;
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(encrypted) => {
                let taken = encrypted.machine.writer().write(bytes)?;
                encrypted.push()?;
                if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(encrypted) => encrypted.push(),
        }
    }
}
