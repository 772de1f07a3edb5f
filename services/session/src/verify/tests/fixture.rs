//! A run as its rows have it, with everything that verification looks at.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use mar_descriptor::{Outcome, RunSeal as Sealed, SigningKey};
use mar_proto::session::{
    Agent, AgentSealed, Answer, Commitment, GenerationStarted, RunClaimed, RunSeal, Session, SessionSeal, ToolIntent,
    ToolOutcome, ToolReturned, TurnCommitted,
};
use mar_proto::types::{HaltingPolicy, Message, Part, Role, SealedDescriptor, Signature, ToolResult, part::Content};
use time::OffsetDateTime;

use super::super::*;
use crate::store::session_log::{self, kind};
use crate::view;

pub(super) use mar_proto::session::{Run, RunState};

/// Events of the run.
pub(super) const EVENTS: usize = 8;
/// Entries of the session's log once it has ended.
pub(super) const ENTRIES: usize = 4;

/// All rows.
#[derive(Clone)]
pub(super) struct Stored {
    pub keys: Keys,
    pub session: SessionRow,
    pub session_log: Vec<SessionLogRow>,
    pub run: RunRow,
    pub seals: BTreeMap<Uuid, Hash>,
    pub intent: Option<EventRow>,
    pub events: Vec<EventRow>,
}

pub(super) fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

const SEALS: u8 = 1;
const DESCRIPTORS: u8 = 2;

pub(super) fn stored() -> Stored {
    static STORED: LazyLock<Stored> = LazyLock::new(|| stored_as(7, 9));
    STORED.clone()
}

/// Where a kind of event is.
pub(super) fn at(events: &[EventRow], wanted: fn(&Body) -> bool) -> i64 {
    let is =
        |row: &&EventRow| EventLeaf::decode(row.leaf.clone()).is_ok_and(|leaf| leaf.body.as_ref().is_some_and(wanted));
    events.iter().find(is).unwrap().seq
}

/// The run with this id; `salt` makes its session's key.
pub(super) fn stored_as(run: u128, salt: u8) -> Stored {
    let (run, session) = (Uuid::from_u128(run), Uuid::from_u128(3));
    let salt_key = SaltKey::from_bytes([salt; 32]);
    let mut leaves = Vec::new();
    let mut rows: Vec<EventRow> = Vec::new();
    for (epoch, body, content) in story(session) {
        let ends = matches!(body, Body::RunEnded(_));
        let body = if ends { ended(&rows, run, session, &salt_key) } else { body };
        leaves.push((epoch, body, content));
        rows = chained(run, &salt_key, &leaves);
    }
    assert_eq!(rows.len(), EVENTS);
    let session = session_row(session, salt);
    let run_row = run_row(run, &session, &salt_key, &rows);
    let seal = Run::decode(run_row.summary.clone()).unwrap().seal.unwrap();
    let first = session_log::next(None, kind::STARTED, None);
    let mut session_log = vec![first];
    for (kind, hash) in [(kind::RUN_ADMITTED, rows[0].hash), (kind::RUN_SEALED, rows[EVENTS - 1].hash)] {
        let last = session_log.last().map(|entry| (entry.seq, entry.hash));
        session_log.push(session_log::next(last, kind, Some((run, hash))));
    }
    let keys = Keys { seals: key(SEALS).verifying_keys(), descriptors: Some(key(DESCRIPTORS).verifying_keys()) };
    let seals = BTreeMap::from([(run, seal.hash.parse().unwrap())]);
    Stored { keys, session, session_log, run: run_row, seals, intent: None, events: rows }
}

impl Stored {
    pub(super) fn verify(&self) -> VerifyRunResponse {
        let rows = Rows {
            session: &self.session,
            session_log: &self.session_log,
            run: &self.run,
            intent: self.intent.as_ref(),
            seals: &self.seals,
        };
        verify(&self.keys, rows, &self.events)
    }

    pub(super) fn change_run(&mut self, change: impl FnOnce(&mut Run)) {
        let mut run = Run::decode(self.run.summary.clone()).unwrap();
        change(&mut run);
        self.run.summary = run.encode_to_vec().into();
        if !(4..=8).contains(&run.state) || self.run.state != run.state as i16 {
            self.run.state = run.state as i16;
        }
    }

    pub(super) fn change_session(&mut self, change: impl FnOnce(&mut Session)) {
        let mut session = Session::decode(self.session.body.clone()).unwrap();
        change(&mut session);
        self.session.body = session.encode_to_vec().into();
    }

    /// The run when it had so many events.
    pub(super) fn open(mut self, events: usize) -> Self {
        self.events.truncate(events);
        self.session_log.truncate(2);
        let salt_key = SaltKey::from_bytes(<[u8; 32]>::try_from(&self.session.salt_key[..]).unwrap());
        let known = &self.events[..events.min(EVENTS - 1)];
        let (state, _) = log::replay(self.run.id, self.session.id, salt_key, known).unwrap();
        let run = view::summary(view::run(&state, state.changed_at, None));
        self.run.state = run.state as i16;
        self.run.summary = run.encode_to_vec().into();
        self
    }

