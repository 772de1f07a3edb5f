//! TLS on the listener and to the peers, from files that may be replaced at any time.
//!
//! Files are looked at again when a connection begins, at most every five seconds; new connections use what the files hold
//! then, open ones stay as they are. Files that make no sense change nothing: what was read last goes on, and the log says
//! so.

mod config;
mod connector;
mod material;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::clock::{Clock, Overdue, within};

pub use config::{ClientCertificates, TlsConfig};
pub(crate) use connector::Connector;
pub use material::Error;
use material::Material;

/// How long the files are taken to be as they were.
const LOOK: Duration = Duration::from_secs(5);
/// How long a caller may take to agree on a connection.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What this process shows and trusts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: TlsConfig,
    clock: Arc<dyn Clock>,
    read: Mutex<Read>,
}

#[derive(Debug)]
struct Read {
    material: Arc<Material>,
    at: Duration,
}

/// Why a connection did not come to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Handshake(#[from] std::io::Error),
    #[error("the handshake {0}")]
    Late(#[from] Overdue),
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be read or used.
    pub fn try_new(config: &TlsConfig, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let material = Arc::new(Material::read(config)?);
        let read = Mutex::new(Read { material, at: clock.monotonic() });
        Ok(Self(Arc::new(Inner { config: config.clone(), clock, read })))
    }

    /// Whether callers are served over TLS.
    pub fn serves(&self) -> bool {
        self.0.config.serves()
    }

    /// Agrees with a caller on a connection.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Refused> {
        let material = self.material();
        let server = material.server.clone().ok_or_else(|| std::io::Error::other("no certificate is configured"))?;
        Ok(within(&*self.0.clock, HANDSHAKE, TlsAcceptor::from(server).accept(stream)).await??)
    }

    /// What the files hold.
    fn material(&self) -> Arc<Material> {
        let mut read = self.0.read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.0.clock.monotonic();
        if now.saturating_sub(read.at) < LOOK {
            return Arc::clone(&read.material);
        }
        read.at = now;
        match Material::read(&self.0.config) {
            Ok(fresh) if fresh.digest != read.material.digest => {
                tracing::info!("certificates were replaced");
                read.material = Arc::new(fresh);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(error = %crate::status::chain(&error), "replaced certificates cannot be used");
            }
        }
        Arc::clone(&read.material)
    }
}
