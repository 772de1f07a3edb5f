//! Signed tokens kept per run, so that a call does not cost a signature.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::run_token::{Error, RunTokenSigner};
use super::{Caller, RunGrant};
use crate::ServiceName;

const DEFAULT_CAPACITY: usize = 10_000;

/// Mints a token per (run, epoch, descriptor hash, audience) and renews it at half its life, so that a token always has
/// at least half of it left. Bounded in runs; drop a run with [`RunTokenCache::forget`] when it ends.
#[derive(Debug)]
pub struct RunTokenCache {
    signer: RunTokenSigner,
    capacity: usize,
    runs: Mutex<HashMap<(String, String), HashMap<Key, Minted>>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    epoch: u64,
    descriptor_hash: Option<String>,
    audience: Vec<ServiceName>,
}

#[derive(Debug)]
struct Minted {
    token: String,
    renew_at: Duration,
    caller: Caller,
}

impl RunTokenCache {
    /// A cache over `signer`.
    pub fn new(signer: RunTokenSigner) -> Self {
        Self { signer, capacity: DEFAULT_CAPACITY, runs: Mutex::default() }
    }

    /// Keeps at most `capacity` runs, at least one.
    #[must_use]
    pub fn with_capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity.max(1);
        self
    }

    /// A token with at least half of its life left.
    ///
    /// # Errors
    /// [`Error::Signing`].
    pub fn token(&self, caller: &Caller, grant: &RunGrant, audience: &[ServiceName]) -> Result<String, Error> {
        let now = self.signer.clock().monotonic();
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let run = (caller.tenant.clone(), grant.run.clone());
        let key =
            Key { epoch: grant.epoch, descriptor_hash: grant.descriptor_hash.clone(), audience: audience.to_vec() };
        let kept = runs.get(&run).and_then(|tokens| tokens.get(&key));
        if let Some(kept) = kept.filter(|kept| now < kept.renew_at && kept.caller == *caller) {
            return Ok(kept.token.clone());
        }
        let token = self.signer.sign(caller, grant, audience)?;
        if !runs.contains_key(&run) {
            self.make_room(&mut runs, now);
        }
        let tokens = runs.entry(run).or_default();
        // What an earlier epoch or descriptor left behind goes with its time.
        tokens.retain(|_, minted| now < minted.renew_at);
        let renew_at = now.saturating_add(self.signer.life() / 2);
        tokens.insert(key, Minted { token: token.clone(), renew_at, caller: caller.clone() });
        Ok(token)
    }

    /// `authorization: Bearer <token>` on a request to a peer.
    ///
    /// # Errors
    /// [`Error::Signing`].
    pub fn authorize<T>(
        &self,
        request: &mut tonic::Request<T>,
        caller: &Caller,
        grant: &RunGrant,
        audience: &[ServiceName],
    ) -> Result<(), Error> {
        let value = format!("Bearer {}", self.token(caller, grant, audience)?);
        let value = value.parse().map_err(|_| Error::Malformed)?;
        request.metadata_mut().insert(http::header::AUTHORIZATION.as_str(), value);
        Ok(())
    }

    /// Drops the tokens of a run.
    pub fn forget(&self, tenant: &str, run: &str) {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).remove(&(tenant.to_owned(), run.to_owned()));
    }

    fn make_room(&self, runs: &mut HashMap<(String, String), HashMap<Key, Minted>>, now: Duration) {
        if runs.len() < self.capacity {
            return;
        }
        runs.retain(|_, tokens| tokens.values().any(|minted| now < minted.renew_at));
        if runs.len() >= self.capacity {
            // A run that loses its tokens pays one signature at its next call.
            let evicted = runs.keys().take(runs.len() / 2 + 1).cloned().collect::<Vec<_>>();
            for run in evicted {
                runs.remove(&run);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::auth::keys;
    use crate::auth::run_token::MAX_LIFE;
    use crate::clock::{ManualClock, SystemIds};

    fn cache(clock: &Arc<ManualClock>) -> RunTokenCache {
        let pair = keys::generate(&SystemIds).unwrap();
        RunTokenCache::new(RunTokenSigner::try_new(pair.private_pem.expose_secret(), clock.clone()).unwrap())
    }

    fn grant(run: &str, epoch: u64) -> RunGrant {
        RunGrant { session: "s".into(), run: run.into(), descriptor_hash: None, epoch }
    }

    #[test]
    fn a_token_is_kept_for_half_its_life() {
        let clock = Arc::new(ManualClock::default());
        let cache = cache(&clock);
        let token = |epoch| cache.token(&Caller::dev(), &grant("r", epoch), &[ServiceName::Router]).unwrap();
        let first = token(1);
        clock.advance(MAX_LIFE / 2 - Duration::from_secs(1));
        assert_eq!(token(1), first);
        assert_ne!(token(2), first);
        clock.advance(Duration::from_secs(1));
        assert_ne!(token(1), first);
    }

    #[test]
    fn runs_are_forgotten_and_bounded() {
        let clock = Arc::new(ManualClock::default());
        let cache = cache(&clock).with_capacity(4);
        for at in 0..50 {
            cache.token(&Caller::dev(), &grant(&format!("r{at}"), 1), &[ServiceName::Router]).unwrap();
            assert!(cache.runs.lock().unwrap().len() <= 4);
        }
        cache.forget("dev", "r49");
        assert!(!cache.runs.lock().unwrap().contains_key(&("dev".into(), "r49".into())));
    }
}
