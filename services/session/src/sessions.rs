//! Sessions: started, read, changed, ended.

use std::time::Duration;

use mar_descriptor::{SessionSeal as Sealed, SigningKey};
use mar_proto::session::{Session, SessionEndReason, SessionSeal, SessionState};
use mar_proto::types::Signature;
use mar_runtime::auth::Caller;
use mar_runtime::clock::random;
use mar_runtime::status::Resource;
use prost::Message as _;
use uuid::Uuid;

use crate::error::Error;
use crate::log::stamp;
use crate::runs::{Runs, session_body};
use crate::store::timer::Expiry;
use crate::store::{Outcome, Page, RequestKey, SessionRow, session_log};
use crate::tenants::Terms;
use crate::{audit, verify};

/// Tries of a change that meets another one.
const TRIES: usize = 8;
/// Stored versions start at 1.
const NO_VERSION: i64 = 0;

/// A change of a session.
#[derive(Debug, Clone)]
pub struct Change {
    /// The request's id in its scope.
    pub key: RequestKey,
    /// The session.
    pub id: Uuid,
    /// New values.
    pub session: Session,
    /// Which of them count.
    pub paths: Vec<String>,
    /// The version that the caller has read; `None` changes whatever there is.
    pub version: Option<i64>,
}

/// The sessions of the service. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    runs: Runs,
}

impl Sessions {
    /// Sessions whose runs are these.
    pub fn new(runs: Runs) -> Self {
        Self { runs }
    }

    /// Their runs.
    pub(crate) const fn runs(&self) -> &Runs {
        &self.runs
    }

    /// What holds for a tenant.
    pub(crate) fn terms(&self, tenant: &str) -> &Terms {
        self.runs.tenants().of(tenant)
    }

    /// Starts a session, or finds the one that the same request started before.
    pub async fn start(&self, caller: &Caller, key: RequestKey, wish: Session) -> Result<Session, Error> {
        let now = self.runs.clock().now();
        let id = self.runs.ids().uuid_v7();
        let body = Session {
            principal: caller.principal.clone(),
            end_user: caller.end_user.clone().unwrap_or_default(),
            environment: caller.environment.clone(),
            purpose: wish.purpose,
            labels: wish.labels,
            idle_timeout: wish.idle_timeout.or_else(|| self.usual_idle_timeout(&caller.tenant)),
            budget: wish.budget,
            ..Session::default()
        };
        let row = SessionRow {
            tenant: caller.tenant.clone(),
            id,
            state: SessionState::Open as i16,
            principal: caller.principal.clone(),
            body: body.encode_to_vec().into(),
            salt_key: random::<32>(self.runs.ids()).to_vec().into(),
            version: 1,
            create_time: now,
            update_time: now,
            idle_timeout: body.idle_timeout.as_ref().and_then(span),
        };
        match self.runs.store().session_start(&key, &row).await? {
            Outcome::Done(row) | Outcome::Repeated(row) => self.present(&row),
            Outcome::Reused => Err(Error::RequestIdReused),
        }
    }

    /// Reads a session.
    pub async fn get(&self, tenant: &str, id: Uuid) -> Result<Session, Error> {
        self.runs.activity().note(tenant, id);
        self.present(&self.row(tenant, id).await?)
    }

    /// Lists sessions, newest first.
    pub async fn list(&self, tenant: &str, page: Page) -> Result<Vec<(Uuid, Session)>, Error> {
        let rows = self.runs.store().session_list(tenant, page).await?;
        rows.iter().map(|row| Ok((row.id, self.present(row)?))).collect()
    }

