//! Verification of a run from its stored rows: everything that can be recomputed is, and every fault is told.
//!
//! Nothing here reads or writes anything: rows are handed in, events one by one so that a long log needs no memory. Rows may
//! hold anything; what cannot be read is a fault and never a panic.
//!
//! **Invariant:** a log without faults is the log that was written. Each stored hash is the hash of the stored leaf and
//! of what stands before it, back to the genesis hash; each payload opens its commitment in the leaf; the
//! last hash is the one in the signed seal. A fault is told where the bytes were changed: one that is told does not make
//! its neighbours faults.
//!
//! A payload that is gone is counted; it is no fault where the session's log says that its payloads go, and one where it does
//! not: erasure takes payloads away, says so, and leaves the chain.

use bytes::Bytes;
use mar_descriptor::{Hash, Head, SaltKey, VerifyingKeys, chain};
use mar_proto::session::{
    Answer, EventContent, EventLeaf, RunAdmitted, RunEnded, SessionState, Task, VerifyFault, VerifyFaultKind as Kind,
    VerifyPlace as Place, VerifyRunResponse, event_leaf::Body,
};
use prost::Message as _;
use uuid::Uuid;

use crate::log;
use crate::sessions::name as session_name;
use crate::store::erasure::Extent;
use crate::store::session_log::kind as entry;
use crate::store::{EventRow, RunRow, SessionLogRow, SessionRow};

mod beside;
mod content;
mod descriptor;
mod parent;
mod seals;

pub use seals::{session_seal, stored_seals};

/// The most faults that are told; how many more there are is told besides.
const MAX_FAULTS: usize = 10_000;

/// Whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// On run seals and session seals.
    pub seals: VerifyingKeys,
    /// On descriptors; `None` where none are configured, and then they are not checked.
    pub descriptors: Option<VerifyingKeys>,
}

/// Everything beside the events that a run is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The run's session.
    pub session: &'a SessionRow,
    /// The session's log, oldest first.
    pub session_log: &'a [SessionLogRow],
    /// The run.
    pub run: &'a RunRow,
    /// The event of another run's log that its chain begins with, where the run's first event names one and it is there: the
    /// intent of a parent, or the last event that a fork shares.
    pub intent: Option<&'a EventRow>,
    /// The hashes of the session's run seals by run, as their rows have them; used once the session has ended.
    pub seals: &'a std::collections::BTreeMap<Uuid, Hash>,
}

/// The faults found so far.
#[derive(Debug, Default)]
struct Faults {
    told: Vec<VerifyFault>,
    left_out: usize,
}

impl Faults {
    fn add(&mut self, place: Place, seq: i64, kind: Kind, message: impl Into<String>) {
        if self.told.len() < MAX_FAULTS {
            self.told.push(VerifyFault { seq, message: message.into(), kind: kind.into(), place: place.into() });
        } else {
            self.left_out += 1;
        }
    }

    fn event(&mut self, seq: i64, kind: Kind, message: impl Into<String>) {
        self.add(Place::Event, seq, kind, message);
    }
}

/// The event before the one that is looked at.
#[derive(Debug, Clone, Copy)]
struct Before {
    seq: i64,
    stored: Hash,
    recomputed: Hash,
}

/// What the leaves say that other rows are compared with.
#[derive(Debug, Default)]
struct Told {
    first_hash: Option<Hash>,
    first_time: Option<prost_types::Timestamp>,
    admitted: Option<RunAdmitted>,
    task: Option<Task>,
    input_commitment: Bytes,
    session_commitment: Bytes,
    descriptor_hash: String,
    epoch: i64,
    ended: Option<(i64, RunEnded, Option<prost_types::Timestamp>)>,
    /// `None` where the last event's payloads are gone.
    answer: Option<Option<Answer>>,
}

