//! One connection: its role, its guards, its prepared statements and their latency.

use super::CopyRows;
use crate::failure::{Failure, describe};
use crate::limits::{CONNECTION_CHECK_MS_MAX, CONNECTION_IDLE_MS_MAX, CONNECTION_SILENT_S_MAX};
use crate::metrics::ChatdMetrics;
use daemon::Config;
use daemon::failpoint;
use postgres::types::ToSql;
use postgres::{Client, NoTls, Row, Statement};
use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

/// One statement: its name in metrics, and its text. Prepared once a connection.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

/// Parameters of a statement.
pub(crate) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// As whom a connection works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Migrations, which may build an index for longer than any query may run.
    Owner,
    /// What no request asks for, with the owner's rights.
    Monitor,
    Messaging,
    /// Messaging, with plans that are made once.
    Writer,
    Accounts,
    Profiles,
}

impl Role {
    const fn statements(self) -> &'static str {
        match self {
            Self::Owner | Self::Monitor => "",
            // All look a few keys up by index, and nothing else is ever right: a plan made while
            // the tables were small must not scan them when they are large.
            Self::Messaging => {
                "SET ROLE realchat_messaging; SET enable_seqscan = off; SET enable_hashjoin = off; \
                 SET enable_mergejoin = off; SET jit = off"
            }
            Self::Writer => {
                "SET ROLE realchat_messaging; SET enable_seqscan = off; SET enable_hashjoin = off; \
                 SET enable_mergejoin = off; SET jit = off; \
                 SET plan_cache_mode = force_generic_plan"
            }
            Self::Accounts => "SET ROLE realchat_accounts",
            Self::Profiles => "SET ROLE realchat_profiles",
        }
    }
}

/// How to connect, and what to demand of the server.
#[derive(Clone)]
pub(crate) struct Settings {
    config: postgres::Config,
    statement_timeout_ms: u64,
    lock_timeout_ms: u64,
    allow_data_loss: bool,
    metrics: ChatdMetrics,
}

impl Settings {
    /// An error is one line for a person; it does not repeat the URL, which may hold a password.
    pub(crate) fn new(
        config: &Config,
        instance: &str,
        metrics: ChatdMetrics,
    ) -> Result<Self, String> {
        let mut postgres: postgres::Config = config
            .text("postgres.url")
            .parse()
            .map_err(|error| format!("postgres.url cannot be read: {error}"))?;
        let silent = Duration::from_secs(CONNECTION_SILENT_S_MAX);
        postgres
            .application_name(instance)
            .connect_timeout(config.duration_ms("postgres.connect_timeout_ms"))
            .tcp_user_timeout(silent)
            .keepalives_idle(silent / 3)
            .keepalives_interval(silent / 3)
            .keepalives_retries(2);
        Ok(Self {
            config: postgres,
            statement_timeout_ms: config.integer("postgres.statement_timeout_ms"),
            lock_timeout_ms: config.integer("postgres.lock_timeout_ms"),
            allow_data_loss: config.boolean("postgres.allow_data_loss"),
            metrics,
        })
    }

    pub(crate) fn metrics(&self) -> &ChatdMetrics {
        &self.metrics
    }
}

/// A connection with its role set and its statements prepared as they are first used.
pub(crate) struct Connection {
    client: Client,
    statements: HashMap<&'static str, Statement>,
    metrics: ChatdMetrics,
    used_at: Instant,
}

impl Connection {
    pub(crate) fn open(settings: &Settings, role: Role) -> Result<Self, postgres::Error> {
        let mut client = settings.config.connect(NoTls)?;
        let statement_timeout_ms =
            if role == Role::Owner { 0 } else { settings.statement_timeout_ms };
        client.batch_execute(&format!(
            "SET statement_timeout = {statement_timeout_ms}; SET lock_timeout = {}; \
             SET idle_in_transaction_session_timeout = {}; SET client_min_messages = warning; {}",
            settings.lock_timeout_ms,
            settings.statement_timeout_ms.saturating_mul(6),
            role.statements(),
        ))?;
        if failpoint::is_planted(failpoint::ASYNCHRONOUS_COMMIT) {
            client.batch_execute("SET synchronous_commit = off")?;
        }
        let metrics = settings.metrics.clone();
        Ok(Self { client, statements: HashMap::new(), metrics, used_at: Instant::now() })
    }

    pub(crate) fn metrics(&self) -> &ChatdMetrics {
        &self.metrics
    }