    /// Changes a session.
    pub async fn change(&self, tenant: &str, change: Change) -> Result<Session, Error> {
        self.runs.activity().note(tenant, change.id);
        for _ in 0..TRIES {
            let mut row = self.row(tenant, change.id).await?;
            let refusal = if change.version.is_some_and(|version| version != row.version) {
                Some(Error::EtagMismatch)
            } else if row.state != SessionState::Open as i16 {
                Some(Error::SessionEnded(name(change.id)))
            } else {
                None
            };
            let mut body = session_body(&row)?;
            apply(&mut body, &change);
            body.idle_timeout = body.idle_timeout.or_else(|| self.usual_idle_timeout(tenant));
            row.idle_timeout = body.idle_timeout.as_ref().and_then(span);
            row.body = body.encode_to_vec().into();
            // A repetition finds its own change done, which the store alone knows: what is refused otherwise asks it with
            // a version that no row has.
            row.version = if refusal.is_some() { NO_VERSION } else { row.version + 1 };
            row.update_time = self.runs.clock().now();
            match (self.runs.store().session_change(Some(&change.key), &row).await?, refusal) {
                (Some(Outcome::Done(row) | Outcome::Repeated(row)), _) => {
                    if change.paths.iter().any(|path| path == "budget") {
                        self.runs.renew(tenant, change.id).await?;
                    }
                    return self.present(&row);
                }
                (Some(Outcome::Reused), _) => return Err(Error::RequestIdReused),
                (None, Some(refusal)) => return Err(refusal),
                // Somebody was faster; look again.
                (None, None) => {}
            }
        }
        Err(Error::EtagMismatch)
    }

    /// Ends a session: no run can be started any more, open ones are stopped and sealed. Idempotent, and picks up where a
    /// crash left it.
    pub async fn end(&self, caller: &Caller, key: Option<&RequestKey>, id: Uuid) -> Result<Session, Error> {
        if let Some(key) = key
            && self.runs.store().request_seen(&caller.tenant, key).await? == Some(false)
        {
            return Err(Error::RequestIdReused);
        }
        self.reach(&caller.tenant, id, SessionState::Ending, key).await?;
        self.complete_end(&caller.tenant, id, &caller.principal).await
    }

    /// Stops what runs in an ending session, and seals it.
    async fn complete_end(&self, tenant: &str, id: Uuid, principal: &str) -> Result<Session, Error> {
        self.runs.end_session(tenant, id, principal).await?;
        self.reach(tenant, id, SessionState::Ended, None).await
    }

    /// Ends a session whose time has come: one that is idle, or whose end somebody began and nobody has completed.
    pub(crate) async fn expire(&self, tenant: &str, id: Uuid) -> Result<(), Error> {
        let row = self.row(tenant, id).await?;
        if row.state == SessionState::Open as i16 {
            let body = Session { end_reason: SessionEndReason::Idle.into(), ..session_body(&row)? };
            let ending = SessionRow {
                state: SessionState::Ending as i16,
                body: body.encode_to_vec().into(),
                version: row.version + 1,
                update_time: self.runs.clock().now(),
                ..row
            };
            match self.runs.store().session_expire(&ending).await? {
                Expiry::Ending => tracing::info!(session.id = %id, "a session was idle and ends"),
                // What has changed is due again, if it still is to end.
                Expiry::NotIdle | Expiry::Changed => return Ok(()),
            }
        }
        // No run is open in one that was idle; of another one whoever wanted its end is known to the runs that were told.
        self.complete_end(tenant, id, "").await.map(drop)
    }

    /// The idle timeout of sessions that state none.
    fn usual_idle_timeout(&self, tenant: &str) -> Option<prost_types::Duration> {
        self.terms(tenant).idle_timeout.and_then(|idle| idle.try_into().ok())
    }

    /// Moves a session's state forward; one that is there or beyond stays. The session's seal is stored with its end, in
    /// the statement that ends it: no crash comes between them, and whoever repeats an end that was lost makes the same seal.
    async fn reach(
        &self,
        tenant: &str,
        id: Uuid,
        state: SessionState,
        key: Option<&RequestKey>,
    ) -> Result<Session, Error> {
        loop {
            let mut row = self.row(tenant, id).await?;
            if row.state >= state as i16 {
                return self.present(&row);
            }
            row.update_time = self.runs.clock().now();
            if state == SessionState::Ended {
                let sealed = Session { end_time: Some(stamp(row.update_time)), ..self.sealed(&row).await? };
                row.body = sealed.encode_to_vec().into();
            }
            if state == SessionState::Ending {
                let ending = Session { end_reason: SessionEndReason::Caller.into(), ..session_body(&row)? };
                row.body = ending.encode_to_vec().into();
            }
            row.state = state as i16;
            row.version += 1;
            match self.runs.store().session_change(key, &row).await? {
                Some(Outcome::Done(row) | Outcome::Repeated(row)) => return self.present(&row),
                Some(Outcome::Reused) => return Err(Error::RequestIdReused),
                None => {}
            }
        }
    }

