//! Group commit: appends that arrive together are stored together.
//!
//! The first append of a tenant goes at once. What arrives while [`LANES`] statement of the tenant is on its way forms the
//! next one. A statement that fails for one of its runs is repeated run by run, so that no run pays for another.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::store::{
    Append, Error, EventRow,
    append::{self, Scope},
};

use super::{database::Database, events};

/// Statements of one tenant on their way at a time. With a second one there are twice as many, each half as large: Postgres
/// spends a third more on an event, and commits no sooner.
const LANES: usize = 1;
/// Most rows of a statement, but for a single append that has more.
const BATCH_ROWS: usize = 256;
/// Most payload of a statement, but for a single append that has more.
const BATCH_BYTES: usize = 1024 * 1024;

/// An append that waits for its answer.
#[derive(Debug)]
pub(super) struct Entry {
    pub session: Uuid,
    pub run: Uuid,
    /// Checked: at least one, each following the one before.
    pub events: Vec<EventRow>,
    answer: oneshot::Sender<Result<Append, Error>>,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.events
            .iter()
            .map(|event| event.leaf.len() + event.content.as_ref().map_or(0, |content| content.len()))
            .sum()
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Entry>,
    lanes: usize,
}

/// Gathers the appends of each tenant.
#[derive(Debug, Clone)]
pub(super) struct Appends {
    db: Arc<Database>,
    queues: Arc<Mutex<HashMap<String, Queue>>>,
    /// Statements outlive the callers that give up: others wait for the same one.
    lanes: TaskTracker,
}

impl Appends {
    pub(super) fn new(db: Arc<Database>) -> Self {
        Self { db, queues: Arc::default(), lanes: TaskTracker::new() }
    }

    /// Appends checked events whose contents are all inline.
    pub(super) async fn append(&self, scope: Scope<'_>, events: &[EventRow]) -> Result<Append, Error> {
        let (answer, answered) = oneshot::channel();
        let entry = Entry { session: scope.session, run: scope.run, events: events.to_vec(), answer };
        if self.enqueue(scope.tenant, entry) {
            let (appends, tenant) = (self.clone(), scope.tenant.to_owned());
            self.lanes.spawn(async move { appends.lane(&tenant).await });
        }
        match self.db.within_bound(answered).await? {
            Ok(answer) => answer,
            Err(gone) => Err(Error::Unavailable(sqlx::Error::Io(std::io::Error::other(gone)))),
        }
    }

    /// Answers whether the entry needs a lane of its own to go at once.
    fn enqueue(&self, tenant: &str, entry: Entry) -> bool {
        let mut queues = self.lock();
        if !queues.contains_key(tenant) {
            queues.insert(tenant.to_owned(), Queue::default());
        }
        let Some(queue) = queues.get_mut(tenant) else { return false };
        queue.waiting.push_back(entry);
        let opens = queue.lanes < LANES;
        queue.lanes += usize::from(opens);
        opens
    }

    /// Sends statements until nothing waits.
    async fn lane(&self, tenant: &str) {
        while let Some(batch) = self.take(tenant) {
            self.store(tenant, batch).await;
        }
    }

    /// The next batch, at most one append of each run; with none the lane is closed.
    fn take(&self, tenant: &str) -> Option<Vec<Entry>> {
        let mut queues = self.lock();
        let queue = queues.get_mut(tenant)?;
        let batch = gather(&mut queue.waiting);
        if batch.is_empty() {
            queue.lanes -= 1;
            if queue.lanes == 0 {
                queues.remove(tenant);
            }
            return None;
        }
        Some(batch)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn store(&self, tenant: &str, batch: Vec<Entry>) {
        let stored = self.db.call(|_| events::insert(&self.db, tenant, &batch)).await;
        match stored {
            Ok(true) => answer_all(batch, || Ok(Append::Done)),
            Err(error) if error.is_unavailable() => answer_all(batch, || Err(again(&error))),
            Ok(false) => self.store_apart(tenant, batch, Apart::Judge).await,
            Err(_) => self.store_apart(tenant, batch, Apart::Insert).await,
        }
    }

    /// Run by run. A batch of one that found another row is judged at once.
    async fn store_apart(&self, tenant: &str, batch: Vec<Entry>, apart: Apart) {
        let alone = batch.len() == 1 && apart == Apart::Judge;
        let mut away = None;
        for entry in batch {
            let answer = match &away {
                Some(error) => Err(again(error)),
                None => self.store_one(tenant, &entry, alone).await,
            };
            if let Err(error) = &answer
                && error.is_unavailable()
                && away.is_none()
            {
                away = Some(again(error));
            }
            // Who has given up asks again.
            let _ = entry.answer.send(answer);
        }
    }

    async fn store_one(&self, tenant: &str, entry: &Entry, inserted: bool) -> Result<Append, Error> {
        let one = std::slice::from_ref(entry);
        if !inserted && self.db.call(|_| events::insert(&self.db, tenant, one)).await? {
            return Ok(Append::Done);
        }
        let scope = Scope { tenant, session: entry.session, run: entry.run };
        let stored = self.db.call(|_| events::hashes(&self.db, scope, &entry.events)).await?;
        append::judge(&entry.events, &stored)
    }
}

/// Why a batch is taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Apart {
    /// One of its runs has another row, or a gap.
    Judge,
    /// It was refused.
    Insert,
}

