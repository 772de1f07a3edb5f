//! Run seals and session seals: made over what the rows say, and verified against it.

use std::collections::BTreeMap;

use mar_descriptor::{
    Commitment, Error, Hash, Head, Outcome, RunSeal as SealedRun, SessionSeal as SealedSession, Signature, Statement,
    VerifyingKeys, run_seal, session_seal as session_seal_form, verify_statement,
};
use mar_proto::session::{RunSeal, SessionSeal, VerifyFaultKind as Kind, VerifyPlace as Place};
use uuid::Uuid;

use super::Verifier;
use crate::runs::stored_run;
use crate::store::session_log::kind;
use crate::store::{RunRow, SessionLogRow};

/// The seal over a session that has ended: over the seals of its runs in the order in which its log admitted them, and the
/// entry that ended it; what goes of it is recorded behind that. `None` where a run has none.
pub fn session_seal(session: Uuid, log: &[SessionLogRow], seals: &BTreeMap<Uuid, Hash>) -> Option<SealedSession> {
    let admitted = log.iter().filter(|entry| entry.kind == kind::RUN_ADMITTED);
    let seals: Option<Vec<Hash>> = admitted.map(|entry| seals.get(&entry.run?).copied()).collect();
    let last = log.iter().find(|entry| entry.kind == kind::ENDED)?;
    let head = Head { seq: last.seq, hash: Hash::from_bytes(last.hash) };
    Some(SealedSession::over(session.to_string(), &seals?, head))
}

/// The hashes of the seals in rows of runs, as far as they have one.
pub fn stored_seals(rows: &[RunRow]) -> impl Iterator<Item = (Uuid, Hash)> {
    let seal = |row: &RunRow| Some((row.id, stored_run(row).ok()?.seal?.hash.parse().ok()?));
    rows.iter().filter_map(seal)
}

impl Verifier<'_> {
    /// The run's seal: its fields are what the log says, its hash and signature are over its fields.
    pub(super) fn seal(&mut self, seal: &RunSeal) {
        let mut add = |kind, text: String| self.faults.add(Place::Seal, -1, kind, text);
        let told = &self.told;
        let mut differs = Vec::new();
        if !self.foreign_format {
            let outcome = told.ended.as_ref().map(|(_, ended, _)| outcome_name(ended.state()));
            let first = told.admitted.is_some();
            differs.extend((seal.descriptor_hash != told.descriptor_hash).then_some("descriptor_hash"));
            differs.extend((first && seal.input_commitment != told.input_commitment).then_some("input_commitment"));
            let session = first && seal.session_commitment != told.session_commitment;
            differs.extend(session.then_some("session_commitment"));
            differs.extend(outcome.is_some_and(|outcome| seal.outcome != outcome).then_some("outcome"));
        }
        if let Some(last) = self.before {
            // A head beyond the last event is told as missing events.
            differs.extend((seal.head_seq < last.seq).then_some("head_seq"));
            let head = seal.head_seq == last.seq && seal.head != last.stored.as_bytes()[..];
            differs.extend(head.then_some("head"));
        }
        for field in differs {
            add(Kind::Mismatch, format!("its {field} is not what the events say"));
        }
        let Some(document) = document(seal) else {
            add(Kind::Unreadable, "its fields cannot be read".to_owned());
            return;
        };
        let (hash, payload) = (document.hash(), document.canonical());
        let signature = Signed { payload_type: run_seal::PAYLOAD_TYPE, stated: &seal.hash, keys: &self.keys.seals };
        for (kind, text) in signature.faults(hash, payload, seal.signature.as_ref()) {
            add(kind, text);
        }
    }

    /// The session's seal: the one that its rows give, with a signature over it.
    pub(super) fn session_seal(&mut self, seal: &SessionSeal) {
        let mut add = |kind, text: String| self.faults.add(Place::Session, -1, kind, text);
        let session = self.rows.session.id;
        match session_seal(session, self.rows.session_log, self.rows.seals) {
            Some(expected) => {
                let same = [
                    ("runs", u64::try_from(seal.runs) == Ok(expected.runs)),
                    ("run_seals", seal.run_seals == expected.run_seals.as_bytes()[..]),
                    ("head", seal.head == expected.head.hash.as_bytes()[..]),
                    ("head_seq", seal.head_seq == expected.head.seq),
                ];
                for (field, _) in same.into_iter().filter(|(_, same)| !same) {
                    add(
                        Kind::Mismatch,
                        format!("the session seal's {field} is not what the session's runs and log say"),
                    );
                }
            }
            None => add(Kind::Missing, "a run of the sealed session has no seal".to_owned()),
        }
        let (Ok(run_seals), Ok(hash), Ok(runs)) =
            (Hash::try_from(&seal.run_seals[..]), Hash::try_from(&seal.head[..]), u64::try_from(seal.runs))
        else {
            add(Kind::Unreadable, "the session seal's fields cannot be read".to_owned());
            return;
        };
        let head = Head { seq: seal.head_seq, hash };
        let document = SealedSession { session: session.to_string(), runs, run_seals, head };
        let signed =
            Signed { payload_type: session_seal_form::PAYLOAD_TYPE, stated: &seal.hash, keys: &self.keys.seals };
        for (kind, text) in signed.faults(document.hash(), document.canonical(), seal.signature.as_ref()) {
            add(kind, format!("the session seal: {text}"));
        }
    }
}

