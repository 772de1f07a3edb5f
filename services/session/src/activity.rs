//! Which sessions calls have named since the store was last told: a session that calls name is not idle.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

/// The most that is kept while the store cannot be told. What comes beyond it goes untold: so many sessions are named by
/// nobody in half a second, and while the store is away nothing expires.
const MOST: usize = 100_000;

/// Sessions that calls have named, by tenant and id. Whether they exist is for the store to know.
#[derive(Debug, Default)]
pub struct Activity(Mutex<HashSet<(String, Uuid)>>);

impl Activity {
    /// A call has named a session.
    pub fn note(&self, tenant: &str, session: Uuid) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < MOST {
            seen.insert((tenant.to_owned(), session));
        }
    }

    /// Everything noted since it was last taken.
    pub fn take(&self) -> Vec<(String, Uuid)> {
        let mut seen: Vec<_> = self.0.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
        // One order for all, so that two replicas never wait for each other.
        seen.sort_unstable_by_key(|(_, session)| *session);
        seen
    }

    /// Keeps what could not be told.
    pub fn put_back(&self, untold: Vec<(String, Uuid)>) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST.saturating_sub(seen.len());
        seen.extend(untold.into_iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_taken_once() {
        let activity = Activity::default();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for (tenant, session) in [("acme", two), ("acme", one), ("acme", two), ("globex", two)] {
            activity.note(tenant, session);
        }
        let taken = activity.take();
        assert_eq!(taken.len(), 3);
        assert_eq!(taken[0], ("acme".to_owned(), one));
        assert_eq!(activity.take(), []);
        activity.put_back(taken);
        activity.note("acme", one);
        assert_eq!(activity.take().len(), 3);
    }

    #[test]
    fn it_is_bounded() {
        let activity = Activity::default();
        for number in 0..MOST as u128 + 10 {
            activity.note("acme", Uuid::from_u128(number));
        }
        let taken = activity.take();
        assert_eq!(taken.len(), MOST);
        activity.note("acme", Uuid::max());
        activity.put_back(taken);
        assert_eq!(activity.take().len(), MOST);
    }
}
