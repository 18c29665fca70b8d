//! Limits of what is measured, with their units.

use std::time::Duration;

/// Descriptors that a command keeps for itself, besides its connections.
pub(crate) const DESCRIPTORS_RESERVED: u64 = 200;
/// Connections whose handshake is under way at once.
pub(crate) const OPENING_AT_ONCE: usize = 128;
/// Time that one connection has from connecting to its welcome.
pub(crate) const OPENING_MS_MAX: u64 = 30_000;
/// Source addresses that connections are spread over, each with its own range of ports.
pub(crate) const SOURCE_ADDRESSES: usize = 64;
/// Read from a socket at once.
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// A frame from a server.
pub(crate) const SERVER_FRAME_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// The longest run.
pub(crate) const SECONDS_MAX: u64 = 7 * 24 * 3_600;
/// Sends of `perf e2e` and `perf soak`: each is remembered (64 bytes) until the end.
pub(crate) const SENDS_MAX: u64 = 20_000_000;
/// The shortest wait between two looks at a process in `perf soak`.
pub(crate) const SAMPLE_MS_MIN: u64 = 1_000;
/// Looks at each process: a longer soak has longer waits between them.
pub(crate) const SAMPLES_MAX: u64 = 10_000;
/// Looks after the warm-up below which no slope is told.
pub(crate) const SLOPE_SAMPLES_MIN: usize = 20;
/// The part of a soak whose looks count for no slope: caches fill and pools grow.
pub(crate) const SOAK_WARM_UP_PERCENT: u64 = 25;
/// Wait for what is still under way at the end of a run.
pub(crate) const STRAGGLERS_MS_MAX: u64 = 15_000;
/// Rows inserted by one statement.
pub(crate) const ROWS_AT_ONCE: usize = 10_000;
/// Connections of the one-transaction-a-message side of `perf write`.
pub(crate) const NAIVE_CONNECTIONS: usize = 16;
/// Sends that `perf write` makes one at a time, and how many of them before as many bare commits.
pub(crate) const LONE_SENDS: usize = 400;
pub(crate) const LONE_TURN: usize = 50;
/// Before each of them: until the one before is published, pushed and forgotten, since what that takes is
/// no part of a send that is alone.
pub(crate) const LONE_PAUSE: Duration = Duration::from_millis(20);
/// The part of a run that is not measured, in `perf write` and `perf fanout`.
pub(crate) const WARM_UP_MS: u64 = 1_000;
/// A 99th percentile with which a rate is too much for `perf fanout --find-most`.
pub(crate) const MOST_P99_MS_MAX: f64 = 50.0;
/// By how much its rate rises each time.
pub(crate) const MOST_STEP_PERCENT: u64 = 15;
/// Bytes of one encoded event in `perf fanout`.
pub(crate) const FANOUT_EVENT_BYTES: usize = 512;
/// Connections opened and closed again before memory is compared.
pub(crate) const IDLE_WARM_UP_CONNECTIONS: usize = 300;
/// Wait for a connection's answer to one hostile input.
pub(crate) const HOSTILE_READ_MS_MAX: u64 = 25;
/// Hostile inputs under way at once.
pub(crate) const HOSTILE_AT_ONCE: usize = 24;
/// Sessions that are looked at beside hostile input, and the records a second for all of them.
pub(crate) const HOSTILE_NEIGHBOURS: usize = 400;
pub(crate) const HOSTILE_RECORDS_PER_S: u64 = 100;
/// One look at them, and how many before the first input.
pub(crate) const HOSTILE_LOOK_MS: u64 = 2_000;
pub(crate) const HOSTILE_LOOKS_ALONE: usize = 4;
/// Wait for the probe message after a fault or an attack, however slow the machine is.
pub(crate) const PROBE_MS_MAX: u64 = 180_000;
/// Wait for the probe message once every daemon says that it is ready.
pub(crate) const LIVE_MS_MAX: u64 = 10_000;
/// When whoever watches must have been told the truth of everybody: what is known of a session that ended
/// without a word expires after 60 s.
pub(crate) const PRESENCE_MS_MAX: u64 = 65_000;

/// Wait for the relay to publish what one side of `perf write` committed, in seconds.
pub(crate) const DRAIN_S_MAX: u64 = 60;
/// Sends of `perf storm` that chatd has not yet answered.
pub(crate) const STORM_SENDS_IN_FLIGHT: usize = 1_024;
/// Time for gateways and statistics to come to rest between the parts of `perf storm`.
pub(crate) const STORM_SETTLE_MS: u64 = 2_500;
/// What half of the slow sessions read.
pub(crate) const SLOW_READ_BYTES_PER_S: usize = 1_000;
/// Events of 512 bytes that fill a slow session's ring of 256, and its socket.
pub(crate) const SLOW_BUSY_EVENTS: u64 = 384;
/// A slow session's receive buffer.
pub(crate) const SLOW_BUFFER_BYTES: usize = 4 * 1024;
/// Sends that chatd has not yet answered while `perf plan` measures: batches as under a good load.
pub(crate) const PLAN_IN_FLIGHT: u64 = 1_024;
/// Sessions with which `perf plan` measures, ten to a conversation.
pub(crate) const PLAN_SESSIONS: usize = 5_000;
/// Records a second whose deliveries `perf plan` measures.
pub(crate) const PLAN_RECORDS_PER_S: u64 = 500;
/// Messages a second that come by WebSocket while `perf plan` measures, each for its sender alone.
pub(crate) const PLAN_SENDS_PER_S: u64 = 1_000;
/// Consumers that tail the log beside the gateways while `perf plan` measures what a tail costs.
pub(crate) const PLAN_TAILS: usize = 2;

/// Between two looks at the outbox's size.
pub(crate) const OUTBOX_LOOK: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    /// The shortest soak tells slopes, and the longest keeps few enough samples.
    #[test]
    fn soaks_of_any_length_have_neither_too_few_nor_too_many_samples() {
        let samples = |seconds: u64| {
            let every_ms = SAMPLE_MS_MIN.max(seconds * 1_000 / SAMPLES_MAX);
            seconds * 1_000 / every_ms * (100 - SOAK_WARM_UP_PERCENT) / 100
        };
        assert!(samples(60) >= 2 * SLOPE_SAMPLES_MIN as u64);
        assert!(samples(SECONDS_MAX) <= SAMPLES_MAX);
    }
}
