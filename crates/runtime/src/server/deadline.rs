//! `grpc-timeout`, as the gRPC protocol over HTTP/2 defines it, and what becomes of it.

use std::time::Duration;

use http::HeaderMap;
use mar_proto::types::ErrorReason;
use tonic::{Code, Status};

use crate::clock::Clock;
use crate::status::Fault;
use crate::violations::Violations;

pub(crate) const TIMEOUT_HEADER: &str = "grpc-timeout";

/// When a call ends, in the extensions of its request. A handler gives what is left to the calls that it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The end in the clock's monotonic time.
    pub at: Duration,
}

impl Deadline {
    /// The deadline of a call; none when it may go on for as long as it likes.
    pub fn of<T>(request: &tonic::Request<T>) -> Option<Self> {
        request.extensions().get().copied()
    }

    /// What is left of it; zero when it has passed.
    pub fn remaining(self, clock: &dyn Clock) -> Duration {
        self.at.saturating_sub(clock.monotonic())
    }
}

/// The timeout that the caller has set.
///
/// # Errors
/// INVALID_ARGUMENT when the header is not 1 to 8 digits and a unit.
pub(crate) fn read(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(header) = headers.get(TIMEOUT_HEADER) else {
        return Ok(None);
    };
    header.to_str().ok().and_then(parse).map(Some).ok_or_else(|| {
        let mut found = Violations::new();
        found.field(TIMEOUT_HEADER, "must be 1 to 8 digits and one of H, M, S, m, u, n");
        found.into()
    })
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// The header's value for a timeout: the finest unit in which it fits.
pub(crate) fn encode(timeout: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let units = [(timeout.as_micros(), 'u'), (timeout.as_millis(), 'm'), (u128::from(timeout.as_secs()), 'S')];
    let fits = units.into_iter().find(|(count, _)| *count <= MOST);
    let (count, unit) = fits.unwrap_or((u128::from(timeout.as_secs() / 3600).min(MOST), 'H'));
    format!("{count}{unit}")
}

/// The status of a call whose deadline has passed.
pub(crate) fn passed() -> Status {
    Fault::new(Code::DeadlineExceeded, ErrorReason::DeadlineExceeded, "the deadline has passed").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_and_written() {
        for (text, timeout) in [
            ("1H", Duration::from_secs(3600)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("99999999S", Duration::from_secs(99_999_999)),
        ] {
            assert_eq!(parse(text), Some(timeout), "{text}");
            assert_eq!(parse(&encode(timeout)), Some(timeout), "{text}");
        }
        for text in ["", "S", "1", "1x", "-1S", "+1S", "123456789S", "1é", "1.5S"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(parse(&encode(Duration::MAX)).is_some());
    }
}
