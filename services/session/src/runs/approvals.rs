//! Human decisions: who may make them, and how they reach their run.

use std::time::Duration;

use mar_proto::session::{Approval, ApprovalState};
use mar_runtime::auth::Caller;
use mar_runtime::status::Resource;
use prost::Message as _;
use uuid::Uuid;

use super::command::Posted;
use super::{Runs, stored_caller};
use crate::error::Error;
use crate::run::{Command, Resolution};
use crate::store::{self, ApprovalPage, ApprovalRow, RequestKey};
use crate::view;

/// How long the answer waits for the run to have taken the decision.
const TAKING: Duration = Duration::from_secs(5);

/// A decision on an approval.
#[derive(Debug, Clone)]
pub struct Decide {
    /// The request's id in its scope.
    pub key: RequestKey,
    /// The session.
    pub session: Uuid,
    /// The run.
    pub run: Uuid,
    /// Id of the approval within the run.
    pub approval: String,
    /// The digest that was looked at.
    pub digest: String,
    /// Whether the call may go ahead.
    pub approved: bool,
    /// Why.
    pub comment: String,
}

impl Runs {
    /// Lists approvals, newest run first.
    pub async fn approvals(&self, tenant: &str, page: &ApprovalPage) -> Result<Vec<(Uuid, String, Approval)>, Error> {
        let rows = self.store().approval_list(tenant, page).await?;
        rows.into_iter().map(|row| Ok((row.run, row.id.clone(), present(&row)?))).collect()
    }

    /// Decides on the exact call that an approval is bound to. Answers the approval when its run has taken the decision, or a
    /// few seconds have passed; the decision is durable in either case.
    pub async fn decide(&self, caller: &Caller, wish: Decide) -> Result<Approval, Error> {
        let name = view::approval_name(wish.session, wish.run, &wish.approval);
        let asked = self.approval(caller, &wish, &name).await?;
        match self.store().request_seen(&caller.tenant, &wish.key).await? {
            Some(true) => return Ok(asked),
            Some(false) => return Err(Error::RequestIdReused),
            None => {}
        }
        self.may_decide(caller, &wish, &asked).await?;
        let resolution = Resolution {
            approval: wish.approval.clone(),
            digest: wish.digest.clone(),
            approved: wish.approved,
            principal: caller.principal.clone(),
            comment: wish.comment.clone(),
        };
        let command = Command::Resolve(resolution);
        if self.post(&caller.tenant, wish.run, Some(&wish.key), &command).await? == Posted::Closed {
            return Err(self.closed(caller, &wish, &name).await?);
        }
        let taken = async {
            let mut pause = Duration::from_millis(5);
            loop {
                let now = self.approval(caller, &wish, &name).await?;
                let counted = now.decisions.iter().any(|decision| decision.principal == caller.principal);
                if counted || now.state() != ApprovalState::Pending || !self.pause_or_stop(pause).await {
                    return Ok(now);
                }
                pause = (pause * 2).min(Duration::from_millis(250));
            }
        };
        match mar_runtime::clock::within(self.clock(), TAKING, taken).await {
            Ok(taken) => taken,
            Err(_) => self.approval(caller, &wish, &name).await,
        }
    }

    /// Whether this caller may decide this now: not its requester, one of the group, once, on what is asked.
    async fn may_decide(&self, caller: &Caller, wish: &Decide, asked: &Approval) -> Result<(), Error> {
        let name = view::run_name(wish.session, wish.run);
        let requester = stored_caller(&self.row(&caller.tenant, wish.session, wish.run, &name).await?)?;
        if requester.principal == caller.principal {
            return Err(Error::ApprovalNotAllowed {
                why: "the run's own principal cannot decide on it",
                group: asked.group.clone(),
            });
        }
        if !asked.group.is_empty() && !caller.groups.contains(&asked.group) {
            return Err(Error::ApprovalNotAllowed {
                why: "the caller is not of the group that decides",
                group: asked.group.clone(),
            });
        }
        let state = asked.state();
        let lapsed =
            asked.expire_time.as_ref().and_then(crate::run::timestamp).is_some_and(|at| at <= self.clock().now());
        let why = if state != ApprovalState::Pending || lapsed {
            "it is not open any more"
        } else if asked.call_digest != wish.digest {
            "call_digest is not that of the call"
        } else if asked.decisions.iter().any(|decision| decision.principal == caller.principal) {
            "the caller has decided already"
        } else {
            return Ok(());
        };
        Err(Error::ApprovalState { name: asked.name.clone(), state, why })
    }

    async fn closed(&self, caller: &Caller, wish: &Decide, name: &str) -> Result<Error, Error> {
        let state = self.approval(caller, wish, name).await?.state();
        Ok(Error::ApprovalState { name: name.to_owned(), state, why: "its run has ended" })
    }

    async fn approval(&self, caller: &Caller, wish: &Decide, name: &str) -> Result<Approval, Error> {
        let row = self.store().approval_get(&caller.tenant, wish.run, &wish.approval).await?;
        let row = row.filter(|row| row.session == wish.session);
        present(&row.ok_or_else(|| Error::NotFound { kind: Resource::Approval, name: name.to_owned() })?)
    }
}

fn present(row: &ApprovalRow) -> Result<Approval, Error> {
    Ok(Approval::decode(row.body.clone()).map_err(|_| store::Error::Corrupt("approval"))?)
}
