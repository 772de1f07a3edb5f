//! A provider's credential: where it is, what it is, and whether the provider still takes it.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mar_runtime::config::SecretRef;
use secrecy::SecretString;

use super::{Failure, FailureClass};

/// After so long a credential that was missing or refused is looked at again.
const RETRY: Duration = Duration::from_secs(60);

/// A credential by reference. The secret itself is never printed.
#[derive(Debug)]
pub struct Credential {
    reference: Option<SecretRef>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Live(Option<SecretString>),
    Missing { since: Duration },
    Dead { since: Duration },
}

/// What keeps calls from a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It is not configured, or its credential is missing: a matter of this router's configuration.
    NotConfigured(String),
    /// It refuses the credential: a matter of the moment.
    Refused(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::NotConfigured(detail) | Self::Refused(detail)) = self;
        out.write_str(detail)
    }
}

impl Credential {
    /// Reads the secret; none stands for a provider that asks for nothing. A secret that is not there is no error: the
    /// provider's models are not called until it is.
    pub fn new(reference: Option<SecretRef>, now: Duration) -> Self {
        let state = Mutex::new(read(reference.as_ref(), now));
        Self { reference, state }
    }

    /// Whether the provider asks for none.
    pub fn is_none(&self) -> bool {
        self.reference.is_none()
    }

    /// What is wrong, if anything.
    pub fn problem(&self, now: Duration) -> Option<Problem> {
        let place = self.reference.as_ref();
        let place = || place.map_or_else(String::new, |place| format!(" ({place})"));
        match &*self.current(now) {
            State::Live(_) => None,
            State::Missing { .. } => Some(Problem::NotConfigured(format!("the credential is missing{}", place()))),
            State::Dead { .. } => Some(Problem::Refused(format!("the provider refuses the credential{}", place()))),
        }
    }

    /// The secret, if the provider asks for one.
    ///
    /// # Errors
    /// The secret is missing.
    pub fn secret(&self, now: Duration) -> Result<Option<SecretString>, Failure> {
        match &*self.current(now) {
            State::Live(secret) => Ok(secret.clone()),
            _ => Err(Failure::new(FailureClass::Credential, "has no usable credential")),
        }
    }

    /// The provider has refused it.
    pub fn died(&self, now: Duration) {
        *self.lock() = State::Dead { since: now };
    }

    /// The state, read anew when it is time: a file may have been rotated, an account paid.
    fn current(&self, now: Duration) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if let State::Missing { since } | State::Dead { since } = &*state
            && now.saturating_sub(*since) >= RETRY
        {
            *state = read(self.reference.as_ref(), now);
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(reference: Option<&SecretRef>, now: Duration) -> State {
    match reference.map(SecretRef::resolve).transpose() {
        Ok(secret) => State::Live(secret),
        Err(_) => State::Missing { since: now },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_credential_is_tried_again_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let start = Duration::from_secs(5);
        let credential = Credential::new(Some(SecretRef::File(path.clone())), start);
        assert!(credential.problem(start).unwrap().to_string().contains("missing"));
        assert!(credential.secret(start).is_err());
        std::fs::write(&path, "sk-secret").unwrap();
        assert!(credential.problem(start).is_some());
        assert!(credential.problem(start + RETRY).is_none());
        credential.died(start + RETRY);
        let problem = credential.problem(start + RETRY).unwrap().to_string();
        assert!(problem.contains("refuses") && !problem.contains("sk-secret"));
        assert!(!format!("{credential:?}").contains("sk-secret"));
        assert!(credential.problem(start + RETRY + RETRY).is_none());
    }

    #[test]
    fn a_provider_may_ask_for_nothing() {
        let credential = Credential::new(None, Duration::ZERO);
        assert!(credential.is_none() && credential.problem(Duration::ZERO).is_none());
        assert!(credential.secret(Duration::ZERO).unwrap().is_none());
    }
}
