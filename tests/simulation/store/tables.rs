//! What is stored, and what a transaction makes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use mar_session::store::session_log::{self, kind};
use mar_session::store::{
    Admission, Append, ApprovalRow, Claimed, CommandRow, Error, EventRow, Hold, Outcome, RequestKey, RunChange, RunRow,
    SessionLogRow, SessionRow,
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::purses::Purses;

const OPEN: i16 = 1;
const FIRST_ENDED: i16 = 4;

/// Who executes a run.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) owner: Option<String>,
    pub(super) epoch: i64,
    pub(super) wake: Option<OffsetDateTime>,
}

/// A replica's sign of life, and since when there was no gap.
#[derive(Debug, Clone, Copy)]
struct Beat {
    last: OffsetDateTime,
    since: OffsetDateTime,
}

/// What is stored.
#[derive(Debug, Default, Clone)]
pub struct Tables {
    pub(super) sessions: BTreeMap<Uuid, SessionRow>,
    pub(super) logs: BTreeMap<Uuid, Vec<SessionLogRow>>,
    pub(super) requests: BTreeMap<(String, &'static str, String), ([u8; 32], Uuid)>,
    pub runs: BTreeMap<Uuid, RunRow>,
    pub events: BTreeMap<Uuid, Vec<EventRow>>,
    pub(super) leases: BTreeMap<Uuid, Lease>,
    beats: BTreeMap<String, Beat>,
    pub(super) commands: BTreeMap<Uuid, BTreeMap<Uuid, CommandRow>>,
    pub(super) approvals: BTreeMap<(Uuid, String), ApprovalRow>,
    pub purses: Purses,
}

/// What a request id says about this request.
enum Request {
    New,
    Repeated(Uuid),
    Reused,
}

impl Tables {
    fn request(&mut self, key: &RequestKey, id: Uuid) -> Request {
        let scope = (key.principal.clone(), key.method, key.request_id.clone());
        match self.requests.get(&scope) {
            Some((digest, _)) if *digest != key.digest => Request::Reused,
            Some((_, id)) => Request::Repeated(*id),
            None => {
                self.requests.insert(scope, (key.digest, id));
                Request::New
            }
        }
    }

    fn log(&mut self, session: Uuid, kind: &str, run: Option<(Uuid, [u8; 32])>) {
        let log = self.logs.entry(session).or_default();
        let next = session_log::next(log.last().map(|last| (last.seq, last.hash)), kind, run);
        log.push(next);
    }

    pub(super) fn session_start(&mut self, key: &RequestKey, row: &SessionRow) -> Outcome<SessionRow> {
        match self.request(key, row.id) {
            Request::Reused => Outcome::Reused,
            Request::Repeated(id) if id != row.id => Outcome::Repeated(self.sessions[&id].clone()),
            Request::Repeated(_) => Outcome::Done(row.clone()),
            Request::New => {
                self.sessions.insert(row.id, row.clone());
                self.log(row.id, kind::STARTED, None);
                Outcome::Done(row.clone())
            }
        }
    }

    pub(super) fn run_admit(&mut self, key: &RequestKey, run: &RunRow, first: &EventRow, owner: &str) -> Admission {
        match self.sessions.get(&run.session).map(|session| session.state) {
            Some(OPEN) => {}
            state => return Admission::NotOpen(state),
        }
        match self.request(key, run.id) {
            Request::Reused => return Admission::Reused,
            Request::Repeated(id) if id != run.id => return Admission::Repeated(self.runs[&id].clone()),
            Request::Repeated(_) => return Admission::Admitted,
            Request::New => {}
        }
        self.runs.insert(run.id, run.clone());
        self.events.insert(run.id, vec![first.clone()]);
        self.leases.insert(run.id, Lease { owner: Some(owner.to_owned()), epoch: 1, wake: None });
        self.log(run.session, kind::RUN_ADMITTED, Some((run.id, first.hash)));
        Admission::Admitted
    }

    pub(super) fn child_admit(&mut self, run: &RunRow, first: &EventRow, now: OffsetDateTime) -> Admission {
        if self.runs.contains_key(&run.id) {
            return Admission::Admitted;
        }
        match self.sessions.get(&run.session).map(|session| session.state) {
            Some(OPEN) => {}
            state => return Admission::NotOpen(state),
        }
        self.runs.insert(run.id, run.clone());
        self.events.insert(run.id, vec![first.clone()]);
        // Nobody's, and due.
        self.leases.insert(run.id, Lease { owner: None, epoch: 1, wake: Some(now) });
        self.log(run.session, kind::RUN_ADMITTED, Some((run.id, first.hash)));
        Admission::Admitted
    }

    pub(super) fn run_change(&mut self, id: Uuid, change: &RunChange) -> Result<bool, Error> {
        let Some(row) = self.runs.get_mut(&id).filter(|row| row.state < FIRST_ENDED) else { return Ok(false) };
        let last = self.events.get(&id).and_then(|events| events.last()).map(|event| event.hash);
        if change.head.is_some_and(|head| Some(head) != last) {
            return Err(Error::Invalid("the log of the run does not end with its head"));
        }
        (row.state, row.summary, row.update_time) = (change.state, change.summary.clone(), change.time);
        let session = row.session;
        if let Some(head) = change.head {
            self.leases.remove(&id);
            self.commands.remove(&id);
            self.log(session, kind::RUN_SEALED, Some((id, head)));
        }
        Ok(true)
    }

