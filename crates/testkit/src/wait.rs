//! Waiting on a condition, so that no test sleeps for a guessed time.

use std::future::Future;
use std::time::Duration;

/// Pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// The condition did not come true in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the condition did not hold within {within:?}")]
pub struct Overdue {
    /// How long it was waited for.
    pub within: Duration,
}

/// Looks at `condition` every 10 ms until it holds.
///
/// # Errors
/// [`Overdue`] when it did not hold within `within`; a look that takes longer is given up.
pub async fn until<F, Fut>(within: Duration, mut condition: F) -> Result<(), Overdue>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    until_some(within, || {
        let looking = condition();
        async { looking.await.then_some(()) }
    })
    .await
}

/// Looks every 10 ms until there is a value.
///
/// # Errors
/// [`Overdue`] as for [`until`].
pub async fn until_some<T, F, Fut>(within: Duration, mut look: F) -> Result<T, Overdue>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(within, looking).await.map_err(|_| Overdue { within })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_until_it_holds() {
        let mut looks = 0;
        let value = until_some(Duration::from_secs(5), || {
            looks += 1;
            let now = looks;
            async move { (now == 3).then_some(now) }
        });
        assert_eq!(value.await, Ok(3));
    }

    #[tokio::test]
    async fn gives_up_in_time() {
        let within = Duration::from_millis(30);
        assert_eq!(until(within, || async { false }).await, Err(Overdue { within }));
        assert_eq!(until(within, std::future::pending::<bool>).await, Err(Overdue { within }));
    }
}
