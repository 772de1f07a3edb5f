//! What the layers need to know, collected once per service.

use std::path::PathBuf;
use std::sync::Arc;

use tonic::service::Routes;

use super::drain::Drain;
use super::routed::Routed;
use crate::ServiceName;
use crate::auth::{Authenticator, RunTokenVerifier, RunTokensConfig, keys};
use crate::clock::{Clock, Ids, SystemClock, SystemIds};
use crate::config::{LimitsConfig, RuntimeConfig};
use crate::tls::{self, Tls};
use crate::violations::Violations;

/// Why the layers cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// `runtime.auth` is wrong.
    #[error("runtime.auth: {0}")]
    Auth(Violations),
    /// A verification key cannot be read.
    #[error("runtime.run_tokens.verification_key_files: {path} cannot be read")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A certificate, its key or an authority cannot be used.
    #[error("runtime.tls.{}", .0.field())]
    Tls(#[source] tls::Error),
    /// A verification key is no key.
    #[error("runtime.run_tokens.verification_key_files")]
    Key(#[source] keys::Error),
}

/// The layers of one service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stack(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: ServiceName,
    authenticator: Authenticator,
    limits: LimitsConfig,
    tls: Option<Tls>,
    drain: Drain,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

impl Stack {
    /// Layers by configuration, with the system's clock and ids.
    ///
    /// # Errors
    /// Authentication is configured wrongly, or a key file cannot be used.
    pub fn try_new(service: ServiceName, config: &RuntimeConfig) -> Result<Self, StackError> {
        Self::with_clock(service, config, Arc::new(SystemClock::new()), Arc::new(SystemIds))
    }

    /// Layers by configuration with a clock and ids of the caller's.
    ///
    /// # Errors
    /// As [`Stack::try_new`].
    pub fn with_clock(
        service: ServiceName,
        config: &RuntimeConfig,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Result<Self, StackError> {
        let tokens = verifier(service, &config.run_tokens, &clock)?;
        let authenticator = Authenticator::try_new(&config.auth, tokens, clock.clone()).map_err(StackError::Auth)?;
        let limits = config.limits.clone();
        let tls = config.tls.serves().then(|| Tls::try_new(&config.tls, clock.clone())).transpose();
        let tls = tls.map_err(StackError::Tls)?;
        Ok(Self(Arc::new(Inner { service, authenticator, limits, tls, drain: Drain::default(), clock, ids })))
    }

    /// Puts the layers around `routes`.
    pub fn wrap(&self, routes: Routes) -> Routed {
        Routed::new(self.clone(), routes)
    }

    /// Whose layers these are.
    pub fn service(&self) -> ServiceName {
        self.0.service
    }

    /// The state of the service's stop.
    pub fn drain(&self) -> &Drain {
        &self.0.drain
    }

    /// The bounds of every call.
    pub fn limits(&self) -> &LimitsConfig {
        &self.0.limits
    }

    /// The clock of the layers.
    pub fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    /// How connections are agreed on; none in plain text.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.0.tls.as_ref()
    }

    pub(crate) fn ids(&self) -> &dyn Ids {
        &*self.0.ids
    }

    pub(crate) fn authenticator(&self) -> &Authenticator {
        &self.0.authenticator
    }
}

/// No keys, no verifier: then no run token is accepted.
fn verifier(
    service: ServiceName,
    config: &RunTokensConfig,
    clock: &Arc<dyn Clock>,
) -> Result<Option<RunTokenVerifier>, StackError> {
    let mut pems = Vec::new();
    for path in &config.verification_key_files {
        let pem =
            std::fs::read_to_string(path).map_err(|source| StackError::Unreadable { path: path.clone(), source })?;
        pems.push(pem);
    }
    if pems.is_empty() {
        return Ok(None);
    }
    RunTokenVerifier::try_new(&pems, service, clock.clone()).map(Some).map_err(StackError::Key)
}
