//! The stack that is measured: a running one, or one of the command's own.

mod own;

use crate::failure::{Context, Failure, Outcome};
use crate::options::{Common, within};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use own::mount::SmallDisk;
pub(crate) use own::{Environment, scripts};

const GATEWAYS_MAX: u64 = 10;
/// The daemons, gateways aside, by the prefix of their keys.
const DAEMONS: [&str; 3] = ["CHATD", "RELAY", "PRESENCED"];

/// For a stack of which nothing special is wanted.
fn plain(_: &Path) -> Outcome<Environment> {
    Ok(Environment::new())
}

/// A stack's folder; what runs there is read from its `env` whenever it is asked for, since
/// process ids change with every restart.
#[derive(Debug)]
pub(crate) struct Stack {
    dir: PathBuf,
    owned: bool,
}

/// An internal port and the secret that opens it.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) address: String,
    pub(crate) secret: String,
}

impl Stack {
    /// The stack that was named, or a new one with `gateways` unless the options say otherwise.
    pub(crate) fn of(common: &Common, gateways: u64) -> Outcome<Self> {
        Self::find_or_make(common, gateways, &[], plain)
    }

    /// The same, with gateways that also speak TLS.
    pub(crate) fn with_tls(common: &Common, gateways: u64) -> Outcome<Self> {
        Self::find_or_make(common, gateways, &["--tls"], plain)
    }

    /// The same; a stack that is brought up finds in its folder, and in its environment, what `prepare`
    /// puts there.
    pub(crate) fn prepared(
        common: &Common,
        gateways: u64,
        brokers: u64,
        prepare: impl FnOnce(&Path) -> Outcome<Environment>,
    ) -> Outcome<Self> {
        Self::find_or_make(common, gateways, &["--brokers", &brokers.to_string()], prepare)
    }

    fn find_or_make(
        common: &Common,
        gateways: u64,
        more: &[&str],
        prepare: impl FnOnce(&Path) -> Outcome<Environment>,
    ) -> Outcome<Self> {
        if let Some(dir) = &common.dir {
            if let Some(gateways) = common.gateways {
                common.brings_up(&format!("--gateways {gateways}"))?;
            }
            if common.routed {
                common.brings_up("--routed")?;
            }
            let stack = Self { dir: dir.clone(), owned: false };
            stack.get("REALCHAT_URL")?;
            return Ok(stack);
        }
        let gateways = within("--gateways", common.gateways.unwrap_or(gateways), 1..=GATEWAYS_MAX)?;
        let routed: &[&str] = if common.routed { &["--routed"] } else { &[] };
        own::bring_up(gateways, &[more, routed].concat(), prepare)
    }

    /// The stack's folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn env(&self) -> Outcome<BTreeMap<String, String>> {
        let path = self.dir.join("env");
        let text = std::fs::read_to_string(&path).reaching(format!("{}", path.display()))?;
        Ok(text.lines().filter_map(assignment).collect())
    }

    /// One value of the stack's `env`.
    pub(crate) fn get(&self, key: &str) -> Outcome<String> {
        self.env()?.remove(key).ok_or_else(|| {
            Failure::Unreachable(format!("{} has no {key}", self.dir.join("env").display()))
        })
    }

    pub(crate) fn database_url(&self) -> Outcome<String> {
        self.get("DATABASE_URL")
    }

    pub(crate) fn signing_key(&self) -> Outcome<PathBuf> {
        self.get("REALCHAT_SIGNING_KEY").map(PathBuf::from)
    }

    /// Where the gateways listen.
    pub(crate) fn gateways(&self) -> Outcome<Vec<SocketAddr>> {
        let urls = self.get("REALCHAT_URLS").or_else(|_| self.get("REALCHAT_URL"))?;
        let addresses: Vec<_> = urls.split_whitespace().map(address).collect::<Outcome<_>>()?;
        if addresses.is_empty() {
            return Err(Failure::Unreachable("the stack has no gateway".into()));
        }
        Ok(addresses)
    }

    /// Where the gateways listen for TLS.
    pub(crate) fn tls_gateways(&self) -> Outcome<Vec<SocketAddr>> {
        let Ok(urls) = self.get("REALCHAT_TLS_URLS") else {
            let words = "the stack speaks no TLS; bring it up with scripts/up --tls";
            return Err(Failure::Unreachable(words.into()));
        };
        urls.split_whitespace().map(address).collect()
    }

    /// A TLS client that believes the stack's certificate.
    pub(crate) fn tls_config(&self) -> Outcome<Arc<ClientConfig>> {
        let path = self.get("REALCHAT_CA_FILE")?;
        let certificate = CertificateDer::from_pem_file(&path).reaching(&path)?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).reaching(&path)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().doing("TLS")?;
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }

    /// Base URLs of the gateways.
    pub(crate) fn urls(&self) -> Outcome<Vec<String>> {
        let urls = self.get("REALCHAT_URLS").or_else(|_| self.get("REALCHAT_URL"))?;
        Ok(urls.split_whitespace().map(str::to_owned).collect())
    }

    /// The process of a part: `GATEWAY_1`, `CHATD`, `POSTGRES`, ...
    pub(crate) fn pid(&self, part: &str) -> Outcome<i32> {
        let text = self.get(&format!("{part}_PID"))?;
        let pid = text.parse().reaching(format!("{part}_PID is {text:?}"))?;
        // kill(2) gives 0 and negative numbers a meaning that is never meant here.
        if pid > 1 { Ok(pid) } else { Err(Failure::Unreachable(format!("{part}_PID is {pid}"))) }
    }

    /// The parts whose keys begin with `prefix` and that the stack runs itself.
    pub(crate) fn parts(&self, prefix: &str) -> Outcome<Vec<String>> {
        let env = self.env()?;
        let parts = env.keys().filter_map(|key| key.strip_suffix("_PID"));
        Ok(parts.filter(|part| part.starts_with(prefix)).map(str::to_owned).collect())
    }

    /// The port at which a part of the stack's own is reached by the others.
    pub(crate) fn port_of(&self, part: &str) -> Outcome<u16> {
        let place = match part {
            "postgres" => self.get("DATABASE_URL")?,
            "redis" => self.get("REDIS_URL")?,
            "kafka" => self.get("KAFKA_BROKERS")?,
            daemon => self.link(daemon)?.address,
        };
        port(&place)
    }

    /// The gateways' processes.
    pub(crate) fn gateway_pids(&self) -> Outcome<Vec<i32>> {
        self.parts("GATEWAY_")?.iter().map(|part| self.pid(part)).collect()
    }

    /// The admin address of a gateway.
    pub(crate) fn admin(&self, part: &str) -> Outcome<SocketAddr> {
        address(&self.get(&format!("{part}_ADMIN_URL"))?)
    }

    /// Every daemon's name and process.
    pub(crate) fn daemon_pids(&self) -> Outcome<BTreeMap<String, i32>> {
        let gateways = self.parts("GATEWAY_")?;
        let names = gateways.into_iter().chain(DAEMONS.map(str::to_owned));
        names.map(|name| self.pid(&name).map(|pid| (name, pid))).collect()
    }

    /// Every process that the stack runs itself: `gateway-1`, `chatd`, `postgres`, ...
    pub(crate) fn pids(&self) -> Outcome<BTreeMap<String, i32>> {
        let parts = self.parts("")?.into_iter();
        parts.map(|part| Ok((part.to_lowercase().replace('_', "-"), self.pid(&part)?))).collect()
    }

    /// The admin addresses of every daemon.
    pub(crate) fn admins(&self) -> Outcome<Vec<SocketAddr>> {
        let env = self.env()?;
        let urls = env.iter().filter(|(key, _)| key.ends_with("_ADMIN_URL"));
        urls.map(|(_, url)| address(url)).collect()
    }

    /// The link port of `chatd` or `presenced`, from its configuration file.
    pub(crate) fn link(&self, daemon: &str) -> Outcome<Link> {
        let path = self.dir.join("config").join(format!("{daemon}.toml"));
        let shown = path.display();
        let text = std::fs::read_to_string(&path).reaching(&shown)?;
        let config: toml::Table = text.parse().reaching(&shown)?;
        let value = |key: &str| {
            let value = config.get("link")?.get(key)?.as_str()?;
            Some(value.to_owned())
        };
        match (value("listen"), value("secret")) {
            (Some(address), Some(secret)) => Ok(Link { address, secret }),
            _ => Err(Failure::Unreachable(format!("{shown} has no link.listen or link.secret"))),
        }
    }
}