    /// The run after its session has ended.
    pub(super) fn ended_session(self) -> Self {
        self.ended_with_entries(ENTRIES)
    }

    /// Like [`Stored::ended_session`], with a log of so many entries.
    pub(super) fn ended_with_entries(self, entries: usize) -> Self {
        let mut ended = self.recorded(&[kind::ENDED]);
        ended.session.state = SessionState::Ended as i16;
        assert_eq!(ended.session_log.len(), entries);
        ended.session_sealed()
    }

    /// With these entries at the end of the session's log.
    pub(super) fn recorded(mut self, kinds: &[&str]) -> Self {
        for kind in kinds {
            let last = self.session_log.last().map(|entry| (entry.seq, entry.hash));
            self.session_log.push(session_log::next(last, kind, None));
        }
        self
    }

    /// Without the payloads of any event.
    pub(super) fn without_payloads(mut self) -> Self {
        for event in &mut self.events {
            event.content = None;
        }
        self
    }

    fn session_sealed(mut self) -> Self {
        let seal = session_seal(self.session.id, &self.session_log, &self.seals).unwrap();
        let signature = seal.sign(&key(SEALS)).unwrap().signatures.remove(0);
        let seal = SessionSeal {
            runs: seal.runs as i64,
            run_seals: seal.run_seals.as_bytes().to_vec().into(),
            head: seal.head.hash.as_bytes().to_vec().into(),
            head_seq: seal.head.seq,
            hash: seal.hash().unwrap().to_string(),
            signature: Some(Signature { key_id: signature.key_id, sig: signature.sig.into() }),
        };
        self.change_session(|session| session.seal = Some(seal));
        self
    }

    /// The log with changed events, chained and committed to anew by somebody who holds the salt key.
    pub(super) fn rewritten(mut self, change: impl Fn(&mut EventLeaf, &mut EventContent)) -> Self {
        let salt_key = SaltKey::from_bytes(<[u8; 32]>::try_from(&self.session.salt_key[..]).unwrap());
        let leaves: Vec<_> = self
            .events
            .iter()
            .map(|row| {
                let mut leaf = EventLeaf::decode(row.leaf.clone()).unwrap();
                let mut content = EventContent::decode(row.content.clone().unwrap_or_default()).unwrap();
                change(&mut leaf, &mut content);
                (leaf.epoch, leaf.body.unwrap(), content)
            })
            .collect();
        self.events = chained(self.run.id, &salt_key, &leaves);
        self
    }
}

fn text(text: &str) -> Part {
    Part { content: Some(Content::Text(text.to_owned())), ..Part::default() }
}

fn story(session: Uuid) -> Vec<(i64, Body, EventContent)> {
    let none = EventContent::default;
    let task = Task { r#type: "answer".into(), input: vec![text("How far is the moon?")], ..Task::default() };
    let limits = HaltingPolicy { max_steps: Some(4), ..HaltingPolicy::default() };
    let admitted = RunAdmitted {
        session: session_name(session),
        task_type: "answer".into(),
        limits: Some(limits),
        expire_time: Some(prost_types::Timestamp { seconds: 90_000, nanos: 0 }),
        ..RunAdmitted::default()
    };
    let descriptor = descriptor(&key(DESCRIPTORS), 2);
    let parsed = mar_descriptor::Descriptor::parse(&descriptor.canonical).unwrap();
    let section_hashes = parsed.section_hashes().unwrap();
    let section_hashes = section_hashes.into_iter().map(|(name, hash)| (name.to_string(), hash.to_string())).collect();
    let sealed = AgentSealed { descriptor_hash: descriptor.hash.clone(), section_hashes };
    let agent = Agent { descriptor: Some(descriptor), ..Agent::default() };
    let turn = Message { role: Role::Assistant.into(), parts: vec![text("384,400 km")] };
    let result = ToolResult { call_id: "c".into(), content: vec![text("far")], ..ToolResult::default() };
    let returned = ToolReturned { call_id: "c".into(), outcome: ToolOutcome::Ok.into(), ..ToolReturned::default() };
    let answer = Answer { parts: vec![text("384,400 km")], ..Answer::default() };
    vec![
        (
            1,
            Body::RunAdmitted(admitted),
            EventContent {
                task: Some(task),
                principal: "ann".into(),
                session_json: "{\"purpose\":\"test\"}".into(),
                ..none()
            },
        ),
        (1, Body::AgentSealed(sealed), EventContent { agent: Some(agent), ..none() }),
        (1, Body::GenerationStarted(GenerationStarted { step: 1, attempt: 1, ..Default::default() }), none()),
        (2, Body::RunClaimed(RunClaimed { owner: "other".into(), epoch: 2, unattended_since: None }), none()),
        (
            2,
            Body::ToolIntent(ToolIntent { call_id: "c".into(), ..Default::default() }),
            EventContent { arguments_json: "{\"query\":\"moon\"}".into(), ..none() },
        ),
        (
            2,
            Body::ToolReturned(returned),
            EventContent { tool_result: Some(result), decision_json: "{}".into(), ..none() },
        ),
        (
            2,
            Body::TurnCommitted(TurnCommitted { step: 1, attempt: 1, ..Default::default() }),
            EventContent { turn: Some(turn), ..none() },
        ),
        (2, Body::RunEnded(RunEnded::default()), EventContent { answer: Some(answer), ..none() }),
    ]
}

/// A descriptor with so many steps.
pub(super) fn descriptor(key: &SigningKey, steps: i64) -> SealedDescriptor {
    let mut descriptor = mar_descriptor::Descriptor::default();
    descriptor.halting.max_steps = steps;
    let sealed = mar_descriptor::seal(&descriptor, key).unwrap();
    let signature = |one: mar_descriptor::Signature| Signature { key_id: one.key_id, sig: one.sig.into() };
    SealedDescriptor {
        hash: sealed.hash.to_string(),
        canonical: sealed.canonical.into(),
        signatures: sealed.signatures.into_iter().map(signature).collect(),
    }
}

/// The end of the run, with what it has used until then.
fn ended(rows: &[EventRow], run: Uuid, session: Uuid, salt_key: &SaltKey) -> Body {
    let (state, _) = log::replay(run, session, salt_key.clone(), rows).unwrap();
    let totals = state.totals(time_of(rows.len()));
    Body::RunEnded(RunEnded { state: RunState::Succeeded.into(), totals: Some(totals), ..RunEnded::default() })
}

fn time_of(seq: usize) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_000 + seq as i64).unwrap()
}

