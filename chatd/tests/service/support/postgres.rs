//! One server a test binary, one database a test.

use super::wait_for;
use postgres::{Client, NoTls};
use proto::Uuid;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The role that owns a test's database: as in operation, no superuser.
const OWNER: &str = "realchat";

/// Longer than chatd needs to take in what was submitted.
const HELD: Duration = Duration::from_millis(300);

static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(&["fsync=on"]));
static DATABASES: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Server {
    folder: PathBuf,
    port: u16,
    /// Closing its standard input ends the server.
    keeper: Child,
}

/// A database of its own on the binary's server.
pub(crate) struct Database {
    name: String,
    port: u16,
    signing_key: PathBuf,
}

impl Server {
    pub(crate) fn start(settings: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("realchat-postgres-{}", proto::id::new()));
        std::fs::create_dir(&folder).unwrap();
        let bin = binaries();
        let port = free_port();
        let data = folder.join("data");
        let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
        // PostgreSQL refuses to run as root.
        let as_postgres: &[&str] = if is_root {
            let owner = Command::new("chown").arg("postgres").arg(&folder).status().unwrap();
            assert!(owner.success());
            &["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        } else {
            &[]
        };
        let run = |program: &Path| {
            let mut words = as_postgres.iter().map(std::ffi::OsString::from).collect::<Vec<_>>();
            words.push(program.into());
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).current_dir("/");
            command
        };
        let made = run(&bin.join("initdb"))
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-N", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success(), "initdb failed");
        // The keeper: waits for the pipe's end, then stops the server and removes the folder.
        let script = r#"folder=$1; shift; "$@" >"$folder/log" 2>&1 & pid=$!
            trap : INT TERM; cat >/dev/null; kill -INT $pid; wait $pid; rm -rf "$folder""#;
        let mut server = run(&bin.join("postgres"));
        server.arg("-D").arg(&data).args(["-k", "", "-h", "127.0.0.1", "-p", &port.to_string()]);
        for setting in settings.iter().chain(&["max_connections=300", "max_wal_size=4GB"]) {
            server.args(["-c", setting]);
        }
        let keeper = Command::new("sh")
            .args(["-c", script, "keeper"])
            .arg(&folder)
            .arg(server.get_program())
            .args(server.get_args())
            .current_dir("/")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let server = Self { folder, port, keeper };
        let mut client = wait_for("PostgreSQL", || server.connect("postgres", "postgres").ok());
        client
            .batch_execute(&format!("CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD 'x'"))
            .unwrap();
        server
    }

    fn connect(&self, user: &str, database: &str) -> Result<Client, postgres::Error> {
        let url = format!("postgres://{user}@127.0.0.1:{}/{database}", self.port);
        Client::connect(&url, NoTls)
    }

    pub(crate) fn database(&self) -> Database {
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let name = format!("realchat_{number}");
        let mut client = self.connect("postgres", "postgres").unwrap();
        client.batch_execute(&format!("CREATE DATABASE {name} OWNER {OWNER}")).unwrap();
        let signing_key =
            std::env::temp_dir().join(format!("realchat-key-{}.pem", proto::id::new()));
        Database { name, port: self.port, signing_key }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Database {
    pub(crate) fn new() -> Self {
        SERVER.database()
    }

    /// Shared by all chatds of the database, as in operation.
    pub(crate) fn signing_key(&self) -> &Path {
        &self.signing_key
    }

    /// As the owner, as chatd connects.
    pub(crate) fn url(&self) -> String {
        format!("postgres://{OWNER}@127.0.0.1:{}/{}", self.port, self.name)
    }

    pub(crate) fn owner(&self) -> Client {
        Client::connect(&self.url(), NoTls).unwrap()
    }

    /// Ends all that is connected as the owner.
    pub(crate) fn cut_connections(&self) {
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE usename = 'realchat' AND datname = current_database()";
        self.superuser().query(cut, &[]).unwrap();
    }

    /// Nothing is written to the conversation until `submit` is through and a while has passed.
    pub(crate) fn hold<T>(&self, conversation_id: Uuid, submit: impl FnOnce() -> T) -> T {
        let mut owner = self.owner();
        let mut transaction = owner.transaction().unwrap();
        let lock = "SELECT FROM messaging.conversations WHERE conversation_id = $1 FOR UPDATE";
        transaction.query(lock, &[&conversation_id]).unwrap();
        let submitted = submit();
        std::thread::sleep(HELD);
        transaction.commit().unwrap();
        submitted
    }

    pub(crate) fn superuser(&self) -> Client {
        let url = format!("postgres://postgres@127.0.0.1:{}/{}", self.port, self.name);
        Client::connect(&url, NoTls).unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.signing_key);
    }
}

/// The newest installed version's programs.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is not installed");
    let version = |entry: &std::fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let newest = versions.flatten().filter(|it| version(it).is_some()).max_by_key(version);
    newest.expect("PostgreSQL is not installed").path().join("bin")
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