/// `KEY='value'`, as a shell reads it.
fn assignment(line: &str) -> Option<(String, String)> {
    let (key, value) = line.split_once('=')?;
    let value = value.strip_prefix('\'').and_then(|it| it.strip_suffix('\'')).unwrap_or(value);
    Some((key.trim().to_owned(), value.replace("'\\''", "'")))
}

/// The address of `http://host:port`.
fn address(url: &str) -> Outcome<SocketAddr> {
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let host = host.unwrap_or(url).trim_end_matches('/');
    // The stack listens on IPv4.
    let mut addresses = host.to_socket_addrs().reaching(url)?.filter(SocketAddr::is_ipv4);
    addresses.next().ok_or_else(|| Failure::Unreachable(format!("{url} has no address")))
}

/// The port in `host:port` or in a URL.
fn port(place: &str) -> Outcome<u16> {
    let rest = place.rsplit_once('@').map_or(place, |(_, rest)| rest);
    let rest = rest.split_once("://").map_or(rest, |(_, rest)| rest);
    let host = rest.split(['/', '?', ',']).next().unwrap_or(rest);
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.ok_or_else(|| Failure::Unreachable(format!("{host:?} has no port")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_quoting_is_undone_and_addresses_are_read() {
        let read = |line| assignment(line).unwrap();
        assert_eq!(read("A='b c'"), ("A".into(), "b c".into()));
        assert_eq!(read("A='it'\\''s=1'"), ("A".into(), "it's=1".into()));
        assert!(assignment("# nothing").is_none());
        assert_eq!(address("http://127.0.0.1:81/").unwrap().port(), 81);
        assert!(address("http://127.0.0.1").is_err());
        assert_eq!(port("postgres://realchat:p:w@127.0.0.1:5433/realchat?x=1").unwrap(), 5_433);
        assert_eq!(port("redis://:secret@127.0.0.1:6380").unwrap(), 6_380);
        assert_eq!(port("redis://127.0.0.1:6380/0").unwrap(), 6_380);
        assert_eq!(port("127.0.0.1:9092,127.0.0.1:9093").unwrap(), 9_092);
        assert!(port("unix:/run/link").is_err());
    }

    #[test]
    fn a_folder_without_a_stack_is_unreachable() {
        let common = Common {
            dir: Some("/nowhere".into()),
            json: false,
            seed: 1,
            gateways: None,
            routed: false,
        };
        let failure = Stack::of(&common, 1).unwrap_err();
        assert!(matches!(failure, Failure::Unreachable(_)), "{failure}");
        let common = Common { gateways: Some(2), ..common };
        assert!(matches!(Stack::of(&common, 1), Err(Failure::Usage(_))));
    }
}
