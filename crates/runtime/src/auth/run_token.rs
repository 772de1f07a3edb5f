//! Run tokens: what session signs so that its peers know for which run, epoch and descriptor a call is made.
//!
//! A token is a JWT (RFC 7519) with `typ` `run+jwt`, signed with Ed25519. It lives five minutes at most.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use mar_proto::types::ErrorReason;
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use super::{Caller, keys};
use crate::ServiceName;
use crate::clock::Clock;
use crate::status::Fault;

/// The longest life of a token.
pub const MAX_LIFE: Duration = Duration::from_secs(300);
/// How far the clocks of two services may differ.
pub const LEEWAY: Duration = Duration::from_secs(30);

const TYPE: &str = "run+jwt";

/// The methods that a token without a descriptor hash opens: those that are called before an agent exists.
const OPEN_WITHOUT_DESCRIPTOR: [&str; 5] = [
    "/agentruntime.agent.v1.AgentGeneratorService/GenerateAgent",
    "/agentruntime.router.v1.RouterService/SelectModel",
    "/agentruntime.router.v1.RouterService/CountTokens",
    "/agentruntime.tool.v1.ToolGatewayService/ListTools",
    "/agentruntime.tool.v1.ToolGatewayService/GetTool",
];

/// Why a token is refused. All but [`Error::Signing`] become PERMISSION_DENIED, `RUN_TOKEN_INVALID`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a token of this kind at all, or its signature is wrong.
    #[error("the run token is malformed or its signature is wrong")]
    Malformed,
    /// No verification key has the token's `kid`.
    #[error("the run token is signed by an unknown key")]
    UnknownKey,
    /// Its time is over, or has not come.
    #[error("the run token has expired or is not valid yet")]
    Expired,
    /// It was made to live longer than [`MAX_LIFE`].
    #[error("the run token lives longer than {} seconds", MAX_LIFE.as_secs())]
    TooLong,
    /// It was made for other services.
    #[error("the run token is made for another service")]
    Audience,
    /// It has no descriptor hash and the method needs one.
    #[error("a run token without a descriptor does not open this method")]
    NeedsDescriptor,
    /// The token could not be signed.
    #[error("the run token could not be signed")]
    Signing(#[source] jsonwebtoken::errors::Error),
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Signing(_) => crate::status::internal(error),
            refused => Fault::new(Code::PermissionDenied, ErrorReason::RunTokenInvalid, refused.to_string()).into(),
        }
    }
}

/// Whether a credential has the form of a token: three parts with dots between.
pub fn looks_like_one(credential: &str) -> bool {
    credential.split('.').count() == 3
}

/// Whether a token without a descriptor hash opens the gRPC method at `path`.
pub fn opens_without_descriptor(path: &str) -> bool {
    OPEN_WITHOUT_DESCRIPTOR.contains(&path)
}

/// For what a call is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunGrant {
    /// The session's id.
    pub session: String,
    /// The run's id.
    pub run: String,
    /// The hash of the sealed descriptor, `sha256:<hex>`; none before an agent exists.
    pub descriptor_hash: Option<String>,
    /// The number of the ownership under which the run is executed.
    pub epoch: u64,
}

impl RunGrant {
    /// Refuses a method that this grant does not open.
    ///
    /// # Errors
    /// [`Error::NeedsDescriptor`].
    pub fn opens(&self, path: &str) -> Result<(), Error> {
        let opens = self.descriptor_hash.is_some() || opens_without_descriptor(path);
        if opens { Ok(()) } else { Err(Error::NeedsDescriptor) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    tenant: String,
    principal: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end_user: Option<String>,
    groups: std::collections::BTreeSet<String>,
    scopes: std::collections::BTreeSet<String>,
    environment: String,
    session: String,
    run: String,
    descriptor_hash: String,
    epoch: u64,
    aud: Vec<String>,
    iat: i64,
    exp: i64,
}

/// Signs tokens with session's private key.
pub struct RunTokenSigner {
    header: Header,
    key: EncodingKey,
    life: Duration,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for RunTokenSigner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RunTokenSigner").field("kid", &self.header.kid).finish_non_exhaustive()
    }
}

impl RunTokenSigner {
    /// A signer of tokens that live [`MAX_LIFE`].
    ///
    /// # Errors
    /// The PEM is no Ed25519 key in PKCS#8.
    pub fn try_new(private_pem: &str, clock: Arc<dyn Clock>) -> Result<Self, keys::Error> {
        let kid = keys::kid_of_private(private_pem)?;
        let key = EncodingKey::from_ed_pem(private_pem.as_bytes())
            .map_err(|_| keys::Error::Malformed { expected: "PKCS#8" })?;
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.into());
        header.kid = Some(kid);
        Ok(Self { header, key, life: MAX_LIFE, clock })
    }

