//! Putting chatd together, and taking it apart.

use crate::accounts::{Tokens, TokensSettings};
use crate::app::App;
use crate::db::{self, Connection, Pool, Role, Settings};
use crate::dispatch::Dispatch;
use crate::failure::describe;
use crate::limits::{START_PAUSE_MS, START_WAIT_MS_MAX, STOP_FLUSH_MS, STOP_WAIT_MS_MAX};
use crate::metrics::ChatdMetrics;
use crate::monitor;
use crate::write::{Writers, WritersSettings, start_teller};
use crossbeam_channel::RecvTimeoutError;
use daemon::link::{ServerSettings, serve};
use daemon::{Config, Context, Metrics, Running};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

struct Chatd {
    app: Arc<App>,
}

pub(crate) fn start(context: Context) -> Result<Box<dyn Running>, String> {
    let Context { config, health, metrics, instance } = context;
    health.require("postgres", "not connected yet");
    health.require("link", "not listening yet");
    if config.text("link.secret").is_empty() {
        return Err("link.secret is not set, but gateways must know it".to_owned());
    }
    let metrics = ChatdMetrics::new(&metrics);
    let settings = Settings::new(&config, &instance, metrics.clone())?;
    let tokens = load_tokens(&config)?;
    prepare_database(&settings)?;
    let threads = |error: std::io::Error| format!("threads: {error}");
    let queue_max = config.count("postgres.queue_max");
    let app = Arc::new(App {
        tokens,
        refresh_lifetime_s: config.integer("tokens.refresh_lifetime_s"),
        writers: Writers::start(&settings, &writers_settings(&config)).map_err(threads)?,
        queries: Pool::start("query", &settings, config.count("postgres.pool_size"), queue_max)
            .map_err(threads)?,
        sign_ins: Pool::start(
            "sign-in",
            &settings,
            config.count("accounts.threads"),
            config.count("accounts.queue_max"),
        )
        .map_err(threads)?,
        metrics,
        is_stopping: AtomicBool::new(false),
    });
    let stopping = Arc::clone(&app);
    let is_stopping = move || stopping.is_stopping.load(Ordering::Acquire);
    start_teller(settings.clone(), is_stopping).map_err(threads)?;
    monitor::start(Arc::clone(&app), settings, health.clone()).map_err(threads)?;
    let address = config.text("link.listen").to_owned();
    let server = ServerSettings {
        address: address.clone(),
        secret: config.text("link.secret").to_owned(),
        instance,
    };
    serve(server, Arc::new(Dispatch(Arc::clone(&app))))
        .map_err(|error| format!("link.listen {address}: {error}"))?;
    health.ready("link");
    Ok(Box::new(Chatd { app }))
}

/// `chatd migrate`.
pub(crate) fn migrate(config: &Config, _: &[String]) -> Result<(), String> {
    let settings = command_settings(config)?;
    let count = db::migrate(&settings)?;
    tracing::info!(count, "migrations applied");
    Ok(())
}

/// Settings for a command, which has no metrics endpoint.
pub(crate) fn command_settings(config: &Config) -> Result<Settings, String> {
    let metrics = ChatdMetrics::new(&Metrics::new("chatd"));
    Settings::new(config, "chatd-command", metrics)
}

pub(crate) fn load_tokens(config: &Config) -> Result<Tokens, String> {
    let settings = TokensSettings {
        issuer: config.text("tokens.issuer").to_owned(),
        audience: config.text("tokens.audience").to_owned(),
        access_lifetime_s: config.integer("tokens.access_lifetime_s"),
    };
    Tokens::load(Path::new(config.text("tokens.signing_key")), settings)
}

fn writers_settings(config: &Config) -> WritersSettings {
    WritersSettings {
        count: config.count("writers.count"),
        batch_max: config.count("writers.batch_max"),
        queue_max: config.count("writers.queue_max"),
        retry: config.duration_ms("writers.retry_ms"),
    }
}

/// Waits for the server, checks that it keeps what it acknowledges, and applies migrations.
fn prepare_database(settings: &Settings) -> Result<(), String> {
    let start = Instant::now();
    loop {
        match Connection::open(settings, Role::Monitor) {
            Ok(mut connection) => {
                connection.check_durability(settings)?;
                break;
            }
            Err(error) if start.elapsed() > Duration::from_millis(START_WAIT_MS_MAX) => {
                return Err(format!("postgres.url: {}", describe(&error)));
            }
            Err(error) => {
                tracing::warn!(reason = describe(&error), "waiting for PostgreSQL");
                std::thread::sleep(Duration::from_millis(START_PAUSE_MS));
            }
        }
    }
    db::migrate(settings).map(|_| ())
}

impl Running for Chatd {
    /// What was taken is finished and answered; what comes meanwhile is refused as retryable.
    fn stop(self: Box<Self>) {
        self.app.is_stopping.store(true, Ordering::Release);
        let app = Arc::clone(&self.app);
        let (done, finished) = crossbeam_channel::bounded::<()>(0);
        let finish = move || {
            // Queries first: some of them wait for writers.
            app.queries.stop();
            app.sign_ins.stop();
            app.writers.stop();
            drop(done);
        };
        if std::thread::Builder::new().name("stop".into()).spawn(finish).is_ok()
            && finished.recv_timeout(Duration::from_millis(STOP_WAIT_MS_MAX))
                == Err(RecvTimeoutError::Timeout)
        {
            tracing::warn!(STOP_WAIT_MS_MAX, "stopping although some requests are unanswered");
        }
        std::thread::sleep(Duration::from_millis(STOP_FLUSH_MS));
    }
}
