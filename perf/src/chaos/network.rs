//! Broken networks between the daemons and what they depend on: packets to and from one port are
//! dropped, answered by resets, lost now and then, or let through at so many bytes a second. Linux's packet filter does it (nft, as root).
//! Ports are named in sets whose elements expire by themselves, so that a run that is killed leaves
//! nothing broken.

use crate::failure::{Context, Failure, Outcome};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Packets of a hundred that a lossy link loses.
const LOST_PERCENT: u32 = 20;
/// Bytes a second that a slow link lets through each way, in KiB; and how many at once, which must be
/// more than the largest packet of the loopback interface.
const SLOW_KIB_PER_S: u32 = 128;
const SLOW_KIB_AT_ONCE: u32 = 192;

/// How a link is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Nothing gets through, and nobody is told.
    Partition,
    /// Whatever is said is answered by a reset.
    Reset,
    /// Some packets are lost, so that everything takes longer.
    Lossy,
    /// Beyond a few bytes a second packets are lost.
    Slow,
}

impl Cut {
    pub(super) const ALL: [Self; 4] = [Self::Partition, Self::Reset, Self::Lossy, Self::Slow];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::Reset => "reset",
            Self::Lossy => "lossy",
            Self::Slow => "slow",
        }
    }

    /// The name of its set of ports; some of the others are words of the packet filter's own.
    fn set(self) -> &'static str {
        match self {
            Self::Partition => "ports_partition",
            Self::Reset => "ports_reset",
            Self::Lossy => "ports_lossy",
            Self::Slow => "ports_slow",
        }
    }
}

/// A table of the packet filter, removed when dropped.
#[derive(Debug)]
pub(super) struct Network {
    table: String,
}

impl Network {
    /// None where the packet filter cannot be used, with the reason on standard error.
    pub(super) fn open() -> Option<Self> {
        let network = Self { table: format!("realchat_chaos_{}", std::process::id()) };
        match network.run(&rules(&network.table)) {
            Ok(()) => Some(network),
            Err(failure) => {
                crate::report::progress!("perf: no faults of the network: {failure}");
                None
            }
        }
    }

    /// Breaks the link to a port of this machine for so long; returns at once.
    pub(super) fn cut(&self, port: u16, cut: Cut, time: Duration) -> Outcome {
        let (table, set, ms) = (&self.table, cut.set(), time.as_millis());
        // Sets refuse an element that they have: of an earlier cut of the same port.
        let script = format!(
            "add element inet {table} {set} {{ {port} }}\n\
             delete element inet {table} {set} {{ {port} }}\n\
             add element inet {table} {set} {{ {port} timeout {}s{}ms }}\n",
            ms / 1_000,
            ms % 1_000
        );
        self.run(&script)
    }

    fn run(&self, script: &str) -> Outcome {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .doing("nft")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes()).doing("nft")?;
        }
        let output = child.wait_with_output().doing("nft")?;
        if output.status.success() {
            return Ok(());
        }
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let first = error.lines().next().unwrap_or("it failed").to_owned();
        Err(Failure::Refused(format!("nft: {first}")))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What is left of it breaks nothing.
        let _ = self.run(&format!("delete table inet {}\n", self.table));
    }
}

fn rules(table: &str) -> String {
    let sets = Cut::ALL.map(|cut| {
        let set = cut.set();
        format!("add set inet {table} {set} {{ type inet_service; flags timeout; }}\n")
    });
    let chain = "type filter hook input priority 0;";
    let lost = format!("numgen random mod 100 < {LOST_PERCENT} drop");
    let slow = format!(
        "limit rate over {SLOW_KIB_PER_S} kbytes/second burst {SLOW_KIB_AT_ONCE} kbytes drop"
    );
    let verdicts = [
        "tcp dport @ports_partition drop",
        "tcp sport @ports_partition drop",
        "tcp dport @ports_reset reject with tcp reset",
        &format!("tcp dport @ports_lossy {lost}"),
        &format!("tcp sport @ports_lossy {lost}"),
        &format!("tcp dport @ports_slow {slow}"),
        &format!("tcp sport @ports_slow {slow}"),
    ];
    let verdicts = verdicts.map(|it| format!("add rule inet {table} incoming iif lo {it}\n"));
    let (sets, verdicts) = (sets.concat(), verdicts.concat());
    format!(
        "add table inet {table}\n{sets}add chain inet {table} incoming {{ {chain} }}\n{verdicts}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    #[test]
    fn a_cut_port_is_out_of_reach_until_the_time_is_over() {
        let Some(network) = Network::open() else { return };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300));
        assert!(connect().is_ok());
        let time = Duration::from_millis(1_500);
        network.cut(address.port(), Cut::Partition, time).unwrap();
        let begun = Instant::now();
        assert_eq!(connect().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        while connect().is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
        assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
        network.cut(address.port(), Cut::Reset, time).unwrap();
        network.cut(address.port(), Cut::Reset, time).unwrap();
        assert_eq!(connect().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_slow_port_lets_everything_through_and_takes_its_time() {
        let Some(network) = Network::open() else { return };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        network.cut(address.port(), Cut::Slow, Duration::from_secs(20)).unwrap();
        let mut sender = TcpStream::connect(address).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        let begun = Instant::now();
        let sending = std::thread::spawn(move || sender.write_all(&[0; 600_000]).unwrap());
        assert_eq!(std::io::copy(&mut receiver, &mut std::io::sink()).unwrap(), 600_000);
        sending.join().unwrap();
        assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}
