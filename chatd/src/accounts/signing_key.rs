//! The file that holds the key which signs access tokens: Ed25519, PKCS#8 (RFC 8410), PEM.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// What stands before the 32 random bytes of an Ed25519 private key in PKCS#8.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const SEED_BYTES: usize = 32;
/// Readable by nobody but its owner.
const MODE: u32 = 0o600;

/// The key's PEM text. A missing file is made, whole or not at all: of several processes that
/// start at once, all end with the same key.
pub(super) fn read_or_make(path: &Path) -> io::Result<String> {
    if !path.exists() {
        make(path)?;
    }
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others may read the signing key; chmod it to 600");
    }
    std::fs::read_to_string(path)
}

fn make(path: &Path) -> io::Result<()> {
    let mut seed = [0; SEED_BYTES];
    getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let mut file: File =
        OpenOptions::new().write(true).create_new(true).mode(MODE).open(&partial)?;
    let outcome = file.write_all(pem(&seed).as_bytes()).and_then(|()| file.sync_all());
    // Unlike a rename, a link does not replace a key that another process made meanwhile.
    let linked = outcome.and_then(|()| std::fs::hard_link(&partial, path));
    std::fs::remove_file(&partial)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn pem(seed: &[u8; SEED_BYTES]) -> String {
    let mut der = PKCS8_PREFIX.to_vec();
    der.extend_from_slice(seed);
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let path = std::env::temp_dir().join(format!("realchat-key-{}.pem", proto::id::new()));
        let first = read_or_make(&path).unwrap();
        assert_eq!(read_or_make(&path).unwrap(), first);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        std::fs::remove_file(&path).unwrap();
    }
}
