//! The form in which events are stored: leaf, commitments and chain.
//!
//! **Invariant:** a leaf holds no payload, only commitments that the session's salt key opens one by one.

use bytes::Bytes;
use mar_descriptor::{Hash, Head, SaltKey};
use mar_proto::session::{Commitment, Event as WireEvent, EventContent, EventLeaf, event_leaf::Body};
use prost::Message;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::run::{Event, State, timestamp};
use crate::store::{self, EventRow};
use crate::view::run_name;

mod leaf;

pub use leaf::leaf;

/// Version of the event format that this build writes and applies.
pub const VERSION: i32 = 1;

/// The write end of one run's log.
#[derive(Debug, Clone)]
pub struct Log {
    run: Uuid,
    salt_key: SaltKey,
    head: Head,
    epoch: i64,
}

impl Log {
    /// The log of a run that has no events yet.
    pub fn new(run: Uuid, salt_key: SaltKey) -> Self {
        Self { run, salt_key, head: Head::genesis(Hash::ZERO), epoch: 1 }
    }

    /// The log of a run that comes from another one: its chain begins with the hash of that run's intent, or of the last event
    /// that a fork shares with it.
    pub fn of_child(run: Uuid, salt_key: SaltKey, origin: Hash) -> Self {
        Self { head: Head::genesis(origin), ..Self::new(run, salt_key) }
    }

    /// The end of the chain.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Moves on to what has been appended.
    pub fn advance(&mut self, row: &EventRow, epoch: i64) {
        self.head = Head { seq: row.seq, hash: Hash::from_bytes(row.hash) };
        self.epoch = epoch;
    }

    /// The events as rows behind the head. The log itself stays as it is until [`Log::advance`].
    pub fn encode(&self, events: &[Event]) -> Vec<EventRow> {
        let mut head = self.head;
        let mut epoch = self.epoch;
        let mut rows = Vec::with_capacity(events.len());
        for event in events {
            let content = leaf::complete(event);
            if let Body::RunClaimed(claimed) = &event.body {
                epoch = claimed.epoch;
            }
            let seq = head.seq + 1;
            let mut leaf = self.leaf(seq, epoch, event, &content);
            leaf::condense(&mut leaf);
            let leaf = Bytes::from(leaf.encode_to_vec());
            let next = head.next(&leaf);
            let content = content.encode_to_vec();
            rows.push(EventRow {
                seq,
                prev_hash: *head.hash.as_bytes(),
                hash: *next.hash.as_bytes(),
                leaf,
                content: (!content.is_empty()).then(|| content.into()),
            });
            head = next;
        }
        rows
    }

    fn leaf(&self, seq: i64, epoch: i64, event: &Event, content: &EventContent) -> EventLeaf {
        let run = self.run.to_string();
        let commit = |(field, payload): (&str, Vec<u8>)| Commitment {
            hmac: Bytes::copy_from_slice(self.salt_key.salt(&run, seq, field).commit(&payload).as_bytes()),
            field: field.to_owned(),
        };
        EventLeaf {
            commitments: payloads(content).into_iter().map(commit).collect(),
            run,
            seq,
            epoch,
            time: Some(stamp(event.time)),
            counted_seq: event.counted_seq,
            command_id: event.command.map(|id| id.to_string()).unwrap_or_default(),
            body: Some(event.body.clone()),
        }
    }
}

