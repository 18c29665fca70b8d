//! A Redis of a test's own, and what presenced would write there.

use super::processes::free_port;
use super::wait_until;
use proto::Uuid;
use proto::presence::{COMPLETE, user_key};
use std::process::{Child, Command, Stdio};

pub(crate) struct Redis {
    port: u16,
    child: Option<Child>,
}

impl Redis {
    /// With nobody online, and said to be complete.
    pub(crate) fn start() -> Self {
        let mut redis = Self { port: free_port(), child: None };
        redis.restart();
        redis.complete();
        redis
    }

    /// Starts it, with nothing in it.
    pub(crate) fn restart(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--save", "", "--bind", "127.0.0.1"])
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
        let client = redis::Client::open(self.url()).unwrap();
        wait_until(10, "redis", || {
            client.get_connection().is_ok_and(|mut it| redis::cmd("PING").exec(&mut it).is_ok())
        });
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn complete(&self) {
        self.ask(&["SET", COMPLETE, "1"]);
    }

    pub(crate) fn connect(&self, user: Uuid) {
        self.ask(&["SET", &user_key(user), "gateway-1"]);
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub(crate) fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    pub(crate) fn ask(&self, words: &[&str]) {
        let mut connection = self.connection();
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        command.exec(&mut connection).unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
