//! A daemon's life: arguments, configuration, start, signals, stop.

use crate::cli::Arguments;
use crate::config::{self, Config, Key};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::signals::{self, Signal};
use crate::{admin, log};
use clap::{CommandFactory, FromArgMatches};
use std::process::ExitCode;

/// What makes one daemon differ from the others.
pub struct Daemon {
    pub name: &'static str,
    pub about: &'static str,
    pub keys: &'static [Key],
    /// Starts the daemon's threads and returns; an error is one line for a person.
    pub start: fn(Context) -> Result<Box<dyn Running>, String>,
    /// Commands that run instead of the daemon, e.g. `chatd migrate`.
    pub commands: &'static [Command],
}

/// A command of a daemon's binary.
pub struct Command {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&Config, &[String]) -> Result<(), String>,
}

/// What a daemon is given to start with.
pub struct Context {
    pub config: Config,
    pub health: Health,
    pub metrics: Metrics,
    /// This process's name in logs, links and leases.
    pub instance: String,
}

/// A started daemon.
pub trait Running {
    /// SIGHUP: read again what can be read again (certificates, keys).
    fn reload(&mut self) {}
    /// SIGTERM: finish what was begun, then return; the process ends with exit code 0.
    fn stop(self: Box<Self>);
}

/// Exit code of a usage error or a configuration that cannot be used.
const EXIT_USAGE: u8 = 2;

/// The whole of a daemon's `main`.
#[must_use]
pub fn run(daemon: &Daemon) -> ExitCode {
    let arguments = match arguments(daemon) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let config = match config::load(daemon.name, daemon.keys, arguments.config.as_deref()) {
        Ok(config) => config,
        Err(error) => return fail(daemon, EXIT_USAGE, &error.to_string()),
    };
    if arguments.print_config {
        print(&config::print(daemon.name, daemon.keys, &config));
        return ExitCode::SUCCESS;
    }
    if arguments.check_config {
        print("the configuration is valid\n");
        return ExitCode::SUCCESS;
    }
    log::init(daemon.name, config.text("log.level"), config.text("log.format"));
    let outcome = match arguments.command.split_first() {
        Some((name, rest)) => match daemon.commands.iter().find(|it| it.name == *name) {
            Some(command) => (command.run)(&config, rest),
            None => return fail(daemon, EXIT_USAGE, &unknown_command(daemon, name)),
        },
        None => serve(daemon, config),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(daemon, 1, &error),
    }
}

fn arguments(daemon: &Daemon) -> Result<Arguments, ExitCode> {
    let commands = daemon.commands.iter().map(|it| format!("  {}  {}\n", it.name, it.about));
    let commands: String = commands.collect();
    let after = if commands.is_empty() { commands } else { format!("Commands:\n{commands}") };
    let command = Arguments::command().name(daemon.name).about(daemon.about).after_help(after);
    let parsed = command.try_get_matches().and_then(|it| Arguments::from_arg_matches(&it));
    parsed.map_err(|error| {
        let _ = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE))
    })
}

fn unknown_command(daemon: &Daemon, name: &str) -> String {
    let known: Vec<_> = daemon.commands.iter().map(|it| it.name).collect();
    format!("unknown command {name}; known are: {}", known.join(", "))
}

/// A thread that has panicked leaves a daemon that looks well and does a part of its work no more: the
/// process ends instead, by SIGABRT, and its supervisor starts it again.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, thread, panic = message, "a thread panicked: the process ends");
        std::process::abort();
    }));
}

fn serve(daemon: &Daemon, config: Config) -> Result<(), String> {
    end_on_panic();
    // Before any thread is started, so that every thread inherits the same handling.
    let mut signals = signals::catch().map_err(|error| format!("signals: {error}"))?;
    let instance = match config.text("instance") {
        "" => format!("{}-{}", daemon.name, std::process::id()),
        name => name.to_owned(),
    };
    #[cfg(feature = "failpoints")]
    crate::failpoint::arm_from_environment()?;
    let health = Health::default();
    let metrics = Metrics::new(daemon.name);
    let address = config.text("admin.listen");
    admin::serve(address, health.clone(), metrics.clone())
        .map_err(|error| format!("admin.listen {address}: {error}"))?;
    let context = Context { config, health: health.clone(), metrics, instance };
    let mut running = (daemon.start)(context)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
    while signals::wait(&mut signals) == Signal::Reload {
        tracing::info!("reloading");
        running.reload();
    }
    health.not_ready("stopping", "the process was asked to stop");
    running.stop();
    tracing::info!("stopped");
    Ok(())
}

fn fail(daemon: &Daemon, code: u8, error: &str) -> ExitCode {
    // Standard error, not the log: a person or a supervisor reads this one line.
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("{}: {error}\n", daemon.name).as_bytes(),
    );
    ExitCode::from(code)
}

fn print(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    const CHILD: &str = "REALCHAT_TEST_PANICS";

    /// Runs itself once more, as a process whose second thread panics.
    #[test]
    fn a_panic_of_any_thread_ends_the_process_and_says_where() {
        if std::env::var_os(CHILD).is_some() {
            log::init("test", "info", "json");
            end_on_panic();
            let thread = std::thread::Builder::new().name("worker".to_owned());
            let panics = || assert!(std::env::var_os(CHILD).is_none(), "on purpose");
            let _ = thread.spawn(panics).unwrap().join();
            std::process::exit(0);
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "run::tests::a_panic_of_any_thread_ends_the_process_and_says_where"])
            .arg("--nocapture")
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(6), "SIGABRT: {child:?}");
        let said = String::from_utf8_lossy(&child.stderr);
        for word in ["on purpose", "\"thread\":\"worker\"", "run.rs:"] {
            assert!(said.contains(word), "{said}");
        }
    }
}