/// The payloads that are set, by field name, as the bytes that are committed to.
pub fn payloads(content: &EventContent) -> Vec<(&'static str, Vec<u8>)> {
    let text = |field, text: &String| (!text.is_empty()).then(|| (field, text.clone().into_bytes()));
    let message = |field, bytes: Option<Vec<u8>>| bytes.map(|bytes| (field, bytes));
    [
        message("task", content.task.as_ref().map(Message::encode_to_vec)),
        text("principal", &content.principal),
        message("agent", content.agent.as_ref().map(Message::encode_to_vec)),
        message("turn", content.turn.as_ref().map(Message::encode_to_vec)),
        text("arguments_json", &content.arguments_json),
        message("tool_result", content.tool_result.as_ref().map(Message::encode_to_vec)),
        text("decision_json", &content.decision_json),
        text("problems", &content.problems),
        message("answer", content.answer.as_ref().map(Message::encode_to_vec)),
        text("session_json", &content.session_json),
        message("approval", content.approval.as_ref().map(Message::encode_to_vec)),
        text("comment", &content.comment),
        message("history", content.history.as_ref().map(Message::encode_to_vec)),
        message("summary", content.summary.as_ref().map(Message::encode_to_vec)),
        message("recorded_calls", content.recorded_calls.as_ref().map(Message::encode_to_vec)),
        message("child_tasks", content.child_tasks.as_ref().map(Message::encode_to_vec)),
        text("failure_message", &content.failure_message),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The commitment of a leaf to a field; empty where it has none.
pub fn commitment(leaf: &EventLeaf, field: &str) -> Bytes {
    let found = leaf.commitments.iter().find(|commitment| commitment.field == field);
    found.map(|commitment| commitment.hmac.clone()).unwrap_or_default()
}

/// A stored event of a run as the machine knows it, with its leaf.
pub fn decode(run: Uuid, row: &EventRow) -> Result<(EventLeaf, Event), store::Error> {
    let content = content(row)?;
    let leaf = whole(run, row, &content)?;
    let body = leaf.body.clone().ok_or(store::Error::Corrupt("leaf"))?;
    let time = leaf.time.as_ref().and_then(timestamp).ok_or(store::Error::Corrupt("leaf time"))?;
    let command = Some(leaf.command_id.as_str()).filter(|id| !id.is_empty());
    let command = command.map(|id| id.parse().map_err(|_| store::Error::Corrupt("command id"))).transpose()?;
    let event = Event { time, body, content, counted_seq: leaf.counted_seq, command };
    Ok((leaf, event))
}

/// A stored event of a run as callers see it.
pub fn present(session: Uuid, run: Uuid, row: &EventRow, include_leaf: bool) -> Result<WireEvent, store::Error> {
    let content = content(row)?;
    let body = whole(run, row, &content)?;
    Ok(WireEvent {
        run: run_name(session, run),
        seq: row.seq,
        prev_hash: Bytes::copy_from_slice(&row.prev_hash),
        hash: Bytes::copy_from_slice(&row.hash),
        leaf: if include_leaf { row.leaf.clone() } else { Bytes::new() },
        body: Some(body),
        content: row.content.is_some().then_some(content),
    })
}

/// The leaf with everything that its place and its payloads say.
fn whole(run: Uuid, row: &EventRow, content: &EventContent) -> Result<EventLeaf, store::Error> {
    let mut leaf = leaf(run, row.leaf.clone()).map_err(|_| store::Error::Corrupt("leaf"))?;
    // Of payloads that are gone nothing is told.
    if row.content.is_some() || leaf.commitments.is_empty() {
        leaf::tell(run, &mut leaf, content);
    }
    Ok(leaf)
}

fn content(row: &EventRow) -> Result<EventContent, store::Error> {
    let bytes = row.content.clone().unwrap_or_default();
    EventContent::decode(bytes).map_err(|_| store::Error::Corrupt("event content"))
}

/// State and log as the stored events say. Fails where the chain does not hold.
pub fn replay(run: Uuid, session: Uuid, salt_key: SaltKey, rows: &[EventRow]) -> Result<(State, Log), store::Error> {
    let genesis = rows.first().map_or(Hash::ZERO, |row| Hash::from_bytes(row.prev_hash));
    let mut log = Log::of_child(run, salt_key, genesis);
    let mut state: Option<State> = None;
    for row in rows {
        let next = log.head().next(&row.leaf);
        if next.seq != row.seq || next.hash.as_bytes() != &row.hash {
            return Err(store::Error::Corrupt("event chain"));
        }
        let (leaf, event) = decode(run, row)?;
        match &mut state {
            None => state = State::admitted(run, session, &event),
            Some(state) => state.apply(&event),
        }
        log.advance(row, leaf.epoch);
    }
    let state = state.ok_or(store::Error::Corrupt("first event"))?;
    // Only what was started by another run, or forked from one, begins with something.
    if (genesis == Hash::ZERO) != (state.parent.is_none() && state.fork.is_none()) {
        return Err(store::Error::Corrupt("event chain"));
    }
    Ok((state, log))
}

/// A time as protobuf has it.
pub fn stamp(time: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.unix_timestamp(),
        nanos: i32::try_from(time.nanosecond()).unwrap_or_default(),
    }
}
