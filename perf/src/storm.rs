//! `perf storm`: every session is gone at once, some messages are sent, and all come back with their
//! cursors and their watermarks.

mod clients;
mod send;

use crate::clock;
use crate::failure::{Context, Failure, Outcome};
use crate::latency::per;
use crate::limits::{STORM_SETTLE_MS, STRAGGLERS_MS_MAX};
use crate::load::{self, Driver, Pace, Spec};
use crate::options::{StormOptions, count, within};
use crate::population::{self, Population};
use crate::process;
use crate::report::{self, progress, rounded};
use crate::scrape;
use crate::stack::Stack;
use crate::tokens::Minter;
use clients::Clients;
use proto::Uuid;
use serde::Serialize;

#[derive(Serialize)]
struct Report {
    last_synced_s: f64,
    from_cache: u64,
    from_chatd: u64,
    reset: u64,
    lost: u64,
    postgres_queries: u64,
    postgres_queries_background: u64,
    connections: u64,
    gap: u64,
    members: u64,
    missed_events: u64,
    duplicates: u64,
    gaps_left: u64,
    opened_s: f64,
    last_synced_since_start_s: f64,
    synced_p50_ms: f64,
    synced_p99_ms: f64,
    gateway_cpu_us_per_session: f64,
    sessions_closed: u64,
    last_synced_is: &'static str,
    postgres_queries_is: &'static str,
}

pub(crate) fn run(options: &StormOptions) -> Outcome {
    let most = process::connections_max()?;
    let connections = within("--connections", options.connections, 1..=most)?;
    let gap = within("--gap", options.gap, 1..=200)?;
    let members = within("--members", options.members, 2..=1_024.min(connections.max(2)))?;
    let at_once = count(within("--at-once", options.at_once, 1..=10_000)?);
    let stack = Stack::of(&options.common, 2)?;
    let mut random = fastrand::Rng::with_seed(options.common.seed);
    let conversations = connections.div_ceil(members);
    let (users, rooms, size) = (count(connections), count(conversations), count(members));
    let population = Population::plan(&mut random, users, rooms, size);
    progress!("perf: {connections} users in {conversations} conversations of {members}");
    population.insert(&stack.database_url()?)?;
    let minter = Minter::open(&stack.signing_key()?)?;
    let specs = load::specs(&stack.gateways()?, &minter, population.users.iter().copied())?;
    let mut crowd = Crowd { specs, at_once, clients: Clients::new(&population) };

    progress!("perf: {connections} sessions open and sync for the first time");
    let mut driver = crowd.come()?;
    if !crowd.clients.all_synced() {
        let unsynced = crowd.clients.unsynced();
        return Err(Failure::Refused(format!("{unsynced} sessions did not sync")));
    }
    settle();
    driver.close_all();
    progress!("perf: {gap} messages to each of {conversations} conversations");
    send_all(&stack, &population, gap)?;
    settle();
    crowd.clients.gone(gap);

    let before = Counts::take(&stack)?;
    let mut statements = Statements::open(&stack.database_url()?)?;
    let cpu_before = process::cpu_ns_sum(&stack.gateway_pids()?)?;
    let start_us = clock::now_us();
    let mut driver = crowd.come()?;
    let cpu_ns = process::cpu_ns_sum(&stack.gateway_pids()?)? - cpu_before;
    let queries = statements.since_start()?;
    // What comes twice or too late shows once nothing else comes.
    driver.run_until(clock::now_us() + STORM_SETTLE_MS * 1_000, &mut crowd.clients, |_| false)?;
    driver.close_all();
    let counts = Counts::take(&stack)?.less(&before);
    let report = report(options, &crowd.clients, start_us, (cpu_ns, counts, queries));
    report::print(&report, options.common.json)?;
    let unsynced = crowd.clients.unsynced();
    if unsynced + report.lost + report.reset > 0 {
        let (lost, reset) = (report.lost, report.reset);
        return Err(Failure::Refused(format!("{unsynced} not synced, {lost} lost, {reset} reset")));
    }
    Ok(())
}

/// All sessions.
struct Crowd {
    specs: Vec<Spec>,
    at_once: usize,
    clients: Clients,
}