/// A run's log in verification. Give it the events in the order in which they are stored, then [`Verifier::finish`].
#[derive(Debug)]
pub struct Verifier<'a> {
    keys: &'a Keys,
    rows: Rows<'a>,
    name: String,
    salt_key: Option<SaltKey>,
    /// The chain that its leaves make, whatever is stored as their hashes.
    head: Head,
    before: Option<Before>,
    /// A position behind it whose row cannot be read.
    lost: Option<i64>,
    events: i64,
    gone: i64,
    /// How much the session's log says that goes.
    goes: Option<Extent>,
    told: Told,
    faults: Faults,
    unchecked: Vec<String>,
    /// The log was written by a newer version: its leaves mean nothing here.
    foreign_format: bool,
}

/// Verifies a run whose events are all at hand.
pub fn verify(keys: &Keys, rows: Rows<'_>, events: &[EventRow]) -> VerifyRunResponse {
    let mut verifier = Verifier::new(keys, rows);
    for event in events {
        verifier.event(event);
    }
    verifier.finish()
}

impl<'a> Verifier<'a> {
    /// Begins with a run of which no event has been looked at. A root run's chain starts from zeros, that of a child run
    /// from its parent's intent, that of a fork from the last event that it shares.
    pub fn new(keys: &'a Keys, rows: Rows<'a>) -> Self {
        let mut verifier = Self {
            keys,
            rows,
            name: rows.run.id.to_string(),
            salt_key: <[u8; 32]>::try_from(rows.session.salt_key.as_ref()).ok().map(SaltKey::from_bytes),
            head: Head::genesis(parent::genesis(&rows)),
            before: None,
            lost: None,
            events: 0,
            gone: 0,
            goes: goes(rows.session_log),
            told: Told { epoch: 1, ..Told::default() },
            faults: Faults::default(),
            unchecked: Vec::new(),
            foreign_format: rows.run.log_version > log::VERSION,
        };
        if verifier.salt_key.is_none() {
            verifier.unchecked.push("commitments: the session's salt key is gone".to_owned());
            if verifier.goes != Some(Extent::Everything) {
                let text = "the salt key of a session whose log does not say that it was erased is not 32 bytes";
                verifier.faults.add(Place::Session, -1, Kind::Unreadable, text);
            }
        }
        if verifier.foreign_format {
            let text = "what the events say: their format is newer than this version";
            verifier.unchecked.push(text.to_owned());
        }
        verifier
    }

    /// Notes that an event is stored that cannot even be read as a row. It takes the next position; what it was, and so what
    /// the event behind it follows, is not known.
    pub fn unreadable(&mut self, seq: i64, what: &str) {
        self.events += 1;
        self.faults.event(seq, Kind::Unreadable, format!("its stored {what} cannot be read"));
        self.lost = Some(seq);
    }

    /// Looks at the next event.
    pub fn event(&mut self, row: &EventRow) {
        self.events += 1;
        self.head = self.head.next(&row.leaf);
        let follows = self.number(row.seq);
        let recomputed = self.link(row, follows);
        if row.seq == 0 && self.told.first_hash.is_none() {
            self.told.first_hash = Some(Hash::from_bytes(row.hash));
        }
        let last = self.before.map_or(-1, |before| before.seq);
        if row.seq > last {
            self.before = Some(Before { seq: row.seq, stored: Hash::from_bytes(row.hash), recomputed });
        }
        if !self.foreign_format {
            self.leaf(row);
        }
    }

    /// Whether the event directly follows the one before it.
    fn number(&mut self, seq: i64) -> bool {
        let last = self.before.map_or(-1, |before| before.seq);
        let lost = self.lost.take();
        let expected = lost.unwrap_or(last).max(last).saturating_add(1);
        if seq == expected {
            return lost.is_none();
        }
        if seq > expected {
            self.faults.event(expected, Kind::Missing, missing(expected, seq - 1));
        } else if seq == last {
            self.faults.event(seq, Kind::Order, format!("event {seq} is there twice"));
        } else {
            self.faults.event(seq, Kind::Order, format!("event {seq} comes after event {last}"));
        }
        false
    }

