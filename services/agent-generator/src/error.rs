//! Why a request is not answered, and how that is told.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use mar_proto::types::ErrorReason;
use mar_runtime::ServiceName;
use mar_runtime::status::{self, Fault, Reason};
use mar_runtime::violations::Violations;
use tonic::{Code, Status};

use crate::missing::Missing;
use crate::store;

mod missing;

/// How long a caller waits before it tries again what failed on a dependency.
const RETRY: Duration = Duration::from_secs(1);

/// Why a request is not answered. `Peer`, `Upstream` and `Store` may pass by themselves; the others do not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks rules; all of them are listed.
    #[error("request is invalid: {0}")]
    Invalid(Violations),
    /// What the request names and does not exist; at least one thing.
    #[error("{0}")]
    NotFound(Missing),
    /// The policy does not let the agent come about as the task asks.
    #[error("policy denies {denied}")]
    PolicyDenied {
        /// What it denies.
        denied: Denied,
        /// What determined it.
        policies: Vec<String>,
    },
    /// No model passes the hard constraints.
    #[error("no model is admitted")]
    NoModelAdmitted {
        /// Each model and what it fails.
        rejections: Vec<(String, String)>,
    },
    /// A tool that the task names may belong to an upstream that is down.
    #[error("upstreams of named tools are unavailable")]
    Upstream {
        /// The upstreams.
        upstreams: Vec<String>,
    },
    /// Another service failed or refused.
    #[error("{peer} did not answer as asked")]
    Peer {
        /// Which service.
        peer: ServiceName,
        /// What it said.
        #[source]
        status: Box<Status>,
    },
    /// Another service answered with something that makes no sense.
    #[error("{peer} answered with {what}")]
    PeerBroken {
        /// Which service.
        peer: ServiceName,
        /// What is wrong with the answer.
        what: String,
    },
    /// The store did not answer.
    #[error("descriptor store")]
    Store(#[from] store::Error),
    /// The descriptor could not be sealed.
    #[error("descriptor cannot be sealed")]
    Seal(#[source] mar_descriptor::Error),
}

/// What a policy denies an agent.
#[derive(Debug, PartialEq, Eq)]
pub enum Denied {
    /// Tools that the task names.
    Tools(Vec<String>),
    /// Every model that routing admits.
    Models(Vec<String>),
    /// The rendered prompt.
    Prompt,
}

impl fmt::Display for Denied {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tools(tools) => out.write_str(&tools.join(", ")),
            Self::Models(models) => write!(out, "every admitted model: {}", models.join(", ")),
            Self::Prompt => out.write_str("this prompt"),
        }
    }
}

impl From<Violations> for Error {
    fn from(violations: Violations) -> Self {
        Self::Invalid(violations)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(violations) => violations.into(),
            Error::NotFound(missing) => missing.into(),
            Error::PolicyDenied { denied, policies } => policy_denied(&denied, &policies),
            Error::NoModelAdmitted { rejections } => no_model(rejections),
            Error::Upstream { upstreams } => upstream_unavailable(&upstreams),
            Error::Peer { peer, status } => peer_failed(peer, *status),
            Error::Store(store::Error::Unavailable(source)) => store_unavailable(&source),
            error @ (Error::PeerBroken { .. } | Error::Store(_) | Error::Seal(_)) => status::internal(error),
        }
    }
}

fn policy_denied(denied: &Denied, policies: &[String]) -> Status {
    // Of a run that fails on it only the text is kept, so that it names the rules as well.
    let message = format!("a policy does not let the agent have {denied} ({})", policies.join(", "));
    let fault =
        Fault::new(Code::PermissionDenied, ErrorReason::PolicyDenied, message).metadata("policies", policies.join(","));
    match denied {
        Denied::Tools(tools) => fault.metadata("tools", tools.join(",")),
        Denied::Models(models) => fault.metadata("models", models.join(",")),
        Denied::Prompt => fault,
    }
    .into()
}

fn no_model(rejections: Vec<(String, String)>) -> Status {
    let message = match rejections.len() {
        0 => "the catalogue has no models".to_owned(),
        count => format!("none of {count} models passes the hard constraints: {}", tally(&rejections)),
    };
    let fault = Fault::new(Code::FailedPrecondition, ErrorReason::NoModelAdmitted, message);
    rejections.into_iter().fold(fault, |fault, (model, why)| fault.metadata(model, why)).into()
}

/// How many models each constraint keeps out, the most frequent first: `MODEL 13, CREDENTIAL 12`.
fn tally(rejections: &[(String, String)]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in rejections.iter().flat_map(|(_, why)| why.split("; ")) {
        let name = reason.split(':').next().unwrap_or(reason);
        *counts.entry(name).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn upstream_unavailable(upstreams: &[String]) -> Status {
    let message = "an upstream whose tools the task names is down";
    Fault::new(Code::Unavailable, ErrorReason::UpstreamUnavailable, message)
        .metadata("upstreams", upstreams.join(","))
        .retry_after(RETRY)
        .into()
}

fn store_unavailable(source: &(dyn std::error::Error + 'static)) -> Status {
    tracing::warn!(error.chain = status::chain(source), "the descriptor store is unavailable");
    Fault::new(Code::Unavailable, ErrorReason::StoreUnavailable, "the descriptor store is unavailable")
        .retry_after(RETRY)
        .into()
}

/// What a peer says about the request or the credential is the caller's to know. What is wrong with the peer itself is
/// one reason, whatever the peer calls it.
fn peer_failed(peer: ServiceName, status: Status) -> Status {
    let unavailable = |delay: Option<Duration>| {
        Fault::new(Code::Unavailable, ErrorReason::PeerUnavailable, format!("the service {peer} is unavailable"))
            .metadata("peer", peer.as_str())
            .retry_after(delay.unwrap_or(RETRY))
            .into()
    };
    match (status.code(), Reason::of(&status)) {
        (Code::Unavailable, _) => unavailable(status::retry_after(&status)),
        (_, None) => unavailable(None),
        (_, Some(ErrorReason::Internal | ErrorReason::NotImplemented)) => {
            tracing::warn!(peer = peer.as_str(), error = %status, "a peer failed");
            unavailable(None)
        }
        (_, Some(_)) => status,
    }
}
