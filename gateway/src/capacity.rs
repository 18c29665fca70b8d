//! What the gateway takes of its machine: descriptors and memory. It is a function of the
//! configuration, said at start, and refused where the machine has less.

#![allow(clippy::disallowed_methods, reason = "the shell: the machine is looked at here")]

use crate::config::Settings;
use crate::limits::{
    ASK_BYTES, ATTENDANCE_CELLS_PER_SESSION, AUDIENCE_BYTES_MAX, DESCRIPTORS_BESIDE_SESSIONS,
    HEAPS_MAX, HELD_BYTES_MAX, KAFKA_ANSWER_BYTES_MAX, KAFKA_FETCHED_KB_MAX, LETTER_BYTES,
    MEMORY_BASE_BYTES, NOTE_BYTES, PARTIAL_BYTES_KEPT, PARTIALS_KEPT, PAYLOAD_BYTES_KEPT,
    PAYLOADS_KEPT, PUBLISH_KB_MAX, READ_BYTES, ROSTER_BYTES_MAX, ROUTE_BYTES, ROUTES_KEPT_MAX,
    ROUTES_QUEUE_MAX, SESSION_BYTES, TLS_CHUNK_BYTES, TLS_SESSION_BYTES, UPLINK_IN_FLIGHT_MAX,
    UPLINK_QUEUE_MAX,
};
use crate::outbound::ring::ring_bytes;
use daemon::Config;
use std::fs;

const MIB: usize = 1024 * 1024;

/// The most that each part takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Connections and their sessions, with the wheel's, the registry's and the filter's share.
    sessions: usize,
    rings: usize,
    /// Messages, requests and TLS records that are not whole.
    partial: usize,
    payloads: usize,
    recent: usize,
    /// Answers to resumes and syncs that wait for their sockets.
    backlog: usize,
    tls: usize,
    /// Users that Redis is told, where the gateway is routed to.
    routes: usize,
    /// Fetched and not yet routed, to be published, and members of large conversations.
    kafka: usize,
    mailboxes: usize,
    /// Requests to chatd, and to presenced.
    uplink: usize,
    base: usize,
}

impl Memory {
    pub(crate) fn of(config: &Config, settings: &Settings, shards: usize) -> Self {
        let sessions = settings.sessions_max;
        let slots = settings.slots(shards) * shards;
        let handshakes = config.count("tls.handshakes_max").min(sessions);
        let tls = if config.list("tls.listen").is_empty() {
            0
        } else {
            sessions * TLS_SESSION_BYTES + handshakes * TLS_CHUNK_BYTES
        };
        let fetched = KAFKA_ANSWER_BYTES_MAX + KAFKA_FETCHED_KB_MAX * 1024;
        let reader = fetched + ROSTER_BYTES_MAX + HELD_BYTES_MAX;
        let others = (KAFKA_FETCHED_KB_MAX + PUBLISH_KB_MAX) * 1024;
        // What each shard has for itself: buffers to read into, and such as are used again.
        let buffers = READ_BYTES + 3 * TLS_CHUNK_BYTES + PARTIALS_KEPT * PARTIAL_BYTES_KEPT;
        let kept = PAYLOADS_KEPT * PAYLOAD_BYTES_KEPT;
        Self {
            sessions: slots * (SESSION_BYTES + ATTENDANCE_CELLS_PER_SESSION),
            rings: sessions * ring_bytes(usize::from(settings.ring_entries)),
            partial: (settings.partial_bytes_max + buffers) * shards,
            payloads: (settings.payload_bytes_max + kept) * shards,
            recent: settings.recent_bytes_max * shards,
            backlog: settings.backlog_bytes_max * shards,
            tls,
            routes: if settings.is_routed {
                slots * ROUTE_BYTES + (ROUTES_QUEUE_MAX + shards * ROUTES_KEPT_MAX) * NOTE_BYTES
            } else {
                0
            },
            kafka: config.count("kafka.consumers") * reader + others,
            mailboxes: shards * config.count("mailbox.letters_max") * LETTER_BYTES,
            uplink: 2 * (UPLINK_QUEUE_MAX + UPLINK_IN_FLIGHT_MAX) * ASK_BYTES,
            base: MEMORY_BASE_BYTES + AUDIENCE_BYTES_MAX,
        }
    }

    pub(crate) fn total(&self) -> usize {
        let Self { sessions, rings, partial, payloads, recent, backlog, tls, .. } = self;
        let Self { routes, kafka, mailboxes, uplink, base, .. } = self;
        let shards = sessions + rings + partial + payloads + recent + backlog + tls;
        shards + routes + kafka + mailboxes + uplink + base
    }

    /// Logs what will be taken; an error where the machine has less than that.
    pub(crate) fn check(&self, machine: Option<usize>) -> Result<(), String> {
        let mib = |bytes: usize| bytes.div_ceil(MIB);
        let total = mib(self.total());
        tracing::info!(
            total_mib = total,
            sessions_mib = mib(self.sessions),
            rings_mib = mib(self.rings),
            partial_mib = mib(self.partial),
            payloads_mib = mib(self.payloads),
            recent_mib = mib(self.recent),
            backlog_mib = mib(self.backlog),
            tls_mib = mib(self.tls),
            routes_mib = mib(self.routes),
            kafka_mib = mib(self.kafka),
            mailboxes_mib = mib(self.mailboxes),
            uplink_mib = mib(self.uplink),
            machine_mib = machine.map_or(0, mib),
            "memory at most"
        );
        match machine.map(mib) {
            Some(there) if there < total => Err(format!(
                "this configuration may take {total} MiB of memory and the machine has {there}: \
                 allowed is what fits; lower sessions_max ({} MiB), ring.entries ({}), \
                 partial.bytes_max ({}), payload.bytes_max ({}), recovery.cache_bytes ({}), \
                 recovery.backlog_bytes ({}) or mailbox.letters_max ({})",
                mib(self.sessions + self.tls),
                mib(self.rings),
                mib(self.partial),
                mib(self.payloads),
                mib(self.recent),
                mib(self.backlog),
                mib(self.mailboxes),
            )),
            _ => Ok(()),
        }
    }
}

