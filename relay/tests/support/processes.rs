//! Processes that a test starts, and stops when it ends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Sends a signal to one process, by its id.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(status.unwrap().success(), "kill -{name} {pid}");
}

/// A PostgreSQL in a folder of its own, with the migrations applied.
pub(crate) struct Postgres {
    folder: PathBuf,
    port: u16,
    child: Child,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("realchat-relay-{}", proto::id::new()));
        std::fs::create_dir(&folder).unwrap();
        if is_root() {
            let owned = Command::new("chown").arg("postgres:postgres").arg(&folder).status();
            assert!(owned.unwrap().success());
        }
        let data = folder.join("data");
        let made = unprivileged("initdb")
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success(), "initdb");
        let port = free_port();
        let postgres = Self { child: serve(&data, &folder, port), folder, port };
        let mut admin = postgres.connect("postgres", "postgres");
        admin.batch_execute("CREATE ROLE realchat LOGIN CREATEROLE").unwrap();
        admin.batch_execute("CREATE DATABASE realchat OWNER realchat").unwrap();
        postgres.migrate();
        postgres
    }

    fn migrate(&self) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sql");
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|it| it == "sql"));
        files.sort();
        let mut client = self.client();
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let applied = client.batch_execute(&text);
            assert!(applied.is_ok(), "{}: {applied:?}", file.display());
        }
    }

    fn connect(&self, user: &str, database: &str) -> postgres::Client {
        let url = format!("postgres://{user}@127.0.0.1:{}/{database}", self.port);
        for _ in 0..200 {
            if let Ok(client) = postgres::Client::connect(&url, postgres::NoTls) {
                return client;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("no PostgreSQL at {url}");
    }

    pub(crate) fn client(&self) -> postgres::Client {
        self.connect("realchat", "realchat")
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://realchat@127.0.0.1:{}/realchat", self.port)
    }

    /// Ends it as a crash would, and starts it again.
    pub(crate) fn crash_and_restart(&mut self, away: Duration) {
        signal(self.child.id(), "QUIT");
        self.child.wait().unwrap();
        std::thread::sleep(away);
        self.child = serve(&self.folder.join("data"), &self.folder, self.port);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        signal(self.child.id(), "QUIT");
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn serve(data: &Path, folder: &Path, port: u16) -> Child {
    unprivileged("postgres")
        .arg("-D")
        .arg(data)
        .arg("-k")
        .arg(folder)
        .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
        .args(["-c", "shared_buffers=256MB", "-c", "max_wal_size=4GB"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A program of PostgreSQL's; it refuses to run as root.
fn unprivileged(program: &str) -> Command {
    let mut folders: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|all| all.flatten().map(|it| it.path().join("bin")).collect())
        .unwrap_or_default();
    folders.sort();
    let path = folders.pop().map_or_else(|| PathBuf::from(program), |it| it.join(program));
    let mut command;
    if is_root() {
        command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
    } else {
        command = Command::new(path);
    }
    command.current_dir("/");
    command
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.starts_with(b"0\n")
}

/// Runs `relay dlq`: whether it succeeded, and all that it printed.
pub(crate) fn dead_letters(brokers: &str, arguments: &[&str]) -> (bool, String) {
    relay_command(&[("KAFKA_BROKERS", brokers)], &[&["dlq"], arguments].concat())
}

/// Runs a command of the relay's with these settings: whether it succeeded, and all that it printed.
pub(crate) fn relay_command(settings: &[(&str, &str)], arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_relay"))
        .envs(settings.iter().map(|(name, value)| (format!("REALCHAT_RELAY_{name}"), value)))
        .env("REALCHAT_RELAY_LOG_LEVEL", "error")
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// The folder of binaries that have failpoints; nothing if the environment names none.
pub(crate) fn failpoint_binaries() -> Option<PathBuf> {
    let folder = std::env::var_os("REALCHAT_FAILPOINT_BINARIES").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: REALCHAT_FAILPOINT_BINARIES does not name binaries with failpoints");
    }
    folder
}

/// A running relay.
pub(crate) struct Relay {
    child: Child,
    admin: String,
    log: PathBuf,
}

impl Relay {
    pub(crate) fn start(instance: &str, postgres: &Postgres, brokers: &str) -> Self {
        Self::start_with(instance, postgres, brokers, &[])
    }

    /// With settings of its own: names and values of environment variables.
    pub(crate) fn start_with(
        instance: &str,
        postgres: &Postgres,
        brokers: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        let binary = env!("CARGO_BIN_EXE_relay").as_ref();
        Self::start_binary(binary, instance, postgres, brokers, settings)
    }

    pub(crate) fn start_binary(
        binary: &Path,
        instance: &str,
        postgres: &Postgres,
        brokers: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        let admin = format!("127.0.0.1:{}", free_port());
        let log = std::env::temp_dir().join(format!("realchat-relay-{}.log", proto::id::new()));
        let child = Command::new(binary)
            .stderr(std::fs::File::create(&log).unwrap())
            .env("REALCHAT_RELAY_INSTANCE", instance)
            .env("REALCHAT_RELAY_ADMIN_LISTEN", &admin)
            .env("REALCHAT_RELAY_POSTGRES_URL", postgres.url())
            .env("REALCHAT_RELAY_KAFKA_BROKERS", brokers)
            .envs(settings.iter().copied())
            .spawn()
            .unwrap();
        Self { child, admin, log }
    }

    /// All that it wrote to its log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Lets it exit, fail or sleep at a place; only a binary with failpoints can.
    pub(crate) fn arm(&self, order: &str) {
        let answer = self.get(&format!("/failpoint/{order}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What it has used so far, in user and kernel.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // After the name: state is the first field, utime and stime the 12th and 13th, in 10 ms.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Waits for its end; its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.get("/readyz").starts_with("HTTP/1.1 200")
    }

    /// The sum of a metric over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics");
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix("realchat_relay_").and_then(|it| it.strip_prefix(name));
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(&self.admin) else { return String::new() };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let _ = write!(stream, "GET {path} HTTP/1.1\r\n\r\n");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = std::fs::remove_file(&self.log);
    }
}
