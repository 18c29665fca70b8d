//! The lease thread: carries the rules of [`crate::lease`] to the database and back.

use crate::config::Settings;
use crate::database::{Backoff, connect, explain};
use crate::lease::{Action, Event, Leases, Row, Shard, Token};
use crate::limits::{LEASE_MS_MAX, RENEW_PERCENT, STOP_MS_MAX};
use crate::metrics::RelayMetrics;
use crate::ownership::{Grant, Ownership};
use crate::wake::{ALIVE, GONE, Peers, wake_all};
use crossbeam_channel::{Receiver, Sender};
use daemon::Health;
use postgres::{Client, Statement};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const OBSERVE: &str = "
    SELECT shard, owner, CASE
        WHEN isfinite(expires_at)
            THEN (extract(epoch FROM expires_at - clock_timestamp()) * 1000)::bigint
        WHEN expires_at = 'infinity' THEN 9223372036854775807
        ELSE 0 END
    FROM messaging.outbox_leases";

/// Takes leases that expired, those that an earlier run of the same name left, and endless ones.
///
/// The token grows with every change of owner. That of a new row is the time, so that it grows as well
/// where a row was deleted.
const CLAIM: &str = "
    INSERT INTO messaging.outbox_leases AS held (shard, owner, fencing_token, expires_at)
    SELECT wanted, $2, (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
        clock_timestamp() + $3 * interval '1 millisecond'
    FROM unnest($1::smallint[]) AS wanted
    ON CONFLICT (shard) DO UPDATE SET
        owner = excluded.owner,
        fencing_token = CASE WHEN held.fencing_token = 9223372036854775807
            THEN excluded.fencing_token
            ELSE GREATEST(held.fencing_token + 1, excluded.fencing_token) END,
        expires_at = clock_timestamp() + $3 * interval '1 millisecond'
    WHERE held.expires_at <= clock_timestamp() OR held.owner = excluded.owner
        OR held.expires_at > clock_timestamp() + $4 * interval '1 millisecond'
    RETURNING shard, fencing_token";

const EXTEND: &str = "
    UPDATE messaging.outbox_leases AS held
    SET expires_at = clock_timestamp() + $3 * interval '1 millisecond'
    FROM unnest($1::smallint[], $2::bigint[]) AS mine (shard, token)
    WHERE held.shard = mine.shard AND held.fencing_token = mine.token AND held.owner = $4
    RETURNING held.shard";

/// When the oldest unpublished row of these shards was made, and the largest shard in use.
const SURVEY: &str = "
    SELECT
        (SELECT min(first.created_at_us) FROM unnest($1::smallint[]) AS owned (shard)
            CROSS JOIN LATERAL (
                SELECT created_at_us FROM messaging.outbox
                WHERE shard = owned.shard ORDER BY id LIMIT 1
            ) first),
        (SELECT shard FROM messaging.outbox ORDER BY shard DESC LIMIT 1)";

struct Statements {
    observe: Statement,
    claim: Statement,
    extend: Statement,
    survey: Statement,
}

pub(crate) struct Keeper {
    pub(crate) settings: Settings,
    pub(crate) ownership: Ownership,
    pub(crate) peers: Peers,
    pub(crate) metrics: RelayMetrics,
    pub(crate) health: Health,
    pub(crate) wake: Vec<Sender<()>>,
    /// Closed or sent to when the process stops.
    pub(crate) stop: Receiver<()>,
    started: Instant,
    leases: Leases,
    /// Rows of the lease table that no relay wrote and that were told of already.
    strange: BTreeSet<(Shard, String)>,
}

impl Keeper {
    pub(crate) fn new(
        settings: Settings,
        ownership: Ownership,
        peers: Peers,
        metrics: RelayMetrics,
        health: Health,
        wake: Vec<Sender<()>>,
        stop: Receiver<()>,
    ) -> Self {
        let lease_ms = u64::try_from(settings.lease.as_millis()).unwrap_or(u64::MAX);
        let leases = Leases::new(settings.instance.clone(), settings.shards, lease_ms);
        let started = Instant::now();
        let strange = BTreeSet::new();
        Self { settings, ownership, peers, metrics, health, wake, stop, started, leases, strange }
    }

    /// Runs until the process stops and all leases are given back.
    pub(crate) fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut stopping = None;
        loop {
            let ended = match self.hold(&mut backoff, &mut stopping) {
                Ok(()) => true,
                Err(error) => {
                    self.health.not_ready("postgres", error);
                    stopping.is_some()
                }
            };
            if ended {
                return;
            }
            if self.stop.recv_timeout(backoff.next()).is_ok() {
                stopping = Some(self.begin_stop());
            }
            self.publish_grants();
        }
    }

    /// From here on leases are only given back; returns since when.
    fn begin_stop(&mut self) -> Instant {
        let now = Instant::now();
        self.leases.step(self.now_ms(now), Event::Stop);
        self.publish_grants();
        now
    }

    /// One connection's life: ticks until the process stops.
    fn hold(
        &mut self,
        backoff: &mut Backoff,
        stopping: &mut Option<Instant>,
    ) -> Result<(), String> {
        let mut client = connect(&self.settings.postgres_url, "lease")?;
        let statements = prepare(&mut client).map_err(|error| explain(&error))?;
        let tick = self.settings.lease_part(RENEW_PERCENT);
        let mut next = Instant::now();
        loop {
            self.tick(&mut client, &statements).map_err(|error| explain(&error))?;
            self.health.ready("postgres");
            backoff.reset();
            if let Some(since) = *stopping {
                if self.leases.is_empty() || since.elapsed() > Duration::from_millis(STOP_MS_MAX) {
                    // So that the others take its share at once. If this is lost, they do it later.
                    let farewell = format!("{GONE}{}", self.settings.instance);
                    let _ = client.execute("SELECT pg_notify($1, $2)", &[&ALIVE, &farewell]);
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            next = (next + tick).max(Instant::now());
            if self.stop.recv_deadline(next).is_ok() {
                *stopping = Some(self.begin_stop());
            }
        }
    }

    fn tick(
        &mut self,
        client: &mut Client,
        statements: &Statements,
    ) -> Result<(), postgres::Error> {
        // Before the look at what is busy: a worker must not begin what is about to be released.
        self.publish_grants();
        let busy = self.ownership.busy();
        let mut actions = self.leases.step(self.now_ms(Instant::now()), Event::Tick { busy });
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                let asked_ms = self.now_ms(Instant::now());
                if let Some(event) = self.perform(client, statements, action, asked_ms)? {
                    let now_ms = self.now_ms(Instant::now());
                    actions.extend(self.leases.step(now_ms, event));
                }
            }
        }
        self.publish_grants();
        self.survey(client, statements)
    }

    fn perform(
        &mut self,
        client: &mut Client,
        statements: &Statements,
        action: Action,
        asked_ms: u64,
    ) -> Result<Option<Event>, postgres::Error> {
        let me = &self.settings.instance.clone();
        let lease_ms = self.settings.lease.as_millis();
        #[allow(clippy::cast_precision_loss, reason = "PostgreSQL multiplies intervals by doubles")]
        let lease_ms = lease_ms as f64;
        Ok(match action {
            Action::Observe => {
                client.execute("SELECT pg_notify($1, $2)", &[&ALIVE, me])?;
                let rows = client.query(&statements.observe, &[])?;
                let row = |row: &postgres::Row| Row {
                    shard: row.get(0),
                    owner: row.get(1),
                    remaining_ms: row.get(2),
                };
                let rows: Vec<Row> = rows.iter().map(row).collect();
                self.tell_strange(&rows);
                let peers = self.peers.others(me, self.settings.lease);
                Some(Event::Observed { rows, peers })
            }
            Action::Claim(shards) => {
                let rows = client.query(
                    &statements.claim,
                    &[&shards, me, &lease_ms, &f64::from(LEASE_MS_MAX)],
                )?;
                let granted: Vec<(Shard, Token)> =
                    rows.iter().map(|row| (row.get(0), row.get(1))).collect();
                tracing::info!(shards = ?granted, "shards taken");
                Some(Event::Claimed { asked_ms, granted })
            }
            Action::Renew(asked) => {
                let granted = self.extend(client, statements, &asked, lease_ms)?;
                let lost: Vec<_> = asked.iter().filter(|it| !granted.contains(&it.0)).collect();
                if !lost.is_empty() {
                    tracing::warn!(
                        shards = ?lost,
                        "leases lost: the table has another owner or token for them, or no row"
                    );
                }
                Some(Event::Renewed { asked_ms, asked, granted })
            }
            Action::Release(leases) => {
                self.extend(client, statements, &leases, 0.0)?;
                tracing::info!(shards = ?leases, "shards given back");
                None
            }
        })
    }

    fn extend(
        &self,
        client: &mut Client,
        statements: &Statements,
        leases: &[(Shard, Token)],
        for_ms: f64,
    ) -> Result<Vec<Shard>, postgres::Error> {
        let (shards, tokens): (Vec<Shard>, Vec<Token>) = leases.iter().copied().unzip();
        let me = &self.settings.instance;
        let rows = client.query(&statements.extend, &[&shards, &tokens, &for_ms, me])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Names the rows that no relay wrote, once.
    fn tell_strange(&mut self, rows: &[Row]) {
        let shards = self.settings.shards;
        let is_strange = |row: &&Row| row.is_endless() || !(0..shards).contains(&row.shard);
        let strange: BTreeSet<(Shard, String)> =
            rows.iter().filter(is_strange).map(|row| (row.shard, row.owner.clone())).collect();
        for row in rows.iter().filter(is_strange) {
            if self.strange.contains(&(row.shard, row.owner.clone())) {
                continue;
            }
            let (shard, owner, remaining_ms) = (row.shard, &row.owner, row.remaining_ms);
            if row.is_endless() {
                tracing::warn!(
                    shard,
                    owner,
                    remaining_ms,
                    "a lease that no relay wrote: it ends too late, and is taken if it stays so"
                );
            } else {
                tracing::warn!(shard, owner, shards, "a lease of a shard that does not exist");
            }
        }
        self.strange = strange;
    }

    /// Tells the workers what they may publish from, and wakes them if that is more than before.
    fn publish_grants(&self) {
        let now_ms = self.now_ms(Instant::now());
        let grant = |(shard, held): (Shard, crate::lease::Held)| Grant {
            shard,
            token: held.token,
            valid_until: self.started + Duration::from_millis(held.valid_until_ms),
        };
        let grants: Vec<Grant> = self.leases.usable(now_ms).map(grant).collect();
        let held = i64::try_from(grants.len()).unwrap_or(i64::MAX);
        let before = self.metrics.shards_held.set(held);
        self.ownership.grant(grants);
        if held > before {
            wake_all(&self.wake);
        }
    }

    fn survey(&self, client: &mut Client, statements: &Statements) -> Result<(), postgres::Error> {
        let now_ms = self.now_ms(Instant::now());
        let shards: Vec<Shard> = self.leases.usable(now_ms).map(|(shard, _)| shard).collect();
        let row = client.query_one(&statements.survey, &[&shards])?;
        let oldest_us: Option<i64> = row.get(0);
        let age_us = oldest_us.map_or(0, |at_us| {
            i64::try_from(daemon::clock::now_us()).unwrap_or(i64::MAX).saturating_sub(at_us)
        });
        self.metrics.oldest_age_ms.set(age_us.max(0) / 1_000);
        let configured = self.settings.shards;
        match row.get::<_, Option<Shard>>(1) {
            Some(largest) if largest >= configured => self.health.not_ready(
                "shards",
                format!(
                    "the outbox uses shard {largest}, but relay.shards is {configured}; \
                     both must be what chatd writes"
                ),
            ),
            _ => self.health.ready("shards"),
        }
        Ok(())
    }

    fn now_ms(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

fn prepare(client: &mut Client) -> Result<Statements, postgres::Error> {
    Ok(Statements {
        observe: client.prepare(OBSERVE)?,
        claim: client.prepare(CLAIM)?,
        extend: client.prepare(EXTEND)?,
        survey: client.prepare(SURVEY)?,
    })
}
