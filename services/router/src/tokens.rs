//! Counting tokens: tables that load on first use, counts that are kept by the hash of what was counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use moka::sync::Cache;
use sha2::{Digest as _, Sha256};
use tiktoken_rs::CoreBPE;

/// Counts of so many texts are kept, about 10 MB.
const KEPT: u64 = 100_000;
/// Longer texts are counted in pieces, which can only raise the count and keeps odd texts from taking long.
const PIECE: usize = 32 * 1024;
/// So many bytes are counted at once on the calling thread; more go to a thread for blocking work.
const INLINE: usize = 16 * 1024;

/// What counts a model's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// `o200k_base`.
    O200kBase,
    /// `cl100k_base`.
    Cl100kBase,
    /// One token a byte: an upper bound for every byte-level table.
    Bytes,
}

impl Table {
    /// The table of this name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "o200k_base" => Some(Self::O200kBase),
            "cl100k_base" => Some(Self::Cl100kBase),
            "bytes" => Some(Self::Bytes),
            _ => None,
        }
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::O200kBase => "o200k_base",
            Self::Cl100kBase => "cl100k_base",
            Self::Bytes => "bytes",
        }
    }

    fn count(self, text: &str) -> i64 {
        match self {
            Self::O200kBase => with_table(tiktoken_rs::o200k_base_singleton(), text),
            Self::Cl100kBase => with_table(tiktoken_rs::cl100k_base_singleton(), text),
            Self::Bytes => length(text.len()),
        }
    }

    const fn slot(self) -> usize {
        match self {
            Self::O200kBase => 0,
            Self::Cl100kBase => 1,
            Self::Bytes => 2,
        }
    }
}

/// Counts tokens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TokenCounter {
    kept: Cache<[u8; 32], i64>,
    loaded: Arc<[AtomicBool; 3]>,
}

impl Default for TokenCounter {
    fn default() -> Self {
        Self { kept: Cache::new(KEPT), loaded: Arc::default() }
    }
}

impl TokenCounter {
    /// The tokens of all `texts` together. Counts are kept per tenant.
    pub async fn count(&self, tenant: &str, table: Table, texts: &[&str]) -> i64 {
        if table == Table::Bytes {
            return texts.iter().map(|text| length(text.len())).fold(0, i64::saturating_add);
        }
        let mut sum: i64 = 0;
        let mut missing = Vec::new();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            let key = key(tenant, table, text);
            match self.kept.get(&key) {
                Some(count) => sum = sum.saturating_add(count),
                None => missing.push((key, *text)),
            }
        }
        if missing.is_empty() {
            return sum;
        }
        let counts = self.count_missing(table, &missing).await;
        for ((key, _), count) in missing.iter().zip(counts) {
            self.kept.insert(*key, count);
            sum = sum.saturating_add(count);
        }
        sum
    }

    async fn count_missing(&self, table: Table, missing: &[([u8; 32], &str)]) -> Vec<i64> {
        let bytes: usize = missing.iter().map(|(_, text)| text.len()).sum();
        let loaded = &self.loaded[table.slot()];
        if bytes <= INLINE && loaded.load(Ordering::Relaxed) {
            return missing.iter().map(|(_, text)| table.count(text)).collect();
        }
        let texts: Vec<String> = missing.iter().map(|(_, text)| (*text).to_owned()).collect();
        let counted =
            tokio::task::spawn_blocking(move || -> Vec<i64> { texts.iter().map(|text| table.count(text)).collect() });
        match counted.await {
            Ok(counts) => {
                loaded.store(true, Ordering::Relaxed);
                counts
            }
            // The runtime is going down, or a table is broken: the bound that always holds.
            Err(_) => missing.iter().map(|(_, text)| length(text.len())).collect(),
        }
    }
}

fn key(tenant: &str, table: Table, text: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([table.slot() as u8]);
    hash.update(length(tenant.len()).to_be_bytes());
    hash.update(tenant.as_bytes());
    hash.update(text.as_bytes());
    hash.finalize().into()
}

fn with_table(table: &CoreBPE, text: &str) -> i64 {
    let mut sum = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE.min(rest.len())));
        sum += length(table.count_ordinary(piece));
        rest = after;
    }
    sum
}

fn length(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tables_count_and_counts_are_kept() {
        let counter = TokenCounter::default();
        assert_eq!(counter.count("a", Table::Bytes, &["héllo", "x"]).await, 7);
        for table in [Table::O200kBase, Table::Cl100kBase] {
            assert_eq!(counter.count("a", table, &["hello world", ""]).await, 2);
            assert_eq!(counter.count("a", table, &["hello world", "hello world"]).await, 4);
        }
        counter.kept.run_pending_tasks();
        assert_eq!(counter.kept.entry_count(), 2);
        counter.count("b", Table::O200kBase, &["hello world"]).await;
        counter.kept.run_pending_tasks();
        assert_eq!(counter.kept.entry_count(), 3);
    }

    #[tokio::test]
    async fn long_and_odd_texts_are_counted_in_time() {
        let counter = TokenCounter::default();
        let odd = "é".repeat(500_000);
        let count = counter.count("a", Table::Cl100kBase, &[&odd]).await;
        assert!(count > 0 && count <= 1_000_000);
    }
}