    /// Shorter lives than [`MAX_LIFE`], for tests and cautious operators; at least one second.
    #[must_use]
    pub fn with_life(mut self, life: Duration) -> Self {
        self.life = life.clamp(Duration::from_secs(1), MAX_LIFE);
        self
    }

    /// How long a token lives.
    pub fn life(&self) -> Duration {
        self.life
    }

    /// The clock by which tokens are dated.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// A token that says to each of `audience`: `caller` calls for `grant`.
    ///
    /// # Errors
    /// [`Error::Signing`].
    pub fn sign(&self, caller: &Caller, grant: &RunGrant, audience: &[ServiceName]) -> Result<String, Error> {
        let iat = self.clock.now().unix_timestamp();
        let claims = Claims {
            tenant: caller.tenant.clone(),
            principal: caller.principal.clone(),
            end_user: caller.end_user.clone(),
            groups: caller.groups.clone(),
            scopes: caller.scopes.clone(),
            environment: caller.environment.clone(),
            session: grant.session.clone(),
            run: grant.run.clone(),
            descriptor_hash: grant.descriptor_hash.clone().unwrap_or_default(),
            epoch: grant.epoch,
            aud: audience.iter().map(|name| name.as_str().to_owned()).collect(),
            iat,
            exp: iat.saturating_add(self.life.as_secs().cast_signed()),
        };
        jsonwebtoken::encode(&self.header, &claims, &self.key).map_err(Error::Signing)
    }
}

/// Verifies tokens with up to two public keys.
pub struct RunTokenVerifier {
    keys: Vec<(String, DecodingKey)>,
    audience: ServiceName,
    validation: Validation,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for RunTokenVerifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kids: Vec<_> = self.keys.iter().map(|(kid, _)| kid).collect();
        out.debug_struct("RunTokenVerifier")
            .field("kids", &kids)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

impl RunTokenVerifier {
    /// A verifier for the service `audience`.
    ///
    /// # Errors
    /// A PEM is no Ed25519 key in SubjectPublicKeyInfo form.
    pub fn try_new<P: AsRef<str>>(
        public_pems: &[P],
        audience: ServiceName,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, keys::Error> {
        let mut found = Vec::new();
        for pem in public_pems {
            let kid = keys::kid_of_public(pem.as_ref())?;
            let key = DecodingKey::from_ed_pem(pem.as_ref().as_bytes())
                .map_err(|_| keys::Error::Malformed { expected: "SubjectPublicKeyInfo" })?;
            found.push((kid, key));
        }
        // Times and audience are checked below, by the injected clock.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Ok(Self { keys: found, audience, validation, clock })
    }

    /// Who calls, and for what.
    ///
    /// # Errors
    /// Every [`Error`] but `Signing` and `NeedsDescriptor`.
    pub fn verify(&self, token: &str) -> Result<(Caller, RunGrant), Error> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Error::Malformed)?;
        if header.typ.as_deref() != Some(TYPE) || header.alg != Algorithm::EdDSA {
            return Err(Error::Malformed);
        }
        let (_, key) = self.keys.iter().find(|(kid, _)| header.kid.as_ref() == Some(kid)).ok_or(Error::UnknownKey)?;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &self.validation).map_err(|_| Error::Malformed)?.claims;
        self.check(&claims)?;
        let caller = Caller {
            tenant: claims.tenant,
            principal: claims.principal,
            end_user: claims.end_user,
            groups: claims.groups,
            scopes: claims.scopes,
            environment: claims.environment,
        };
        let descriptor_hash = Some(claims.descriptor_hash).filter(|hash| !hash.is_empty());
        Ok((caller, RunGrant { session: claims.session, run: claims.run, descriptor_hash, epoch: claims.epoch }))
    }

    fn check(&self, claims: &Claims) -> Result<(), Error> {
        let now = self.clock.now().unix_timestamp();
        let leeway = LEEWAY.as_secs().cast_signed();
        if now >= claims.exp.saturating_add(leeway) || claims.iat > now.saturating_add(leeway) {
            return Err(Error::Expired);
        }
        if claims.exp.saturating_sub(claims.iat) > MAX_LIFE.as_secs().cast_signed() {
            return Err(Error::TooLong);
        }
        if !claims.aud.iter().any(|name| name == self.audience.as_str()) {
            return Err(Error::Audience);
        }
        if claims.tenant.is_empty() || claims.run.is_empty() {
            return Err(Error::Malformed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
