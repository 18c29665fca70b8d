//! Whose certificates are believed: the system's, and those of a file for private authorities.

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Cheap to clone. The system's certificates are read when the first one is needed.
#[derive(Clone, Default)]
pub struct Trust {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Besides the system's.
    own: Vec<CertificateDer<'static>>,
    roots: OnceLock<Vec<CertificateDer<'static>>>,
    config: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("own", &self.inner.own.len()).finish_non_exhaustive()
    }
}

impl Trust {
    /// The system's certificates and those of a PEM file.
    ///
    /// # Errors
    /// What is wrong with the file, one line for a person.
    pub fn with_file(path: &Path) -> Result<Self, String> {
        let own: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|error| format!("{}: {error}", path.display()));
        match own? {
            own if own.is_empty() => {
                Err(format!("{}: no PEM certificate is in it", path.display()))
            }
            own => Ok(Self { inner: Arc::new(Inner { own, ..Inner::default() }) }),
        }
    }

    /// All that are believed, in DER.
    pub(crate) fn roots(&self) -> &[CertificateDer<'static>] {
        self.inner.roots.get_or_init(|| {
            let mut roots = self.inner.own.clone();
            // Those that cannot be read are not believed.
            roots.extend(rustls_native_certs::load_native_certs().certs);
            roots
        })
    }

    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let make = || {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(self.roots().iter().cloned());
            if store.is_empty() {
                return Err("no trusted certificates were found on this system".to_owned());
            }
            let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[&TLS13, &TLS12])
                .map_err(|error| error.to_string())?;
            let mut config = builder.with_root_certificates(store).with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Ok(Arc::new(config))
        };
        self.inner.config.get_or_init(make).clone()
    }

    /// Shakes hands over a connected socket, within its time-outs.
    pub(crate) fn shake_hands(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<Box<StreamOwned<ClientConnection, TcpStream>>, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host:?} is no name that a certificate can have"))?;
        let machine = ClientConnection::new(self.config()?, name).map_err(|it| it.to_string())?;
        let mut stream = Box::new(StreamOwned::new(machine, stream));
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    "the TLS handshake took too long".to_owned()
                }
                _ => format!("TLS: {error}"),
            })?;
        }
        Ok(stream)
    }

    /// Connects to `host:port`, which `host`'s certificate must be for, and says which version of
    /// TLS is spoken.
    ///
    /// # Errors
    /// Why the certificate is not believed, or what else is wrong.
    pub fn check(&self, host: &str, stream: TcpStream) -> Result<String, String> {
        let stream = self.shake_hands(host, stream)?;
        let version = stream.conn.protocol_version().and_then(|version| version.as_str());
        Ok(version.unwrap_or("TLS").to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        let path = std::env::temp_dir().join(format!("realchat-ca-{}.pem", std::process::id()));
        std::fs::write(&path, "nothing").unwrap();
        let error = Trust::with_file(&path).unwrap_err();
        assert!(error.contains("no PEM certificate") && error.contains("realchat-ca-"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(Trust::with_file(&path).unwrap_err().contains("realchat-ca-"));
    }
}
