//! What stands beside a run's events: its row, and its entries in the session's log.

use mar_descriptor::Hash;
use mar_proto::session::{
    Answer, Run, RunEnded, RunState, SessionState, VerifyFaultKind as Kind, VerifyPlace as Place,
};

use super::{Verifier, missing};
use crate::runs::{has_ended, session_body, stored_run};
use crate::store::SessionLogRow;
use crate::store::session_log::{self, kind};
use crate::view;

impl Verifier<'_> {
    /// The row of the run: it says what the log says, and has the seal. Answers whether the run is sealed.
    pub(super) fn run_row(&mut self) -> bool {
        let row = self.rows.run;
        if row.session != self.rows.session.id {
            self.faults.add(Place::Run, -1, Kind::Foreign, "the run is stored under another session");
        }
        let Ok(stored) = stored_run(row) else {
            self.faults.add(Place::Run, -1, Kind::Unreadable, "what is stored of the run cannot be read");
            return false;
        };
        let over = has_ended(row.state);
        if i32::from(row.state) != stored.state {
            let text = "the state of the run's row is another than that of its summary";
            self.faults.add(Place::Run, -1, Kind::Mismatch, text);
        }
        let after = self.last().saturating_add(1);
        let counted = if over { stored.seal.as_ref().map_or(0, |seal| seal.head_seq.saturating_add(1)) } else { 0 };
        let counted = counted.max(stored.next_seq);
        if counted > after {
            self.faults.event(after, Kind::Missing, missing(after, counted - 1));
        }
        if !self.foreign_format {
            self.told(&stored, over, counted > after);
        }
        match (over, &stored.seal) {
            (true, seal) if seal.as_ref().is_none_or(|seal| seal.hash.is_empty()) => {
                self.faults.add(Place::Seal, -1, Kind::Missing, "the run has ended and has no seal");
                false
            }
            (true, Some(seal)) => {
                self.seal(seal);
                true
            }
            (false, Some(_)) => {
                self.faults.add(Place::Seal, -1, Kind::Order, "the run is open and has a seal");
                false
            }
            (_, None) => {
                self.unchecked.push("the end of the run: it is not sealed yet, and may go on".to_owned());
                false
            }
        }
    }

    /// Compares the row with what the leaves say.
    fn told(&mut self, stored: &Run, over: bool, cut: bool) {
        let mut differ = Vec::new();
        let mut same = |field: &'static str, same: bool| {
            if !same {
                differ.push(field);
            }
        };
        same("name", stored.name == view::run_name(self.rows.session.id, self.rows.run.id));
        if let Some(admitted) = &self.told.admitted {
            same("limits", stored.limits == admitted.limits);
            same("expire_time", stored.expire_time == admitted.expire_time);
            same("create_time", stored.create_time == self.told.first_time);
        }
        if let Some(task) = &self.told.task {
            let shown = view::summary(Run { task: Some(task.clone()), ..Run::default() }).task;
            same("task", stored.task == shown);
        }
        match (&self.told.ended, over) {
            (Some((seq, ended, time)), true) => {
                same("next_seq", cut || stored.next_seq == seq.saturating_add(1));
                same("epoch", stored.epoch == self.told.epoch);
                same("descriptor_hash", stored.descriptor_hash == self.told.descriptor_hash);
                same("end_time", stored.end_time == *time && stored.update_time == *time);
                ending(stored, ended, self.told.answer.as_ref(), &mut same);
            }
            (None, true) if !cut => {
                let text = "the run has ended, and no event says so";
                self.faults.event(self.before.map_or(0, |before| before.seq.saturating_add(1)), Kind::Missing, text);
            }
            _ => {}
        }
        for field in differ {
            let text = format!("what is stored of the run has another {field} than its events");
            self.faults.add(Place::Run, -1, Kind::Mismatch, text);
        }
    }

    /// The session's own log, and what it says of the run.
    pub(super) fn session_log(&mut self) {
        self.session_chain();
        let run = self.rows.run;
        let entries = |kind: &str| {
            let of_run = |entry: &&SessionLogRow| entry.kind == kind && entry.run == Some(run.id);
            self.rows.session_log.iter().filter(of_run).collect::<Vec<_>>()
        };
        let (admitted, sealed) = (entries(kind::RUN_ADMITTED), entries(kind::RUN_SEALED));
        self.entry("admitted", true, &admitted, self.told.first_hash);
        let seal = stored_run(run).ok().and_then(|stored| stored.seal);
        let head = seal.filter(|seal| seal.head_seq > self.last()).map(|seal| seal.head);
        let head = match head {
            // The events are cut off, which is told; the entry is compared with what the seal says.
            Some(head) => Hash::try_from(head.as_ref()).ok(),
            None => self.before.map(|before| before.stored),
        };
        self.entry("sealed", has_ended(run.state), &sealed, head);
    }

    /// An entry that has to be there exactly once, or not at all.
    fn entry(&mut self, what: &str, wanted: bool, found: &[&SessionLogRow], hash: Option<Hash>) {
        let mut add = |seq: i64, kind, text: String| self.faults.add(Place::SessionLog, seq, kind, text);
        match (wanted, found) {
            (true, []) => add(-1, Kind::Missing, format!("the session's log does not say that the run was {what}")),
            (false, [first, ..]) => {
                add(first.seq, Kind::Order, format!("the session's log says that the run, which is open, was {what}"));
            }
            (true, [first, more @ ..]) => {
                if hash.is_some_and(|hash| first.run_hash != Some(*hash.as_bytes())) {
                    let text = format!("the session's log says that the run was {what} with another hash");
                    add(first.seq, Kind::Mismatch, text);
                }
                for entry in more {
                    add(entry.seq, Kind::Order, format!("the session's log says twice that the run was {what}"));
                }
            }
            (false, []) => {}
        }
    }

    /// The chain of the session's log, whatever run its entries are about.
    fn session_chain(&mut self) {
        let mut before: Option<(i64, [u8; 32])> = None;
        for entry in self.rows.session_log {
            let mut add = |kind, text: &str| self.faults.add(Place::SessionLog, entry.seq, kind, text);
            let (expected, prev) = before.map_or((0, [0; 32]), |(seq, hash)| (seq.saturating_add(1), hash));
            if entry.seq != expected {
                add(Kind::Missing, "an entry before it is missing");
            }
            let actual = session_log::hash(&prev, entry.seq, &entry.kind, entry.run, entry.run_hash.as_ref());
            if actual != entry.hash {
                add(Kind::Hash, "its stored hash is not the hash of what is stored and what came before");
            }
            if (entry.kind == kind::STARTED) != (before.is_none()) {
                add(Kind::Order, "a session's log begins with its start, which is there once");
            }
            before = Some((entry.seq, entry.hash));
        }
        self.session_end();
    }

    /// Where a session's log ends: with its end, and behind that with what goes of it. The row says the same.
    fn session_end(&mut self) {
        let kinds: Vec<&str> = self.rows.session_log.iter().map(|entry| entry.kind.as_str()).collect();
        let end = kinds.iter().position(|&one| one == kind::ENDED);
        let (lived, after) = kinds.split_at(end.map_or(kinds.len(), |end| end + 1));
        let state = self.rows.session.state;
        let mut add = |text: &str| self.faults.add(Place::SessionLog, -1, Kind::Mismatch, text);
        match (state >= SessionState::Ended as i16, end) {
            (true, None) => add("the session has ended, and its log does not say so"),
            (false, Some(_)) => add("the session has not ended, and its log says so"),
            _ => {}
        }
        if !matches!(after, [] | [kind::PRUNED | kind::ERASED] | [kind::PRUNED, kind::ERASED]) {
            add(
                "behind the end of a session its log says nothing but that it was pruned, and then that it was erased, once each",
            );
        }
        let expired = lived.iter().position(|&one| one == kind::EXPIRED);
        let ends_it = expired.is_none_or(|at| match &lived[at + 1..] {
            [] => state == SessionState::Ending as i16,
            rest => rest == [kind::ENDED],
        });
        if !ends_it {
            add("a session that was idle ended, and its log says otherwise");
        }
        if lived.iter().any(|&one| one == kind::PRUNED || one == kind::ERASED) {
            add("the log says that something goes of a session that has not ended");
        }
        if state == SessionState::Erased as i16 && !kinds.contains(&kind::ERASED) {
            add("the session was erased, and its log does not say so");
        }
    }

    /// The session's row, and its seal once it has ended.
    pub(super) fn session(&mut self) {
        let Ok(body) = session_body(self.rows.session) else {
            self.faults.add(Place::Session, -1, Kind::Unreadable, "what is stored of the session cannot be read");
            return;
        };
        let over = self.rows.session.state >= SessionState::Ended as i16;
        match (over, body.seal) {
            (true, Some(seal)) => self.session_seal(&seal),
            (true, None) => self.faults.add(Place::Session, -1, Kind::Missing, "the session has ended and has no seal"),
            (false, Some(_)) => self.faults.add(Place::Session, -1, Kind::Order, "the session is open and has a seal"),
            (false, None) => {}
        }
    }
}

/// The fields that are set when a run ends.
fn ending(stored: &Run, ended: &RunEnded, answer: Option<&Option<Answer>>, same: &mut impl FnMut(&'static str, bool)) {
    let state = ended.state();
    same("state", stored.state == ended.state);
    same("totals", stored.totals == ended.totals);
    let (halted, answered) = (state == RunState::Halted, state == RunState::Succeeded);
    same("halt_reason", stored.halt_reason == if halted { ended.halt_reason } else { 0 });
    let failure = (!halted && !answered).then(|| ended.failure.clone().unwrap_or_default());
    same("failure", stored.failure == failure);
    if let Some(answer) = answer {
        let answer = answered.then(|| answer.clone().unwrap_or_default());
        same("answer", stored.answer == answer);
    }
}