/// A seal's hash and signature.
struct Signed<'a> {
    payload_type: &'a str,
    stated: &'a str,
    keys: &'a VerifyingKeys,
}

impl Signed<'_> {
    fn faults(
        &self,
        hash: Result<Hash, Error>,
        payload: Result<Vec<u8>, Error>,
        signature: Option<&mar_proto::types::Signature>,
    ) -> Vec<(Kind, String)> {
        let mut faults = Vec::new();
        let (Ok(hash), Ok(payload)) = (hash, payload) else {
            return vec![(Kind::Unreadable, "its fields cannot be read".to_owned())];
        };
        if hash.to_string() != self.stated {
            faults.push((Kind::Hash, "its hash is not the hash of its fields".to_owned()));
        }
        let Some(signature) = signature else {
            faults.push((Kind::Signature, "it is not signed".to_owned()));
            return faults;
        };
        let signatures = vec![Signature { key_id: signature.key_id.clone(), sig: signature.sig.to_vec() }];
        let statement = Statement { payload_type: self.payload_type.to_owned(), payload, signatures };
        if let Err(error) = verify_statement(&statement, self.payload_type, self.keys) {
            faults.push((Kind::Signature, format!("its signature: {}", without_id(&error))));
        }
        faults
    }
}

/// What is wrong with a signature. A stored key id is anybody's text and is not repeated.
fn without_id(error: &Error) -> &'static str {
    match error {
        Error::UnknownKey(_) => "no known key made it; keys of earlier seals are named in session.seal_key_files",
        Error::BadSignature(_) => "it is not over these fields",
        _ => "it cannot be checked",
    }
}

/// The document that a stored seal stands for.
fn document(seal: &RunSeal) -> Option<SealedRun> {
    let descriptor_hash = match seal.descriptor_hash.as_str() {
        "" => None,
        text => Some(text.parse().ok()?),
    };
    Some(SealedRun {
        descriptor_hash,
        input_commitment: commitment(&seal.input_commitment)?,
        session_commitment: commitment(&seal.session_commitment)?,
        outcome: serde_json::from_value::<Outcome>(seal.outcome.as_str().into()).ok()?,
        head: Head { seq: seal.head_seq, hash: Hash::try_from(&seal.head[..]).ok()? },
    })
}

fn commitment(bytes: &[u8]) -> Option<Commitment> {
    Commitment::try_from(bytes).ok()
}

fn outcome_name(state: mar_proto::session::RunState) -> &'static str {
    state.as_str_name().trim_start_matches("RUN_STATE_")
}
