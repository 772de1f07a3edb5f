//! Which providers that ask for no credential answer at this moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use mar_runtime::clock::Clock;
use tokio::sync::Mutex;

use crate::provider::pool::Pool;

/// So long an answer holds: whoever asks again and again does not make the router ask as often.
const FRESH: Duration = Duration::from_secs(1);

/// What was found: by provider nothing where it answered, else what it did instead. Providers with a credential are not in it.
pub type Found = BTreeMap<String, Option<String>>;

/// The looks at the providers, one at a time.
#[derive(Debug)]
pub struct Reach {
    pool: Pool,
    clock: Arc<dyn Clock>,
    last: Mutex<Option<(Duration, Found)>>,
}

impl Reach {
    /// Over these providers.
    pub fn new(pool: Pool, clock: Arc<dyn Clock>) -> Self {
        Self { pool, clock, last: Mutex::new(None) }
    }

    /// Asks all of them at once, about a second long at the most.
    pub async fn look(&self) -> Found {
        let mut last = self.last.lock().await;
        let now = self.clock.monotonic();
        if let Some((at, found)) = last.as_ref()
            && now.saturating_sub(*at) < FRESH
        {
            return found.clone();
        }
        let looks = self.pool.iter().map(|(name, provider)| async move {
            let answered = provider.look().await?;
            let problem = answered.err().map(|failure| format!("{} {failure}", self.pool.place(name)));
            Some((name.to_owned(), problem))
        });
        let found: Found = join_all(looks).await.into_iter().flatten().collect();
        *last = Some((self.clock.monotonic(), found.clone()));
        found
    }
}
