//! What the server received, for looking at from tests and over HTTP.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use axum::http::HeaderMap;
use serde::Serialize;
use serde_json::Value;

/// Headers whose values are never kept.
const SECRET: [&str; 5] = ["authorization", "proxy-authorization", "x-api-key", "api-key", "cookie"];

/// A chat request as it was received.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recorded {
    /// Counts chat requests from 1.
    pub number: u64,
    /// Header values by lowercase name; secrets read `***`.
    pub headers: BTreeMap<String, String>,
    /// The body; a string with what could be read when it is not JSON.
    pub body: Value,
    /// The rule that answers, or none for a refused request.
    pub rule: Option<String>,
}

#[derive(Debug)]
pub(super) struct Journal {
    keep: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    count: u64,
    entries: VecDeque<Recorded>,
}

impl Journal {
    /// Keeps the newest `keep` requests.
    pub(super) fn new(keep: usize) -> Self {
        Self { keep, kept: Mutex::default() }
    }

    /// Counts and keeps a request; answers its number.
    pub(super) fn record(&self, headers: &HeaderMap, body: Value, rule: Option<&str>) -> u64 {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.count += 1;
        let number = kept.count;
        if self.keep > 0 {
            if kept.entries.len() == self.keep {
                kept.entries.pop_front();
            }
            let rule = rule.map(str::to_owned);
            kept.entries.push_back(Recorded { number, headers: readable(headers), body, rule });
        }
        number
    }

    pub(super) fn entries(&self) -> Vec<Recorded> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entries.iter().cloned().collect()
    }

    pub(super) fn count(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).count
    }
}

fn readable(headers: &HeaderMap) -> BTreeMap<String, String> {
    let shown = |name: &str, value: &[u8]| {
        if SECRET.contains(&name) { "***".to_owned() } else { String::from_utf8_lossy(value).into_owned() }
    };
    headers.iter().map(|(name, value)| (name.to_string(), shown(name.as_str(), value.as_bytes()))).collect()
}
