//! chatd as its own process, and a gateway's end of the link to it.

use super::{Database, PATIENCE, wait_for};
use crossbeam_channel::{Receiver, Sender, bounded};
use daemon::link::{Client, ClientSettings, LinkError};
use proto::client::Error;
use proto::link::{Http, HttpHeader, request::Request, response::Response};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};

const SECRET: &str = "the secret of the tests";

pub(crate) type Outcome = Result<Response, LinkError>;

/// A running chatd; killed when it is dropped.
pub(crate) struct Chatd {
    process: Child,
    folder: PathBuf,
    link: Client<Sender<Outcome>>,
}

/// chatd with the settings of a test; `settings` are names of keys with their values.
pub(crate) fn command(database: &Database, settings: &[(&str, &str)]) -> Command {
    command_of(env!("CARGO_BIN_EXE_chatd").as_ref(), database, settings)
}

fn command_of(binary: &Path, database: &Database, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary);
    command
        .env_clear()
        .env("REALCHAT_CHATD_POSTGRES_URL", database.url())
        .env("REALCHAT_CHATD_TOKENS_SIGNING_KEY", database.signing_key());
    for (key, value) in settings {
        let variable = key.to_uppercase().replace('.', "_");
        command.env(format!("REALCHAT_CHATD_{variable}"), value);
    }
    command
}

/// Runs a command of chatd to its end.
pub(crate) fn run(database: &Database, arguments: &[&str]) -> Output {
    command(database, &[]).args(arguments).output().unwrap()
}

impl Chatd {
    pub(crate) fn start(database: &Database) -> Self {
        Self::start_with(database, &[])
    }

    pub(crate) fn start_with(database: &Database, settings: &[(&str, &str)]) -> Self {
        Self::start_binary(env!("CARGO_BIN_EXE_chatd").as_ref(), database, settings)
    }

    pub(crate) fn start_binary(
        binary: &Path,
        database: &Database,
        settings: &[(&str, &str)],
    ) -> Self {
        let folder = std::env::temp_dir().join(format!("realchat-chatd-{}", proto::id::new()));
        std::fs::create_dir(&folder).unwrap();
        let address = format!("unix:{}", folder.join("link").display());
        let mut command = command_of(binary, database, settings);
        command
            .env("REALCHAT_CHATD_LINK_LISTEN", &address)
            .env("REALCHAT_CHATD_LINK_SECRET", SECRET)
            .env("REALCHAT_CHATD_LOG_LEVEL", "warn");
        let process = command.spawn().unwrap();
        let client_settings = ClientSettings {
            address,
            secret: SECRET.to_owned(),
            instance: "test".to_owned(),
            in_flight_max: 16_384,
        };
        let on_answer = |sender: Sender<Outcome>, outcome| {
            let _ = sender.send(outcome);
        };
        let link = Client::start(client_settings, on_answer, |_| {}).unwrap();
        wait_for("chatd", || link.is_connected().then_some(()));
        Self { process, folder, link }
    }

    /// Asks without waiting.
    pub(crate) fn submit(&self, request: Request) -> Receiver<Outcome> {
        let (sender, receiver) = bounded(1);
        if let Err((sender, error)) = self.link.submit(request, String::new(), PATIENCE, sender) {
            sender.send(Err(error)).unwrap();
        }
        receiver
    }

    /// Asks and waits; an error answer is an error.
    pub(crate) fn ask(&self, request: Request) -> Result<Response, Error> {
        match self.submit(request).recv_timeout(PATIENCE * 2).unwrap().unwrap() {
            Response::Error(error) => Err(error),
            response => Ok(response),
        }
    }

    /// Calls the JSON API; the body is null where there is none.
    pub(crate) fn http(
        &self,
        method: &str,
        target: &str,
        token: Option<&str>,
        body: &Value,
    ) -> (u32, Value) {
        let bearer = token.map(|token| HttpHeader {
            name: "Authorization".into(),
            value: format!("Bearer {token}"),
        });
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::Http(Http {
            method: method.into(),
            target: target.into(),
            headers: bearer.into_iter().collect(),
            body,
            client_ip: "127.0.0.1".into(),
        });
        match self.ask(request).unwrap() {
            Response::Http(result) => {
                let body = serde_json::from_slice(&result.body).unwrap_or_default();
                (result.status, body)
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("chatd's end", || self.process.try_wait().unwrap())
    }

    /// SIGTERM, and the end that follows.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.process.wait().unwrap()
    }
}

impl Drop for Chatd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