    /// The session with its seal. All its runs are sealed and none is admitted any more, so that what its log will say at its
    /// end is known.
    async fn sealed(&self, row: &SessionRow) -> Result<Session, Error> {
        let mut body = session_body(row)?;
        let store = self.runs.store();
        let mut log = store.session_log(&row.tenant, row.id).await?;
        let last = log.last().map(|entry| (entry.seq, entry.hash));
        log.push(session_log::next(last, session_log::kind::ENDED, None));
        let seals = audit::seals(store, &row.tenant, row.id).await?;
        body.seal = verify::session_seal(row.id, &log, &seals).and_then(|seal| sign(&seal, self.runs.seal_key()));
        if body.seal.is_none() {
            tracing::error!(session.id = %row.id, "session cannot be sealed: a run of it has no seal");
        }
        Ok(body)
    }

    pub(crate) async fn row(&self, tenant: &str, id: Uuid) -> Result<SessionRow, Error> {
        let row = self.runs.store().session_get(tenant, id).await?;
        row.ok_or_else(|| Error::NotFound { kind: Resource::Session, name: name(id) })
    }

    /// A session as callers see it.
    fn present(&self, row: &SessionRow) -> Result<Session, Error> {
        let body = session_body(row)?;
        let ended = row.state >= SessionState::Ended as i16;
        Ok(Session {
            name: name(row.id),
            state: i32::from(row.state),
            create_time: Some(stamp(row.create_time)),
            update_time: Some(stamp(row.update_time)),
            end_time: body.end_time.filter(|_| ended),
            etag: row.version.to_string(),
            legal_hold: self.terms(&row.tenant).legal_hold,
            ..body
        })
    }
}

/// The seal as callers see it; `None` where it has no canonical form, which takes more runs than there can be.
fn sign(seal: &Sealed, key: &SigningKey) -> Option<SessionSeal> {
    let (hash, statement) = (seal.hash().ok()?, seal.sign(key).ok()?);
    let signature = statement.signatures.into_iter().next()?;
    Some(SessionSeal {
        runs: i64::try_from(seal.runs).ok()?,
        run_seals: seal.run_seals.as_bytes().to_vec().into(),
        head: seal.head.hash.as_bytes().to_vec().into(),
        head_seq: seal.head.seq,
        hash: hash.to_string(),
        signature: Some(Signature { key_id: signature.key_id, sig: signature.sig.into() }),
    })
}

fn apply(body: &mut Session, change: &Change) {
    for path in &change.paths {
        match path.as_str() {
            "purpose" => body.purpose.clone_from(&change.session.purpose),
            "labels" => body.labels.clone_from(&change.session.labels),
            "idle_timeout" => body.idle_timeout = change.session.idle_timeout,
            "budget" => body.budget = change.session.budget,
            // Validation lets no other path through.
            _ => {}
        }
    }
}

/// A span as the service reckons with it; `None` for what is none.
pub(crate) fn span(span: &prost_types::Duration) -> Option<Duration> {
    let nanos = u32::try_from(span.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(span.seconds).ok()?, nanos))
}

/// `sessions/{session}`
pub fn name(id: Uuid) -> String {
    format!("sessions/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_one_or_none() {
        let of = |seconds, nanos| span(&prost_types::Duration { seconds, nanos });
        assert_eq!(of(5, 1), Some(Duration::new(5, 1)));
        for (seconds, nanos) in [(5, -1), (-5, 0), (5, 1_000_000_000), (i64::MIN, i32::MIN), (i64::MAX, i32::MAX)] {
            assert_eq!(of(seconds, nanos), None, "{seconds} s and {nanos} ns");
        }
    }
}
