//! All that keeps newcomers from connecting, a line a check, with the remedy.

use crate::context::Context;
use crate::failure::Failure;
use crate::relay;
use crate::store::now_us;
use client::{Notice, Update, Waited, websocket_url};
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

const CONNECT_MS_MAX: u64 = 3_000;
const WELCOME_SECONDS_MAX: u64 = 10;
/// A clock that is off by more than this makes valid tokens look expired.
const CLOCK_OFF_SECONDS_MAX: f64 = 30.0;
/// A gateway needs a descriptor a session.
const OPEN_FILES_MIN: u64 = 65_536;
const LISTEN_BACKLOG_MIN: u64 = 4_096;
/// Ports for outgoing connections; each client on one machine needs one.
const LOCAL_PORTS_MIN: u64 = 28_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Check {
    check: String,
    status: Status,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// Prints checks and remembers whether one failed.
struct Report<'a> {
    context: &'a Context,
    failed: usize,
    server_away: bool,
}

impl Report<'_> {
    fn add(
        &mut self,
        check: &str,
        status: Status,
        detail: impl Into<String>,
        remedy: &str,
    ) -> Result<(), Failure> {
        let detail = detail.into();
        let word = match status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        self.failed += usize::from(status == Status::Fail);
        let remedy = (status != Status::Ok && !remedy.is_empty()).then(|| remedy.to_owned());
        let mut text = format!("{word}  {check}: {detail}");
        if let Some(remedy) = &remedy {
            text = format!("{text}  -> {remedy}");
        }
        let check = Check { check: check.to_owned(), status, detail, remedy };
        Ok(self.context.out.line(&check, &text)?)
    }

    fn ok(&mut self, check: &str, detail: impl Into<String>) -> Result<(), Failure> {
        self.add(check, Status::Ok, detail, "")
    }
}

pub(crate) fn doctor(context: &Context) -> Result<(), Failure> {
    let mut report = Report { context, failed: 0, server_away: false };
    versions(&mut report)?;
    limits(&mut report)?;
    ports(&mut report)?;
    parts(&mut report)?;
    if !report.server_away {
        keys(&mut report)?;
        session(&mut report)?;
    }
    match report.failed {
        0 => Ok(()),
        failed if report.server_away => {
            Err(Failure::unreachable(format!("{failed} checks failed: see their remedies")))
        }
        failed => Err(Failure::refused(
            "checks_failed",
            format!("{failed} checks failed: see their remedies"),
        )),
    }
}

fn versions(report: &mut Report) -> Result<(), Failure> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let own = env!("CARGO_PKG_VERSION");
    let detail =
        format!("realchat {own}, protocol {}, kernel {}", proto::SUBPROTOCOL_PROTO, kernel.trim());
    report.ok("versions", detail)
}

/// This machine's limits: they matter where gateways run, and where many clients do.
fn limits(report: &mut Report) -> Result<(), Failure> {
    let files = fs::read_to_string("/proc/self/limits").ok().and_then(|text| open_files(&text));
    if let Some(files) = files {
        let status = if files >= OPEN_FILES_MIN { Status::Ok } else { Status::Warn };
        let remedy = "where a gateway runs: LimitNOFILE=1048576 in its unit, or ulimit -n 1048576";
        report.add("limit open files", status, files.to_string(), remedy)?;
    }
    for (name, minimum) in [
        ("net.core.somaxconn", LISTEN_BACKLOG_MIN),
        ("net.ipv4.tcp_max_syn_backlog", 1_024),
        ("fs.nr_open", OPEN_FILES_MIN),
    ] {
        let Some(value) = sysctl(name).and_then(|text| text.parse::<u64>().ok()) else { continue };
        let status = if value >= minimum { Status::Ok } else { Status::Warn };
        let remedy = format!("where a gateway runs: sysctl -w {name}={minimum}");
        report.add(&format!("sysctl {name}"), status, value.to_string(), &remedy)?;
    }
    if let Some(range) = sysctl("net.ipv4.ip_local_port_range") {
        let ends: Vec<u64> = range.split_whitespace().filter_map(|it| it.parse().ok()).collect();
        if let [first, last] = ends[..] {
            let ports = last.saturating_sub(first);
            let status = if ports >= LOCAL_PORTS_MIN { Status::Ok } else { Status::Warn };
            let remedy = "sysctl -w net.ipv4.ip_local_port_range='1024 65535'";
            report.add("sysctl ip_local_port_range", status, format!("{ports} ports"), remedy)?;
        }
    }
    Ok(())
}

/// The soft limit in /proc/self/limits.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    let soft = line.split_whitespace().nth(3)?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

