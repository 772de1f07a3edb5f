//! Certificates and keys as they are used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};

use super::config::{ClientCertificates, TlsConfig};

/// HTTP/2 alone is spoken.
const ALPN: &[u8] = b"h2";

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// Which setting names it.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is no PEM, or holds nothing of what is wanted.
    #[error("{} holds no {wanted} in PEM form", path.display())]
    Pem {
        /// Which setting names it.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// What was found.
        #[source]
        source: pem::Error,
    },
    /// The key is not the certificate's, or one of them cannot be used.
    #[error("the certificate and its key cannot be used")]
    Pair(#[source] rustls::Error),
    /// An authority cannot be used.
    #[error("an authority cannot be used")]
    Authority(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// The setting to blame.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Unreadable { field, .. } | Self::Pem { field, .. } => field,
            Self::Pair(_) => "key_file",
            Self::Authority(_) => "ca_file",
        }
    }
}

/// What the files hold, ready to be used.
#[derive(Debug)]
pub(super) struct Material {
    pub server: Option<Arc<ServerConfig>>,
    pub client: Arc<ClientConfig>,
    /// SHA-256 of the files.
    pub digest: [u8; 32],
}

type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Material {
    pub(super) fn read(config: &TlsConfig) -> Result<Self, Error> {
        crate::process::install_crypto();
        let mut files = Files::default();
        let own = match (&config.certificate_file, &config.key_file) {
            (Some(certificate), Some(key)) => Some(files.chain(certificate, key)?),
            _ => None,
        };
        let authorities = match &config.ca_file {
            Some(path) => Some(Arc::new(files.authorities(path)?)),
            None => None,
        };
        let server = match own.as_ref() {
            Some(own) => Some(Arc::new(server(own, authorities.as_ref(), config.client_certificates)?)),
            None => None,
        };
        let client = Arc::new(client(own.as_ref(), authorities)?);
        Ok(Self { server, client, digest: files.read.finalize().into() })
    }
}

fn server(
    (chain, key): &Chain,
    authorities: Option<&Arc<RootCertStore>>,
    wanted: ClientCertificates,
) -> Result<ServerConfig, Error> {
    let asked = authorities.filter(|_| wanted != ClientCertificates::None);
    let builder = match asked {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(authorities) => {
            let builder = WebPkiClientVerifier::builder(Arc::clone(authorities));
            let builder =
                if wanted == ClientCertificates::Optional { builder.allow_unauthenticated() } else { builder };
            ServerConfig::builder().with_client_cert_verifier(builder.build().map_err(authority)?)
        }
    };
    let mut server = builder.with_single_cert(chain.clone(), key.clone_key()).map_err(Error::Pair)?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    Ok(server)
}

fn client(own: Option<&Chain>, authorities: Option<Arc<RootCertStore>>) -> Result<ClientConfig, Error> {
    let authorities = authorities.unwrap_or_else(|| {
        let mut system = RootCertStore::empty();
        // A system without authorities trusts nobody, which the handshake says.
        system.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(system)
    });
    let builder = match authorities.is_empty() {
        true => ClientConfig::builder().with_root_certificates(authorities),
        false => {
            let verifier = WebPkiServerVerifier::builder(authorities).build().map_err(authority)?;
            ClientConfig::builder().with_webpki_verifier(verifier)
        }
    };
    let mut client = match own {
        Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(Error::Pair)?,
        None => builder.with_no_client_auth(),
    };
    client.alpn_protocols = vec![ALPN.to_vec()];
    Ok(client)
}

fn authority(error: VerifierBuilderError) -> Error {
    Error::Authority(Box::new(error))
}

/// Files, and the digest of all that were read.
#[derive(Default)]
struct Files {
    read: Sha256,
}

impl Files {
    fn read(&mut self, field: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::Unreadable { field, path: path.to_owned(), source })?;
        self.read.update(Sha256::digest(&bytes));
        Ok(bytes)
    }

    fn certificates(&mut self, field: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
        let bytes = self.read(field, path)?;
        let wrong = |source| Error::Pem { field, path: path.to_owned(), wanted: "certificate", source };
        let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        if found.is_empty() { Err(wrong(pem::Error::NoItemsFound)) } else { Ok(found) }
    }

    fn chain(&mut self, certificate: &Path, key: &Path) -> Result<Chain, Error> {
        let chain = self.certificates("certificate_file", certificate)?;
        let field = "key_file";
        let bytes = self.read(field, key)?;
        let wrong = |source| Error::Pem { field, path: key.to_owned(), wanted: "private key", source };
        Ok((chain, PrivateKeyDer::from_pem_slice(&bytes).map_err(wrong)?))
    }

    fn authorities(&mut self, path: &Path) -> Result<RootCertStore, Error> {
        let mut store = RootCertStore::empty();
        for certificate in self.certificates("ca_file", path)? {
            store.add(certificate).map_err(|error| Error::Authority(Box::new(error)))?;
        }
        Ok(store)
    }
}
