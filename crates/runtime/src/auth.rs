//! Who is calling. Tenant, principal and environment come from here and from nowhere else.
//!
//! A call carries `authorization: Bearer …`: an API key (`mar_<id>_<secret>`, of which the configuration holds a hash)
//! or a run token that session has signed. In `dev` mode, which a listener beyond loopback refuses, a call without a
//! credential is made by a fixed caller; a credential that is presented is checked in every mode.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use mar_proto::types::ErrorReason;
use tonic::{Code, Status};

use crate::clock::Clock;
use crate::status::Fault;

pub mod api_key;
pub mod config;
pub mod epoch;
pub mod keys;
pub mod run_token;
pub mod run_token_cache;

pub use config::{AuthConfig, Mode, RunTokensConfig};
pub use epoch::EpochGuard;
pub use run_token::{RunGrant, RunTokenSigner, RunTokenVerifier};
pub use run_token_cache::RunTokenCache;

/// The scope that includes all others.
pub const ALL_SCOPES: &str = "*";

/// Who is calling, as authentication knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The isolation boundary.
    pub tenant: String,
    /// The workload or person that holds the credential.
    pub principal: String,
    /// On whose behalf the principal acts, where the caller has stated one.
    pub end_user: Option<String>,
    /// The principal's groups.
    pub groups: BTreeSet<String>,
    /// What the credential allows; [`ALL_SCOPES`] allows everything.
    pub scopes: BTreeSet<String>,
    /// `dev`, `staging`, `prod` or a name of the operator's.
    pub environment: String,
}

impl Caller {
    /// The caller of `dev` mode.
    pub fn dev() -> Self {
        Self {
            tenant: "dev".into(),
            principal: "dev".into(),
            end_user: None,
            groups: BTreeSet::new(),
            scopes: BTreeSet::from([ALL_SCOPES.into()]),
            environment: "dev".into(),
        }
    }

    /// Whether the credential allows `scope`.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.contains(ALL_SCOPES) || self.scopes.contains(scope)
    }

    /// Refuses a caller without `scope`.
    ///
    /// # Errors
    /// PERMISSION_DENIED, `SCOPE_MISSING`.
    pub fn require_scope(&self, scope: &str) -> Result<(), Status> {
        if self.has_scope(scope) {
            return Ok(());
        }
        let message = format!("the credential lacks the scope {scope}");
        Err(Fault::new(Code::PermissionDenied, ErrorReason::ScopeMissing, message).metadata("scope", scope).into())
    }
}

/// What the auth layer found out about a call. Handlers read it with [`Identity::of`].
#[derive(Clone, Debug)]
pub struct Identity {
    /// Who is calling.
    pub caller: Caller,
    /// The run for which the call is made, when it came with a run token.
    pub run: Option<RunGrant>,
    credential: Option<Credential>,
}

impl Identity {
    /// An identity without a credential to pass on: for tests and for work that a service starts itself.
    pub fn new(caller: Caller, run: Option<RunGrant>) -> Self {
        Self { caller, run, credential: None }
    }

    /// The identity of a call.
    ///
    /// # Errors
    /// UNAUTHENTICATED when the call did not pass the auth layer.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<&Self, Status> {
        request.extensions().get().ok_or_else(|| unauthenticated("the call has no identity"))
    }

    /// The grant of the run token.
    ///
    /// # Errors
    /// PERMISSION_DENIED, `NO_STANDING_DESCRIPTOR`, when the call was made without one.
    pub fn require_run(&self) -> Result<&RunGrant, Status> {
        self.run.as_ref().ok_or_else(|| {
            let message = "the call has no run token and its key has no standing descriptor";
            Fault::new(Code::PermissionDenied, ErrorReason::NoStandingDescriptor, message).into()
        })
    }

    /// Passes the credential of this call on with a call to a peer that is made within it.
    pub fn forward<T>(&self, request: &mut tonic::Request<T>) {
        if let Some(Credential(value)) = &self.credential
            && let Ok(value) = value.parse()
        {
            request.metadata_mut().insert(AUTHORIZATION.as_str(), value);
        }
    }
}

#[derive(Clone)]
struct Credential(Arc<str>);

impl fmt::Debug for Credential {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Credential(redacted)")
    }
}

/// Turns the credential of a call into an [`Identity`].
#[derive(Debug)]
pub struct Authenticator {
    mode: Mode,
    keys: api_key::Ring,
    tokens: Option<RunTokenVerifier>,
    epochs: EpochGuard,
    clock: Arc<dyn Clock>,
}

impl Authenticator {
    /// `tokens` is none when no verification key is configured: then no run token is accepted.
    ///
    /// # Errors
    /// The violations of `config`, with paths relative to `runtime.auth`.
    pub fn try_new(
        config: &AuthConfig,
        tokens: Option<RunTokenVerifier>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, crate::violations::Violations> {
        let keys = api_key::Ring::try_new(&config.api_keys)?;
        Ok(Self { mode: config.mode, keys, tokens, epochs: EpochGuard::default(), clock })
    }

    /// Who makes the call to `path` with these headers.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a valid credential; PERMISSION_DENIED `RUN_TOKEN_INVALID` for a run token that does not
    /// open this method here; FAILED_PRECONDITION `EPOCH_STALE` for one of a run that was taken over.
    pub fn identify(&self, path: &str, headers: &HeaderMap) -> Result<Identity, Status> {
        let Some(header) = headers.get(AUTHORIZATION) else {
            return match self.mode {
                Mode::Dev => Ok(Identity::new(Caller::dev(), None)),
                Mode::ApiKeys => Err(unauthenticated("the call has no credential; send authorization: Bearer <key>")),
            };
        };
        let value = header.to_str().map_err(|_| unauthenticated("the authorization header is not ASCII"))?;
        let bearer = bearer(value).ok_or_else(|| unauthenticated("the authorization header is not Bearer <key>"))?;
        let (caller, run) = if api_key::looks_like_one(bearer) {
            (self.keys.caller(bearer, self.clock.now())?, None)
        } else {
            let (caller, grant) = self.open_token(path, bearer)?;
            (caller, Some(grant))
        };
        Ok(Identity { caller, run, credential: Some(Credential(value.into())) })
    }

    fn open_token(&self, path: &str, token: &str) -> Result<(Caller, RunGrant), Status> {
        if !run_token::looks_like_one(token) {
            return Err(unauthenticated("the credential is not known"));
        }
        let Some(verifier) = &self.tokens else {
            return Err(run_token::Error::UnknownKey.into());
        };
        let (caller, grant) = verifier.verify(token)?;
        grant.opens(path)?;
        self.epochs.admit(&caller.tenant, &grant.run, grant.epoch)?;
        Ok((caller, grant))
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// A status UNAUTHENTICATED.
pub(crate) fn unauthenticated(message: &str) -> Status {
    Fault::new(Code::Unauthenticated, ErrorReason::Unauthenticated, message).into()
}