fn chained(run: Uuid, salt_key: &SaltKey, leaves: &[(i64, Body, EventContent)]) -> Vec<EventRow> {
    let mut head = Head::genesis(Hash::ZERO);
    let mut rows = Vec::new();
    for (seq, (epoch, body, content)) in leaves.iter().enumerate() {
        let number = seq as i64;
        let commitments = log::payloads(content).into_iter().map(|(field, payload)| Commitment {
            hmac: salt_key.salt(&run.to_string(), number, field).commit(&payload).as_bytes().to_vec().into(),
            field: field.into(),
        });
        let leaf = EventLeaf {
            run: run.to_string(),
            seq: number,
            epoch: *epoch,
            time: Some(log::stamp(time_of(seq))),
            commitments: commitments.collect(),
            body: Some(body.clone()),
            ..EventLeaf::default()
        };
        let leaf: Bytes = leaf.encode_to_vec().into();
        let next = head.next(&leaf);
        let content = content.encode_to_vec();
        rows.push(EventRow {
            seq: number,
            prev_hash: *head.hash.as_bytes(),
            hash: *next.hash.as_bytes(),
            leaf,
            content: (!content.is_empty()).then(|| content.into()),
        });
        head = next;
    }
    rows
}

fn session_row(id: Uuid, salt: u8) -> SessionRow {
    SessionRow {
        tenant: "dev".into(),
        id,
        state: SessionState::Open as i16,
        principal: "ann".into(),
        body: Session { purpose: "test".into(), ..Session::default() }.encode_to_vec().into(),
        salt_key: vec![salt; 32].into(),
        version: 1,
        create_time: time_of(0),
        update_time: time_of(0),
        idle_timeout: None,
    }
}

fn run_row(id: Uuid, session: &SessionRow, salt_key: &SaltKey, rows: &[EventRow]) -> RunRow {
    let (state, _) = log::replay(id, session.id, salt_key.clone(), rows).unwrap();
    let first = EventLeaf::decode(rows[0].leaf.clone()).unwrap();
    let (input, before) = (log::commitment(&first, "task"), log::commitment(&first, "session_json"));
    let last = rows.last().unwrap();
    let commitment = |bytes: &Bytes| mar_descriptor::Commitment::try_from(&bytes[..]).unwrap();
    let document = Sealed {
        descriptor_hash: view::descriptor_hash(&state).parse().ok(),
        input_commitment: commitment(&input),
        session_commitment: commitment(&before),
        outcome: Outcome::Succeeded,
        head: Head { seq: last.seq, hash: Hash::from_bytes(last.hash) },
    };
    let signature = document.sign(&key(SEALS)).unwrap().signatures.remove(0);
    let seal = RunSeal {
        descriptor_hash: view::descriptor_hash(&state),
        input_commitment: input,
        session_commitment: before,
        outcome: "SUCCEEDED".into(),
        head: last.hash.to_vec().into(),
        head_seq: last.seq,
        hash: document.hash().unwrap().to_string(),
        signature: Some(Signature { key_id: signature.key_id, sig: signature.sig.into() }),
    };
    let run = view::summary(view::run(&state, state.changed_at, Some(seal)));
    RunRow {
        tenant: "dev".into(),
        session: session.id,
        id,
        state: run.state as i16,
        parallel: false,
        log_version: log::VERSION,
        caller: Bytes::new(),
        summary: run.encode_to_vec().into(),
        create_time: time_of(0),
        update_time: time_of(EVENTS - 1),
        expire_time: time_of(90_000),
    }
}
