//! The certificate and its key, from files, checked before they are used.

use crate::limits::TLS_FILE_BYTES_MAX;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, sign};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    /// PEM: the certificate, then those that lead to a root.
    pub(crate) certificate: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub(crate) key: PathBuf,
}

/// What a TLS listener speaks: TLS 1.3 and 1.2, HTTP/1.1. An error is one line for a person.
///
/// Sessions are not resumed: tickets would be made and looked up under a lock that all shards
/// share, and save a signature of a tenth of a millisecond.
pub(crate) fn read_config(files: &Files) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let chain = chain(&files.certificate)?;
    let key = key(&files.key)?;
    let certified = certified(&provider, chain, key, files)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| format!("TLS: {error}"))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(sign::SingleCertAndKey::from(certified)));
    let mut config = config;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certified(
    provider: &CryptoProvider,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    files: &Files,
) -> Result<sign::CertifiedKey, String> {
    let Files { certificate, key: key_path } = files;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| format!("tls.key {}: {error}", key_path.display()))?;
    let certified = sign::CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // Of some keys it is not known; a handshake shows it.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(error) => Err(format!(
            "tls.key {} does not belong to tls.certificate {}: {error}",
            key_path.display(),
            certificate.display()
        )),
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let explain = |problem: String| format!("tls.certificate {}: {problem}", path.display());
    let text = read(path).map_err(explain)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(explain("no PEM certificate is in it".into())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(explain(error.to_string())),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let explain = |problem: String| format!("tls.key {}: {problem}", path.display());
    let text = read(path).map_err(explain)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => explain("no PEM private key is in it".into()),
        error => explain(error.to_string()),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if bytes > TLS_FILE_BYTES_MAX {
        return Err(format!("it has {bytes} bytes; at most {TLS_FILE_BYTES_MAX} are allowed"));
    }
    fs::read(path).map_err(|error| error.to_string())
}
