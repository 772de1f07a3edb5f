//! What a panic may hurt: the task that it is in, and nothing that waits for it.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

/// Drives a future to its end, or to its panic, which goes to the log as a fault of ours and is `None`.
///
/// What the future had in hand may be half changed afterwards: nothing of it is used again.
pub async fn unwound<T>(future: impl Future<Output = T>) -> Option<T> {
    match AssertUnwindSafe(future).catch_unwind().await {
        Ok(value) => Some(value),
        Err(panic) => {
            tracing::error!(error.chain = text(&*panic), "panic");
            None
        }
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("not a text")
}