impl Crowd {
    /// All connect and resume; returns once all are synced, or the patience is over.
    fn come(&mut self) -> Outcome<Driver> {
        let specs = self.specs.iter().enumerate();
        let specs = specs.map(|(index, spec)| Spec {
            hello: self.clients.hello(index),
            pace: Pace::Full,
            ..spec.clone()
        });
        let specs: Vec<Spec> = specs.collect();
        let mut driver = Driver::new()?;
        driver.open_at_once(self.at_once);
        driver.open_all(specs, &mut self.clients)?;
        let until_us = clock::now_us() + STRAGGLERS_MS_MAX * 1_000;
        driver.run_until(until_us, &mut self.clients, Clients::all_synced)?;
        Ok(driver)
    }
}

/// How the gateways answered resumes.
struct Counts {
    from_cache: u64,
    from_chatd: u64,
}

impl Counts {
    fn take(stack: &Stack) -> Outcome<Self> {
        let counter = |name: &str| scrape::gateways(stack, name, "");
        Ok(Self {
            from_cache: counter("resumes_from_cache_total")?,
            from_chatd: counter("resumes_from_chatd_total")?,
        })
    }

    fn less(self, before: &Self) -> Self {
        Self {
            from_cache: self.from_cache - before.from_cache,
            from_chatd: self.from_chatd - before.from_chatd,
        }
    }
}

fn settle() {
    clock::sleep_until(clock::now_us() + STORM_SETTLE_MS * 1_000);
}

fn report(
    options: &StormOptions,
    clients: &Clients,
    start_us: u64,
    (cpu_ns, counts, (queries, background)): (u64, Counts, (u64, u64)),
) -> Report {
    let seconds = |us: u64| rounded(per(us.saturating_sub(start_us), 1_000_000));
    let last_us = clients.last_synced_us();
    Report {
        last_synced_s: rounded(per(last_us.saturating_sub(clients.last_opened_us()), 1_000_000)),
        from_cache: counts.from_cache,
        from_chatd: counts.from_chatd,
        reset: clients.resets(),
        lost: clients.lost(),
        postgres_queries: queries.saturating_sub(background),
        postgres_queries_background: background,
        connections: options.connections,
        gap: options.gap,
        members: options.members,
        missed_events: clients.caught_up(),
        duplicates: clients.duplicates(),
        gaps_left: clients.gaps(),
        opened_s: seconds(clients.last_opened_us()),
        last_synced_since_start_s: seconds(last_us),
        synced_p50_ms: rounded(clients.synced_ms_at(0.5)),
        synced_p99_ms: rounded(clients.synced_ms_at(0.99)),
        gateway_cpu_us_per_session: rounded(per(cpu_ns, options.connections) / 1_000.0),
        sessions_closed: clients.closed(),
        last_synced_is: "from the last welcome to the last synced; synced_* are of each session, from \
                         its own welcome",
        postgres_queries_is: "the database's transactions during the storm, less as many as there \
                              were in as long a time just before it (..._background)",
    }
}

/// Transactions of the stack's database.
struct Statements {
    client: postgres::Client,
    start: u64,
    start_us: u64,
    /// How many there are, and in what time, while nothing happens.
    idle: (u64, u64),
}

impl Statements {
    /// Looks at the database while nothing happens, then starts to count.
    fn open(database_url: &str) -> Outcome<Self> {
        let client = population::connect(database_url)?;
        let mut statements = Self { client, start: 0, start_us: 0, idle: (0, 1) };
        // Idle connections tell the statistics of their last transactions late.
        statements.count()?;
        let (before, before_us) = (statements.count()?, clock::now_us());
        statements.start = statements.count()?;
        statements.start_us = clock::now_us();
        statements.idle = (statements.start - before, statements.start_us - before_us);
        Ok(statements)
    }

    /// Transactions since the start, and how many of them there would have been anyway.
    fn since_start(&mut self) -> Outcome<(u64, u64)> {
        let queries = self.count()?.saturating_sub(self.start);
        let (idle, idle_us) = self.idle;
        Ok((queries, idle * (clock::now_us() - self.start_us) / idle_us))
    }

    fn count(&mut self) -> Outcome<u64> {
        settle();
        let text = "SELECT xact_commit + xact_rollback FROM pg_stat_database
            WHERE datname = current_database()";
        let row = self.client.query_one(text, &[]).doing("PostgreSQL's statistics")?;
        u64::try_from(row.get::<_, i64>(0)).doing("PostgreSQL's statistics")
    }
}

/// Messages through chatd, as sessions would send them.
fn send_all(stack: &Stack, population: &Population, gap: u64) -> Outcome {
    let sends = population.conversations.iter().flat_map(|conversation| {
        let sender: Uuid = population.users[conversation.members[0]];
        (0..gap).map(move |_| (conversation.id, sender))
    });
    send::all(&stack.link("chatd")?, sends)
}