    /// Checks an event's hash, and answers what it has to be. What is told of the event before is not told again of this one:
    /// its hash may be over the stored or the recomputed one. Only the first event says what it follows.
    fn link(&mut self, row: &EventRow, follows: bool) -> Hash {
        let stored = Hash::from_bytes(row.hash);
        let said = Hash::from_bytes(row.prev_hash);
        let candidates = match self.before {
            Some(before) if follows => vec![before.recomputed, before.stored],
            None if follows => vec![parent::genesis(&self.rows)],
            _ if row.seq == 0 => vec![said],
            // What its hash is over is not there.
            _ => return stored,
        };
        if row.seq == 0 && !candidates.contains(&said) {
            let text = "its prev_hash is not what the run's chain begins with";
            self.faults.event(row.seq, Kind::Link, text);
        }
        let mut explained = candidates.iter().map(|prev| chain::event_hash(prev, &row.leaf));
        let first = explained.next().unwrap_or(stored);
        if first == stored || explained.any(|hash| hash == stored) {
            return stored;
        }
        let text = "its stored hash is not the hash of its stored bytes and what came before";
        self.faults.event(row.seq, Kind::Hash, text);
        first
    }

    /// Reads the leaf, and judges what it says and what it commits to.
    fn leaf(&mut self, row: &EventRow) {
        let seq = row.seq;
        let Ok(leaf) = log::leaf(self.rows.run.id, row.leaf.clone()) else {
            self.faults.event(seq, Kind::Unreadable, "its leaf cannot be read");
            return;
        };
        if leaf.run != self.name {
            self.faults.event(seq, Kind::Foreign, "its leaf belongs to another run");
        }
        if leaf.seq != seq {
            self.faults.event(seq, Kind::Foreign, format!("its leaf belongs to position {}", leaf.seq));
        }
        let payloads = self.commitments(row, &leaf);
        let Some(body) = &leaf.body else {
            self.faults.event(seq, Kind::Unreadable, "its leaf says nothing");
            return;
        };
        self.story(seq, &leaf, body);
        self.note(seq, &leaf, body, payloads);
    }

    /// Opens every commitment of the leaf with its payload. Answers the payloads where they are there and can be read.
    fn commitments(&mut self, row: &EventRow, leaf: &EventLeaf) -> Option<EventContent> {
        let seq = row.seq;
        let committed: Vec<_> = leaf.commitments.iter().map(|one| (one.field.as_str(), one.hmac.as_ref())).collect();
        let Some(bytes) = &row.content else {
            if !committed.is_empty() {
                self.gone += 1;
                if self.goes.is_none() {
                    let text = "its payloads are gone, and the session's log does not say that they were erased";
                    self.faults.event(seq, Kind::Missing, text);
                }
            }
            return None;
        };
        if self.rows.session.state == SessionState::Erased as i16 {
            self.faults.event(seq, Kind::Mismatch, "its payloads are there, though the session was erased");
        }
        let Some(fields) = content::fields(bytes) else {
            self.faults.event(seq, Kind::Unreadable, "its payloads cannot be read");
            return None;
        };
        let place = content::Commitments { run: &leaf.run, seq: leaf.seq, salt_key: self.salt_key.as_ref() };
        for text in place.faults(&fields, &committed) {
            self.faults.event(seq, Kind::Commitment, text);
        }
        let payloads = EventContent::decode(bytes.clone());
        if payloads.is_err() {
            self.faults.event(seq, Kind::Unreadable, "its payloads cannot be read");
        }
        payloads.ok()
    }

    /// Whether the event may stand where it stands.
    fn story(&mut self, seq: i64, leaf: &EventLeaf, body: &Body) {
        let admits = matches!(body, Body::RunAdmitted(_));
        if admits != (seq == 0) {
            let text = if admits { "a run is admitted by its first event only" } else { "it does not admit the run" };
            self.faults.event(seq, Kind::Order, text);
        }
        if let Some((end, ..)) = &self.told.ended {
            let text = format!("it stands behind event {end}, which ended the run");
            self.faults.event(seq, Kind::Order, text);
        }
        let claims = match body {
            Body::RunClaimed(claimed) => Some(claimed.epoch),
            _ => None,
        };
        let fits = match claims {
            Some(epoch) => leaf.epoch == epoch && epoch > self.told.epoch,
            None => leaf.epoch == self.told.epoch,
        };
        if !fits {
            let text = format!("it was written in epoch {}, after epoch {}", leaf.epoch, self.told.epoch);
            self.faults.event(seq, Kind::Mismatch, text);
        }
        self.told.epoch = leaf.epoch;
    }