fn sysctl(name: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Can each gateway's port be connected to, and is the way encrypted?
fn ports(report: &mut Report) -> Result<(), Failure> {
    let mut reached = 0_usize;
    for url in report.context.api.urls() {
        let check = format!("port {url}");
        match connect(url) {
            Ok((address, took)) => {
                reached += 1;
                report.ok(&check, format!("{address} connects in {} ms", took.as_millis()))?;
                let check = format!("certificate {url}");
                if let Some(authority) = url.strip_prefix("https://") {
                    certificate(report, &check, authority, address)?;
                } else if address.ip().is_loopback() {
                    report.ok(&check, "none needed on loopback")?;
                } else {
                    let remedy =
                        "give the gateways that outsiders reach tls.listen, or a TLS proxy";
                    report.add(&check, Status::Warn, "none: traffic is not encrypted", remedy)?;
                }
            }
            Err(problem) => {
                let remedy = "start the stack (scripts/up), or name its address: --server URL";
                report.add(&check, Status::Fail, problem, remedy)?;
            }
        }
    }
    report.server_away = reached == 0;
    Ok(())
}

/// Is the server who its URL says?
fn certificate(
    report: &mut Report,
    check: &str,
    authority: &str,
    address: SocketAddr,
) -> Result<(), Failure> {
    let host = authority.split('/').next().unwrap_or(authority);
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => host,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let limit = Duration::from_millis(CONNECT_MS_MAX);
    let checked = TcpStream::connect_timeout(&address, limit)
        .and_then(|stream| {
            stream.set_read_timeout(Some(limit))?;
            stream.set_write_timeout(Some(limit))?;
            Ok(stream)
        })
        .map_err(|error| error.to_string())
        .and_then(|stream| report.context.trust.check(host, stream));
    match checked {
        Ok(version) => report.ok(check, format!("believed, for {host}; {version}")),
        Err(problem) => {
            let remedy = "of a private authority? --ca FILE, or REALCHAT_CA_FILE";
            report.add(check, Status::Fail, problem, remedy)
        }
    }
}

fn connect(url: &str) -> Result<(SocketAddr, Duration), String> {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or(host);
    let host = if host.rsplit(':').next().is_some_and(|it| it.parse::<u16>().is_ok()) {
        host.to_owned()
    } else {
        format!("{host}:{}", if url.starts_with("https://") { 443 } else { 80 })
    };
    let addresses = host.to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
    let mut problem = format!("{host} has no address");
    for address in addresses {
        let began = Instant::now();
        match TcpStream::connect_timeout(&address, Duration::from_millis(CONNECT_MS_MAX)) {
            Ok(_) => return Ok((address, began.elapsed())),
            Err(error) => problem = format!("{address}: {error}"),
        }
    }
    Err(problem)
}

/// The parts whose admin addresses the environment names (as a stack's `env` file does).
fn parts(report: &mut Report) -> Result<(), Failure> {
    let mut admins: Vec<(String, String)> = std::env::vars()
        .filter_map(|(key, url)| Some((key.strip_suffix("_ADMIN_URL")?.to_lowercase(), url)))
        .collect();
    admins.sort();
    for (part, url) in admins {
        let check = format!("ready {part}");
        match report.context.api.status_of(&format!("{url}/readyz")) {
            Ok(200) => report.ok(&check, "ready")?,
            Ok(status) => {
                let detail = format!("not ready: {url}/readyz says {status}");
                report.add(
                    &check,
                    Status::Fail,
                    detail,
                    "curl that address: it says what it waits for",
                )?;
            }
            Err(error) => {
                report.add(
                    &check,
                    Status::Fail,
                    error.to_string(),
                    "scripts/status, then its log",
                )?;
            }
        }
    }
    let brokers = std::env::var("KAFKA_BROKERS").unwrap_or_default();
    for broker in brokers.split([',', ' ']).filter(|broker| !broker.is_empty()) {
        let check = format!("port kafka {broker}");
        match connect(broker) {
            Ok((_, took)) => report.ok(&check, format!("connects in {} ms", took.as_millis()))?,
            Err(problem) => report.add(&check, Status::Fail, problem, "start the broker")?,
        }
    }
    if relay::has_brokers() { topics(report) } else { Ok(()) }
}

/// A topic, as `relay topics` tells of it.
#[derive(Debug, Deserialize)]
struct Topic {
    topic: String,
    partitions: usize,
    without_leader: usize,
    under_replicated: usize,
}

/// Are the topics there, and does every partition have a leader and all its replicas?
fn topics(report: &mut Report) -> Result<(), Failure> {
    let check = "kafka partitions";
    let output = match relay::run(&["topics"]) {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            let problem = relay::complaint(&output).unwrap_or_default();
            return report.add(check, Status::Fail, problem, "is the broker up? its log");
        }
        Err(failure) => {
            let remedy = "run doctor where the relay is installed";
            return report.add(check, Status::Warn, failure.message, remedy);
        }
    };
    let printed = String::from_utf8_lossy(&output.stdout);
    let topics: Vec<Topic> =
        printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let (status, detail, remedy) = judge(&topics);
    report.add(check, status, detail, remedy)
}