    /// Does the server keep what it acknowledged? An error names each setting that does not.
    pub(crate) fn check_durability(&mut self, settings: &Settings) -> Result<(), String> {
        if failpoint::is_planted(failpoint::ASYNCHRONOUS_COMMIT) {
            return Ok(());
        }
        let mut off = Vec::new();
        for name in ["fsync", "full_page_writes", "synchronous_commit"] {
            let row = self
                .client
                .query_one("SELECT current_setting($1)", &[&name])
                .map_err(|error| describe(&error))?;
            let value: String = row.get(0);
            tracing::info!(setting = name, value, "postgres durability");
            if value == "off" {
                off.push(name);
            }
        }
        if off.is_empty() {
            return Ok(());
        }
        let off = off.join(", ");
        if settings.allow_data_loss {
            tracing::error!(off, "acknowledged messages may be lost in a crash of the server");
            return Ok(());
        }
        Err(format!(
            "the PostgreSQL server has {off} off, so acknowledged messages could be lost; turn it \
             on, or set postgres.allow_data_loss = true"
        ))
    }

    /// Is it worth using? A connection that was idle is tried first, because a server that was
    /// restarted meanwhile is noticed only by asking it.
    pub(crate) fn is_usable(&mut self) -> bool {
        if self.client.is_closed() {
            return false;
        }
        self.used_at.elapsed() < Duration::from_millis(CONNECTION_IDLE_MS_MAX)
            || self.client.is_valid(Duration::from_millis(CONNECTION_CHECK_MS_MAX)).is_ok()
    }

    pub(crate) fn rows(
        &mut self,
        query: &Query,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, postgres::Error> {
        let statement = self.statement(query)?;
        let start = Instant::now();
        let outcome = self.client.query(&statement, parameters);
        self.measure(query.name, start);
        outcome
    }

    /// The first row, if there is one.
    pub(crate) fn row(
        &mut self,
        query: &Query,
        parameters: Parameters<'_>,
    ) -> Result<Option<Row>, postgres::Error> {
        Ok(self.rows(query, parameters)?.into_iter().next())
    }

    /// How many rows were changed.
    pub(crate) fn execute(
        &mut self,
        query: &Query,
        parameters: Parameters<'_>,
    ) -> Result<u64, postgres::Error> {
        let statement = self.statement(query)?;
        let start = Instant::now();
        let outcome = self.client.execute(&statement, parameters);
        self.measure(query.name, start);
        outcome
    }

    /// Sends rows to a `COPY ... FROM STDIN (FORMAT binary)`; how many arrived.
    pub(crate) fn copy(&mut self, query: &Query, rows: CopyRows) -> Result<u64, postgres::Error> {
        let statement = self.statement(query)?;
        let start = Instant::now();
        let rows = rows.finish();
        let outcome = self.client.copy_in(&statement).and_then(|mut writer| {
            // A refused write shows as the error of the statement.
            let _ = writer.write_all(&rows);
            writer.finish()
        });
        self.measure(query.name, start);
        outcome
    }

    /// Runs statements that take no parameters; `name` is the one in metrics.
    pub(crate) fn batch(&mut self, name: &'static str, sql: &str) -> Result<(), postgres::Error> {
        let start = Instant::now();
        let outcome = self.client.batch_execute(sql);
        self.measure(name, start);
        outcome
    }

    /// Runs `work` in one transaction: committed if it succeeds, rolled back if not. After an error
    /// of the commit itself nobody knows whether it happened.
    pub(crate) fn transaction<T, E: From<postgres::Error>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.batch("begin", "BEGIN")?;
        match work(self) {
            Ok(value) => {
                self.batch("commit", "COMMIT")?;
                Ok(value)
            }
            Err(error) => {
                // If this fails, so is the connection, and the server rolls back by itself.
                let _ = self.batch("rollback", "ROLLBACK");
                Err(error)
            }
        }
    }

    fn statement(&mut self, query: &Query) -> Result<Statement, postgres::Error> {
        if let Some(statement) = self.statements.get(query.name) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(query.sql)?;
        self.statements.insert(query.name, statement.clone());
        Ok(statement)
    }

    fn measure(&mut self, name: &'static str, start: Instant) {
        self.used_at = Instant::now();
        self.metrics.statement(name, self.used_at - start);
    }
}

/// Keeps `slot` filled with a usable connection.
pub(super) fn ensure<'a>(
    slot: &'a mut Option<Connection>,
    settings: &Settings,
    role: Role,
) -> Result<&'a mut Connection, Failure> {
    let usable = slot.as_mut().is_some_and(Connection::is_usable);
    let connection = match slot.take() {
        Some(connection) if usable => connection,
        _ => Connection::open(settings, role)?,
    };
    Ok(slot.insert(connection))
}