/// The memory of the machine, or of the control group (cgroup v2) where that is less; None where
/// neither is told.
pub(crate) fn machine_bytes() -> Option<usize> {
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text));
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse().ok());
    total.into_iter().chain(group).min()
}

fn mem_total(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib * 1024)
}

/// Every heap of the C library keeps what its threads needed at most: few, since no shard allocates
/// where it matters. To be called before the shards' and other threads that work are started.
pub(crate) fn bound_heaps() {
    // SAFETY: sets a number of the allocator under the allocator's own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS_MAX)
    };
}

/// A connection is a descriptor: the soft limit is raised as far as is needed and allowed. Gives back
/// how many connections it leaves room for; one more is then refused, rather than left to wait for a
/// descriptor that does not come.
pub(crate) fn connections_of_descriptors(sessions_max: usize) -> usize {
    let descriptors = raise_descriptor_limit(sessions_max + DESCRIPTORS_BESIDE_SESSIONS);
    let fitting = sessions_max.min(connections_of(descriptors));
    if fitting < sessions_max {
        tracing::warn!(
            descriptors,
            sessions_max,
            connections_max = fitting,
            "the limit of open files (ulimit -n) is below sessions_max: connections beyond it are refused"
        );
    }
    fitting
}

fn connections_of(descriptors: usize) -> usize {
    descriptors - DESCRIPTORS_BESIDE_SESSIONS.min(descriptors / 4)
}

/// The limit that holds then.
fn raise_descriptor_limit(wanted: usize) -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return wanted;
    }
    let before = limit.rlim_cur;
    let wanted = wanted as libc::rlim_t;
    if before < wanted {
        limit.rlim_cur = wanted.min(limit.rlim_max);
        // SAFETY: `limit` is a valid rlimit that outlives the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            limit.rlim_cur = before;
        }
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KEYS;
    use daemon::config::load_from;

    fn memory(changes: &[(&str, &str)], shards: usize) -> Memory {
        let required = [("REALCHAT_GATEWAY_LINK_SECRET", "a secret of enough bytes")];
        let variables = required.iter().chain(changes);
        let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = load_from("gateway", KEYS, None, variables).unwrap();
        let settings = Settings::new(&config, "gateway-1", shards).unwrap();
        Memory::of(&config, &settings, shards)
    }

    #[test]
    fn it_follows_the_configuration_and_hardly_the_number_of_shards() {
        let one = memory(&[], 1);
        let twice = memory(&[("REALCHAT_GATEWAY_SESSIONS_MAX", "200000")], 1);
        assert_eq!(twice.sessions, 2 * one.sessions);
        assert_eq!(twice.rings, 2 * one.rings);
        let deep = memory(&[("REALCHAT_GATEWAY_RING_ENTRIES", "512")], 1);
        assert_eq!(deep.total() - one.total(), deep.rings - one.rings);
        assert!((15..=20).contains(&(deep.rings * 10 / one.rings)), "segments are whole");
        let four = memory(&[], 4);
        assert_eq!((four.recent, four.backlog), (one.recent, one.backlog));
        // Four times what each shard has for itself.
        assert_eq!(four.payloads - one.payloads, 3 * PAYLOADS_KEPT * PAYLOAD_BYTES_KEPT);
        assert!(four.partial - one.partial < 8 * MIB);
        let wide = memory(&[("REALCHAT_GATEWAY_PARTIAL_BYTES_MAX", "134217728")], 1);
        assert_eq!(wide.total() - one.total(), 64 * MIB);
        assert_eq!(one.tls, 0);
        let encrypted = memory(&[("REALCHAT_GATEWAY_TLS_LISTEN", "127.0.0.1:1")], 1);
        assert!(encrypted.tls > 100_000 * TLS_SESSION_BYTES);
    }

    #[test]
    fn a_machine_of_its_size_is_enough_and_one_mebibyte_less_is_refused_by_name() {
        let memory = memory(&[], 2);
        let needed = memory.total().div_ceil(MIB) * MIB;
        assert_eq!(memory.check(Some(needed)), Ok(()));
        assert_eq!(memory.check(None), Ok(()));
        let refusal = memory.check(Some(needed - MIB)).unwrap_err();
        for named in ["sessions_max", "ring.entries", "payload.bytes_max", "the machine has"] {
            assert!(refusal.contains(named), "{refusal}");
        }
    }

    #[test]
    fn connections_are_what_descriptors_leave() {
        assert_eq!(connections_of(20_000), 20_000 - DESCRIPTORS_BESIDE_SESSIONS);
        assert_eq!(connections_of(1_024), 768);
        assert_eq!(connections_of_descriptors(10), 10);
        let descriptors = raise_descriptor_limit(usize::MAX / 2);
        assert_eq!(connections_of_descriptors(usize::MAX / 2), connections_of(descriptors));
    }

    #[test]
    fn the_machine_says_how_much_it_has() {
        assert_eq!(mem_total("MemFree: 1 kB\nMemTotal:       2048 kB\n"), Some(2 * MIB));
        assert_eq!(mem_total("MemTotal: many"), None);
        assert!(machine_bytes().is_some_and(|bytes| bytes > MIB));
    }
}
