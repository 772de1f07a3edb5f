//! Child runs on their way into the store, and what runs of one tree tell each other.

use mar_descriptor::Hash;
use mar_proto::session::{EventContent, ParentRun, RunAdmitted, event_leaf::Body};
use prost::Message as _;
use uuid::Uuid;

use super::admit::session_json;
use super::{READ_BYTES, Runs, session_body};
use crate::caller;
use crate::clients::RunContext;
use crate::error::Error;
use crate::log::{self, Log, stamp};
use crate::run::{Call, Child, Command, Delegated, Event, State};
use crate::store::{self, Admission, EventRow, RunRow, SessionRow};
use crate::view;

/// A child run that its parent has committed to.
pub(crate) struct Birth<'a> {
    /// Whose it is.
    pub context: &'a RunContext,
    /// The parent.
    pub parent: &'a State,
    /// Its call.
    pub call: &'a Call,
    /// The children of the call.
    pub delegated: &'a Delegated,
    /// Which of them.
    pub index: usize,
}

impl Birth<'_> {
    fn child(&self) -> Result<&Child, store::Error> {
        self.delegated.children.get(self.index).ok_or(store::Error::Corrupt("child run"))
    }
}

impl Runs {
    /// Admits a child run that its parent's log holds, for any replica to claim. Repeating it changes nothing. `false` where
    /// the session admits no runs any more.
    pub(crate) async fn admit_child(&self, birth: &Birth<'_>) -> Result<bool, Error> {
        let tenant = &birth.context.caller.tenant;
        let session = self.store().session_get(tenant, birth.parent.session).await?;
        let session = session.ok_or(store::Error::Corrupt("run without its session"))?;
        let intent = birth.delegated.intent_seq;
        let intent = self.store().event_read(tenant, birth.parent.run, intent, 1, READ_BYTES).await?;
        let intent = intent.first().ok_or(store::Error::Corrupt("intent of a child run"))?;
        let (row, first) = self.newborn(birth, &session, Hash::from_bytes(intent.hash))?;
        match self.store().child_admit(&row, &first).await? {
            Admission::NotOpen(_) => Ok(false),
            _ => {
                self.0.claim.notify_one();
                Ok(true)
            }
        }
    }

    /// Makes a command for a run of the same tree durable. One that has ended needs none.
    pub(crate) async fn tell(&self, tenant: &str, run: Uuid, command: &Command) -> Result<(), Error> {
        self.post(tenant, run, None, command).await.map(|_| ())
    }

    fn newborn(&self, birth: &Birth<'_>, session: &SessionRow, intent: Hash) -> Result<(RunRow, EventRow), Error> {
        let now = self.clock().now();
        let child = birth.child()?;
        let caller = &*birth.context.caller;
        let content = EventContent {
            task: Some((*child.task).clone()),
            principal: caller.principal.clone(),
            session_json: session_json(&session_body(session)?),
            ..EventContent::default()
        };
        let body = RunAdmitted {
            session: format!("sessions/{}", session.id),
            task_type: child.task.r#type.clone(),
            environment: caller.environment.clone(),
            limits: Some(child.limits),
            expire_time: Some(stamp(birth.parent.expires_at)),
            history_through: String::new(),
            parent: Some(parent_run(birth, child)),
            fork: None,
            // What it may use its parent has taken from the budgets.
            budgets: Vec::new(),
        };
        let event = Event { time: now, body: Body::RunAdmitted(body), content, counted_seq: None, command: None };
        let log = Log::of_child(child.run, super::salt_key(session)?, intent);
        let first = log.encode(std::slice::from_ref(&event)).swap_remove(0);
        let state = State::admitted(child.run, session.id, &event).ok_or(store::Error::Corrupt("first event"))?;
        let run = view::run(&state, now, None);
        let row = RunRow {
            tenant: caller.tenant.clone(),
            session: session.id,
            id: child.run,
            state: i16::try_from(run.state).unwrap_or_default(),
            // It stands in no root run's way: its parent does.
            parallel: true,
            log_version: log::VERSION,
            caller: caller::encode(caller),
            summary: view::summary(run).encode_to_vec().into(),
            create_time: now,
            update_time: now,
            expire_time: birth.parent.expires_at,
        };
        Ok((row, first))
    }
}

fn parent_run(birth: &Birth<'_>, child: &Child) -> ParentRun {
    ParentRun {
        run: birth.parent.run.to_string(),
        root: birth.parent.root().to_string(),
        call_id: birth.call.call_id.clone(),
        intent_seq: birth.delegated.intent_seq,
        index: i64::try_from(birth.index).unwrap_or(i64::MAX),
        depth: birth.parent.depth() + 1,
        pool_seq: birth.delegated.pool.seq,
        pool_nonce: birth.delegated.pool.nonce,
        ceiling: Some(child.ceiling.to_reservation()),
        tainted: birth.parent.tainted,
        descriptor_hash: view::descriptor_hash(birth.parent),
    }
}