    pub(super) fn run_claim(
        &mut self,
        owner: &str,
        limit: i64,
        patience: Duration,
        now: OffsetDateTime,
    ) -> Vec<Claimed> {
        let gone = |other: &str| self.beats.get(other).is_none_or(|beat| beat.last <= now - patience);
        let steady = self.beats.get(owner).is_some_and(|me| me.since <= now - patience && me.last >= now - patience);
        let free = |lease: &Lease| match &lease.owner {
            None => lease.wake.is_none_or(|wake| wake <= now),
            Some(other) => other != owner && gone(other) && steady,
        };
        let picked: Vec<Uuid> =
            self.leases.iter().filter(|(_, lease)| free(lease)).map(|(run, _)| *run).take(limit as usize).collect();
        let mut claimed = Vec::new();
        for run in picked {
            let Some(lease) = self.leases.get_mut(&run) else { continue };
            let left = match &lease.owner {
                None => lease.wake,
                Some(other) => self.beats.get(other).map(|beat| beat.last),
            };
            let unattended = left.and_then(|left| Duration::try_from(now - left).ok());
            *lease = Lease { owner: Some(owner.to_owned()), epoch: lease.epoch + 1, wake: None };
            claimed.push(Claimed { run: self.runs[&run].clone(), epoch: lease.epoch, unattended });
        }
        claimed
    }

    pub(super) fn beat(&mut self, owner: &str, patience: Duration, now: OffsetDateTime) {
        let beat = self.beats.entry(owner.to_owned()).or_insert(Beat { last: now, since: now });
        if beat.last < now - patience {
            beat.since = now;
        }
        beat.last = now;
    }

    pub(super) fn leave(&mut self, owner: &str, now: OffsetDateTime) {
        self.beats.remove(owner);
        for lease in self.leases.values_mut().filter(|lease| lease.owner.as_deref() == Some(owner)) {
            (lease.owner, lease.wake) = (None, Some(now));
        }
    }

    pub(super) fn run_park(&mut self, run: Uuid, hold: Hold<'_>, wake: OffsetDateTime) -> bool {
        let holds = |lease: &&mut Lease| {
            lease.owner.as_deref() == Some(hold.owner) && lease.epoch == hold.epoch && lease.wake.is_none()
        };
        let Some(lease) = self.leases.get_mut(&run).filter(holds) else { return false };
        (lease.owner, lease.wake) = (None, Some(wake));
        true
    }

    pub(super) fn run_leave(&mut self, run: Uuid, hold: Hold<'_>, past: i64, wake: OffsetDateTime) -> bool {
        let holds = |lease: &&mut Lease| lease.owner.as_deref() == Some(hold.owner) && lease.epoch == hold.epoch;
        let Some(lease) = self.leases.get_mut(&run).filter(holds) else { return false };
        *lease = Lease { owner: None, epoch: lease.epoch.max(past), wake: Some(wake) };
        true
    }

    pub(super) fn command_put(
        &mut self,
        run: Uuid,
        key: Option<&RequestKey>,
        command: &CommandRow,
        now: OffsetDateTime,
    ) -> Option<Outcome<Uuid>> {
        if let Some(key) = key {
            match self.request(key, command.id) {
                Request::New => {}
                Request::Reused => return Some(Outcome::Reused),
                Request::Repeated(id) if id == command.id => return Some(Outcome::Done(id)),
                Request::Repeated(id) => return Some(Outcome::Repeated(id)),
            }
        }
        self.leases.get_mut(&run)?.wake = Some(now);
        self.commands.entry(run).or_default().insert(command.id, command.clone());
        Some(Outcome::Done(command.id))
    }

    pub(super) fn command_read(&mut self, run: Uuid, hold: Hold<'_>) -> Vec<CommandRow> {
        let holds = |lease: &&mut Lease| lease.owner.as_deref() == Some(hold.owner) && lease.epoch == hold.epoch;
        if let Some(lease) = self.leases.get_mut(&run).filter(holds) {
            lease.wake = None;
        }
        self.commands.get(&run).map(|commands| commands.values().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn event_append(&mut self, run: Uuid, events: &[EventRow]) -> Result<Append, Error> {
        let stored = self.events.get_mut(&run).ok_or(Error::Invalid("no such run"))?;
        let at = |seq: i64| usize::try_from(seq).ok().and_then(|seq| stored.get(seq)).map(|event| event.hash);
        let Some(first) = events.first() else { return Ok(Append::Done) };
        let other = |seq: i64, hash: [u8; 32]| at(seq).is_some_and(|stored| stored != hash);
        if other(first.seq - 1, first.prev_hash) || events.iter().any(|event| other(event.seq, event.hash)) {
            return Ok(Append::Fenced);
        }
        if events.iter().all(|event| at(event.seq).is_some()) {
            return Ok(Append::Done);
        }
        if i64::try_from(stored.len()) != Ok(first.seq) {
            return Err(Error::Invalid("events do not continue the run's log"));
        }
        stored.extend(events.iter().cloned());
        Ok(Append::Done)
    }
}