/// Takes what goes together, oldest first. The order of runs is the same in every statement, so that two of them cannot wait
/// for each other.
fn gather(waiting: &mut VecDeque<Entry>) -> Vec<Entry> {
    let (mut batch, mut rows, mut bytes) = (Vec::new(), 0, 0);
    let mut runs = HashSet::new();
    let mut later = VecDeque::new();
    while let Some(entry) = waiting.pop_front() {
        if entry.answer.is_closed() {
            continue;
        }
        if runs.contains(&entry.run) {
            later.push_back(entry);
            continue;
        }
        let (more_rows, more_bytes) = (entry.events.len(), entry.bytes());
        if !batch.is_empty() && (rows + more_rows > BATCH_ROWS || bytes + more_bytes > BATCH_BYTES) {
            waiting.push_front(entry);
            break;
        }
        rows += more_rows;
        bytes += more_bytes;
        runs.insert(entry.run);
        batch.push(entry);
    }
    while let Some(entry) = later.pop_back() {
        waiting.push_front(entry);
    }
    batch.sort_by_key(|entry| entry.run);
    batch
}

fn answer_all(batch: Vec<Entry>, answer: impl Fn() -> Result<Append, Error>) {
    for entry in batch {
        // Who has given up asks again.
        let _ = entry.answer.send(answer());
    }
}

/// The same failure for another caller.
fn again(error: &Error) -> Error {
    let text = mar_runtime::status::chain(error);
    Error::Unavailable(sqlx::Error::Io(std::io::Error::other(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(run: u128, rows: usize, bytes: usize) -> (Entry, oneshot::Receiver<Result<Append, Error>>) {
        let (answer, answered) = oneshot::channel();
        let row = EventRow { seq: 1, prev_hash: [0; 32], hash: [1; 32], leaf: vec![0; bytes].into(), content: None };
        let events = vec![row; rows];
        (Entry { session: Uuid::nil(), run: Uuid::from_u128(run), events, answer }, answered)
    }

    fn runs(batch: &[Entry]) -> Vec<u128> {
        batch.iter().map(|entry| entry.run.as_u128()).collect()
    }

    #[test]
    fn a_batch_has_each_run_once_in_order() {
        let (entries, _answers): (VecDeque<_>, Vec<_>) = [3, 1, 3, 2].map(|run| entry(run, 1, 1)).into_iter().unzip();
        let mut waiting = entries;
        assert_eq!(runs(&gather(&mut waiting)), [1, 2, 3]);
        assert_eq!(runs(&gather(&mut waiting)), [3]);
        assert_eq!(runs(&gather(&mut waiting)), []);
    }

    #[test]
    fn a_batch_is_bounded_by_rows_and_bytes_but_takes_one_append_of_any_size() {
        let sizes = [(1, BATCH_ROWS + 9, 1), (2, BATCH_ROWS, 1), (3, 1, BATCH_BYTES), (4, 1, 1), (5, 1, 1)];
        let (mut waiting, _answers): (VecDeque<_>, Vec<_>) =
            sizes.map(|(run, rows, bytes)| entry(run, rows, bytes)).into_iter().unzip();
        for expected in [&[1][..], &[2], &[3], &[4, 5]] {
            assert_eq!(runs(&gather(&mut waiting)), expected);
        }
    }

    #[test]
    fn who_has_given_up_is_left_out() {
        let (first, given_up) = entry(1, 1, 1);
        let (second, _waits) = entry(2, 1, 1);
        drop(given_up);
        assert_eq!(runs(&gather(&mut VecDeque::from([first, second]))), [2]);
    }
}