    /// Keeps what other rows are compared with.
    fn note(&mut self, seq: i64, leaf: &EventLeaf, body: &Body, payloads: Option<EventContent>) {
        match body {
            Body::RunAdmitted(admitted) if seq == 0 => {
                if admitted.session != session_name(self.rows.session.id) {
                    self.faults.event(seq, Kind::Foreign, "it admits the run to another session");
                }
                if let Some((kind, text)) = parent::faults(&self.rows, admitted) {
                    self.faults.event(seq, kind, text);
                }
                self.told.first_time = leaf.time;
                self.told.input_commitment = log::commitment(leaf, "task");
                self.told.session_commitment = log::commitment(leaf, "session_json");
                self.told.admitted = Some(admitted.clone());
                self.told.task = payloads.and_then(|payloads| payloads.task);
            }
            Body::AgentSealed(sealed) => {
                self.told.descriptor_hash.clone_from(&sealed.descriptor_hash);
                let given = payloads.as_ref().map(|payloads| payloads.agent.as_ref());
                let keys = self.keys.descriptors.as_ref();
                for (kind, text) in descriptor::faults(sealed, given, keys) {
                    self.faults.event(seq, kind, text);
                }
                if keys.is_none() {
                    let text = "the descriptor's signature: no keys of the agent generator are configured \
                                (session.descriptor_key_files)";
                    self.unchecked.push(text.to_owned());
                }
            }
            Body::RunEnded(ended) if self.told.ended.is_none() => {
                let mut ended = ended.clone();
                if let (Some(failure), Some(payloads)) = (&mut ended.failure, &payloads) {
                    failure.message.clone_from(&payloads.failure_message);
                }
                self.told.ended = Some((seq, ended, leaf.time));
                let erased = payloads.is_none() && !leaf.commitments.is_empty();
                self.told.answer = (!erased).then(|| payloads.and_then(|payloads| payloads.answer));
            }
            _ => {}
        }
    }

    /// Judges what stands beside the events, and answers all that was found.
    pub fn finish(mut self) -> VerifyRunResponse {
        if self.events == 0 {
            self.faults.event(0, Kind::Missing, "the run has no events");
        }
        let sealed = self.run_row();
        self.session_log();
        self.session();
        if self.gone > 0 {
            let why = match self.goes {
                Some(Extent::Everything) => "were erased",
                Some(Extent::Payloads) => "were pruned, past retention",
                None => "are gone",
            };
            self.unchecked.push(format!("commitments of {} events: their payloads {why}", self.gone));
        }
        if self.faults.left_out > 0 {
            self.unchecked.push(format!("{} more faults were found and are not listed", self.faults.left_out));
        }
        VerifyRunResponse {
            valid: self.faults.told.is_empty(),
            faults: self.faults.told,
            head: Bytes::copy_from_slice(self.head.hash.as_bytes()),
            sealed,
            events: self.events,
            events_without_payload: self.gone,
            unchecked: self.unchecked,
            payloads_erased: self.goes.is_some(),
        }
    }

    /// The last event.
    fn last(&self) -> i64 {
        self.before.map_or(-1, |before| before.seq)
    }
}

/// How much of a session goes, as its log says.
fn goes(log: &[SessionLogRow]) -> Option<Extent> {
    let says = |kind: &str| log.iter().any(|entry| entry.kind == kind);
    if says(entry::ERASED) { Some(Extent::Everything) } else { says(entry::PRUNED).then_some(Extent::Payloads) }
}

fn missing(from: i64, to: i64) -> String {
    if from >= to { format!("event {from} is missing") } else { format!("events {from} to {to} are missing") }
}

#[cfg(test)]
mod tests;