/// What is wrong with the topics, the worst first, and what helps.
fn judge(topics: &[Topic]) -> (Status, String, &'static str) {
    let named = |is_wrong: fn(&Topic) -> bool| -> Vec<&str> {
        topics.iter().filter(|it| is_wrong(it)).map(|it| it.topic.as_str()).collect()
    };
    let missing = named(|it| it.partitions == 0);
    if !missing.is_empty() {
        let detail = format!("not there: {}", missing.join(", "));
        return (Status::Fail, detail, "start a relay: it makes them");
    }
    let without_leader = named(|it| it.without_leader > 0);
    if !without_leader.is_empty() {
        let detail = format!("partitions without a leader: {}", without_leader.join(", "));
        return (Status::Fail, detail, "start the brokers that are down");
    }
    let under_replicated = named(|it| it.under_replicated > 0);
    if !under_replicated.is_empty() {
        let detail = format!("replicas behind: {}", under_replicated.join(", "));
        return (Status::Warn, detail, "is every broker up, and its disk fast enough?");
    }
    let partitions: usize = topics.iter().map(|it| it.partitions).sum();
    (Status::Ok, format!("{} topics, {partitions} partitions with leaders", topics.len()), "")
}

/// The gateway answers, and so does what lies behind it.
fn keys(report: &mut Report) -> Result<(), Failure> {
    match report.context.api.jwks() {
        Ok(keys) => {
            let count = keys["keys"].as_array().map_or(0, Vec::len);
            let status = if count > 0 { Status::Ok } else { Status::Fail };
            report.add("api", status, format!("{count} verification keys"), "see chatd's log")
        }
        Err(error) => {
            let remedy = "is chatd running and linked? scripts/status";
            report.add("api", Status::Fail, error.to_string(), remedy)
        }
    }
}

/// A real connect, as NAME.
fn session(report: &mut Report) -> Result<(), Failure> {
    let context = report.context;
    let name = match context.name() {
        Ok(name) => name.to_owned(),
        Err(_) => {
            let remedy = "realchat --as NAME register, then doctor again";
            return report.add("connect", Status::Warn, "nobody is signed in here", remedy);
        }
    };
    if let Err(failure) = context.identity() {
        let remedy = format!("realchat --as {name} login");
        return report.add("sign-in", Status::Fail, failure.message, &remedy);
    }
    report.ok("sign-in", format!("{name} has a valid token"))?;
    for base in context.api.urls() {
        let check = format!("connect {base}");
        let (mut options, connection) = context.options()?;
        options.urls = vec![websocket_url(base).map_err(Failure::usage)?];
        let (session, events) = context.connect(options)?;
        let began = Instant::now();
        let limit = Duration::from_secs(WELCOME_SECONDS_MAX);
        let welcome = loop {
            match events.recv_for(limit.saturating_sub(began.elapsed())) {
                Waited::Update(Update::Notice(Notice::Welcomed(welcome))) => break Some(welcome),
                Waited::Update(_) => {}
                Waited::Nothing | Waited::Ended => break None,
            }
        };
        session.close();
        let Some(welcome) = welcome else {
            let problem = connection.failure(base, "welcome").message;
            report.add(
                &check,
                Status::Fail,
                problem,
                "see the gateway's log; is a proxy in between?",
            )?;
            continue;
        };
        let took = began.elapsed().as_millis();
        report.ok(&check, format!("{} welcomes in {took} ms", welcome.gateway_id))?;
        clock(report, base, welcome.server_time_us)?;
    }
    Ok(())
}

fn clock(report: &mut Report, base: &str, server_time_us: u64) -> Result<(), Failure> {
    let off_us = i128::from(now_us()) - i128::from(server_time_us);
    #[allow(clippy::cast_precision_loss, reason = "seconds to show, to a tenth")]
    let off = off_us as f64 / 1e6;
    let status = if off.abs() <= CLOCK_OFF_SECONDS_MAX { Status::Ok } else { Status::Warn };
    let detail = format!("{off:+.1} s from the gateway's");
    report.add(&format!("clock {base}"), status, detail, "synchronise the clocks (chrony, ntpd)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(topic: &str, partitions: usize, without_leader: usize, behind: usize) -> Topic {
        Topic { topic: topic.to_owned(), partitions, without_leader, under_replicated: behind }
    }

    #[test]
    fn of_the_topics_the_worst_is_told_first() {
        let mut topics = vec![topic("a", 24, 0, 0), topic("b", 8, 0, 0)];
        let (status, detail, _) = judge(&topics);
        assert_eq!((status, detail.as_str()), (Status::Ok, "2 topics, 32 partitions with leaders"));
        topics.push(topic("c", 8, 0, 3));
        assert_eq!(judge(&topics).0, Status::Warn);
        topics.push(topic("d", 8, 1, 0));
        let (status, detail, _) = judge(&topics);
        assert_eq!((status, detail.as_str()), (Status::Fail, "partitions without a leader: d"));
        topics.push(topic("e", 0, 0, 0));
        assert_eq!(judge(&topics).1, "not there: e");
    }

    #[test]
    fn the_open_files_limit_is_found() {
        let limits = "Max processes   100  200  processes\nMax open files            1024                 4096                 files\n";
        assert_eq!(open_files(limits), Some(1_024));
        assert_eq!(open_files("Max open files  unlimited unlimited files"), Some(u64::MAX));
        assert_eq!(open_files(""), None);
    }
}
