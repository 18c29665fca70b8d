//! The tokens of each NAME under REALCHAT_HOME: one file a name, readable by its owner only.
//!
//! A refresh token works once, and using it twice signs the device out. So a refresh happens under
//! a lock file, and whoever waited for the lock uses what the other one got.

use crate::failure::Failure;
use client::api::Account;
use client::{Api, ApiError, Uuid};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A token that lives no longer than this is replaced before it is used.
const EXPIRY_MARGIN_US: u64 = 30_000_000;
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// What is kept of a signed-in name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) name: String,
    /// Base URLs of the gateways, separated by commas.
    pub(crate) server: String,
    pub(crate) user_id: Uuid,
    pub(crate) device_id: Uuid,
    pub(crate) access_token: String,
    pub(crate) refresh_token: String,
    /// By this machine's clock.
    pub(crate) expires_at_us: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Store {
    home: PathBuf,
}

impl Store {
    /// REALCHAT_HOME, or `realchat` in the user's configuration folder.
    pub(crate) fn open() -> Result<Self, Failure> {
        let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let home = named("REALCHAT_HOME")
            .map(PathBuf::from)
            .or_else(|| named("XDG_CONFIG_HOME").map(|it| PathBuf::from(it).join("realchat")))
            .or_else(|| named("HOME").map(|it| PathBuf::from(it).join(".config/realchat")));
        home.map(|home| Self { home }).ok_or_else(|| {
            Failure::usage("neither REALCHAT_HOME nor HOME says where to keep tokens")
        })
    }

    /// The only name that is signed in, if there is exactly one.
    pub(crate) fn only_name(&self) -> Option<String> {
        let files = fs::read_dir(&self.home).ok()?;
        let mut names = files.filter_map(|file| {
            let name = file.ok()?.file_name().into_string().ok()?;
            Some(name.strip_suffix(".json")?.to_owned())
        });
        names.next().filter(|_| names.next().is_none())
    }

    pub(crate) fn load(&self, name: &str) -> Result<Option<Identity>, Failure> {
        let path = self.path(name, "json")?;
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| Failure::file(&path, &error.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::file(&path, &error)),
        }
    }

    /// Keeps what a sign-in gave.
    pub(crate) fn keep(
        &self,
        name: &str,
        server: &str,
        account: Account,
    ) -> Result<Identity, Failure> {
        let identity = Identity {
            name: name.to_owned(),
            server: server.to_owned(),
            user_id: account.user_id,
            device_id: account.device_id,
            access_token: account.access_token,
            refresh_token: account.refresh_token,
            expires_at_us: now_us().saturating_add(account.expires_in.saturating_mul(1_000_000)),
        };
        let _lock = self.lock(name)?;
        self.write(&identity)?;
        Ok(identity)
    }

    pub(crate) fn forget(&self, name: &str) -> Result<(), Failure> {
        let _lock = self.lock(name)?;
        let path = self.path(name, "json")?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::file(&path, &error))
            }
            _ => Ok(()),
        }
    }

    /// The identity with an access token that is good for a while; not `refused`, if that is given.
    pub(crate) fn fresh(
        &self,
        api: &Api,
        name: &str,
        refused: Option<&str>,
    ) -> Result<Identity, Failure> {
        let good = |identity: &Identity| {
            identity.expires_at_us > now_us().saturating_add(EXPIRY_MARGIN_US)
                && refused != Some(identity.access_token.as_str())
        };
        let missing = || Failure::not_signed_in(name);
        let identity = self.load(name)?.ok_or_else(missing)?;
        if good(&identity) {
            return Ok(identity);
        }
        let _lock = self.lock(name)?;
        let identity = self.load(name)?.ok_or_else(missing)?;
        if good(&identity) {
            return Ok(identity);
        }
        let account =
            api.refresh(&identity.refresh_token).map_err(|error| signed_out(name, error))?;
        let identity = Identity {
            access_token: account.access_token,
            refresh_token: account.refresh_token,
            expires_at_us: now_us().saturating_add(account.expires_in.saturating_mul(1_000_000)),
            ..identity
        };
        self.write(&identity)?;
        Ok(identity)
    }

    /// Held while the tokens of `name` change; other processes wait.
    fn lock(&self, name: &str) -> Result<File, Failure> {
        let path = self.path(name, "lock")?;
        self.make_home()?;
        let file = OpenOptions::new().create(true).append(true).mode(FILE_MODE).open(&path);
        let file = file.map_err(|error| Failure::file(&path, &error))?;
        file.lock().map_err(|error| Failure::file(&path, &error))?;
        Ok(file)
    }

    /// Replaces the file as a whole, so that no reader ever sees half of it.
    fn write(&self, identity: &Identity) -> Result<(), Failure> {
        let path = self.path(&identity.name, "json")?;
        let draft = self.path(&identity.name, "draft")?;
        let write = || {
            // A left-over draft may have any mode; the mode given here is for a new file.
            let _ = fs::remove_file(&draft);
            let mut file =
                OpenOptions::new().create_new(true).write(true).mode(FILE_MODE).open(&draft)?;
            file.write_all(&serde_json::to_vec_pretty(identity)?)?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        };
        write().map_err(|error| Failure::file(&path, &error))
    }

    fn make_home(&self) -> Result<(), Failure> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(FOLDER_MODE);
        builder.create(&self.home).map_err(|error| Failure::file(&self.home, &error))
    }

    /// Names become file names: nothing but the letters of an account's name may be in them.
    fn path(&self, name: &str, kind: &str) -> Result<PathBuf, Failure> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) {
            return Err(Failure::usage(format!(
                "{name:?} cannot be a name: 2 to 32 of a-z, 0-9, '.', '_' and '-'"
            )));
        }
        Ok(Path::new(&self.home).join(format!("{name}.{kind}")))
    }
}

/// A refresh that was refused for good means that the device is signed out.
fn signed_out(name: &str, error: ApiError) -> Failure {
    match error {
        ApiError::Refused { retryable: false, .. } => {
            let message = format!("{name} was signed out: realchat --as {name} login");
            Failure::refused("not_signed_in", message)
        }
        other => other.into(),
    }
}

pub(crate) fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn store() -> Store {
        Store { home: std::env::temp_dir().join(format!("realchat-store-{}", proto::id::new())) }
    }

    fn account() -> Account {
        Account {
            user_id: Uuid::from_u128(1),
            device_id: Uuid::from_u128(2),
            name: "ann".into(),
            access_token: "access".into(),
            refresh_token: "refresh".into(),
            expires_in: 900,
        }
    }

    #[test]
    fn tokens_are_kept_for_their_owner_only_and_forgotten() {
        let store = store();
        let kept = store.keep("ann", "http://a", account()).unwrap();
        assert_eq!(store.load("ann").unwrap(), Some(kept.clone()));
        assert_eq!(store.only_name().as_deref(), Some("ann"));
        let mode = fs::metadata(store.home.join("ann.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, FILE_MODE);
        let api = Api::new(Vec::new());
        assert_eq!(store.fresh(&api, "ann", None).unwrap(), kept);
        assert!(store.fresh(&api, "ann", Some("access")).is_err(), "no server to refresh at");
        store.forget("ann").unwrap();
        assert_eq!(store.load("ann").unwrap(), None);
        fs::remove_dir_all(&store.home).unwrap();
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_folder() {
        for name in ["", "../x", "a/b", "a\0"] {
            assert!(store().load(name).is_err(), "{name:?}");
        }
    }
}
