//! Child runs: having them admitted and stopped, and telling a parent of its child's end. All of it is durable before the
//! run goes on, and repeated at will after a crash.

use mar_proto::session::RunState;
use mar_proto::types::HaltReason;

use super::{Executor, Halt};
use crate::crash::Point;
use crate::error::Error;
use crate::run::{Call, ChildEnd, Command, Delegated, Ending, Input};
use crate::runs::Birth;
use crate::store;

impl Executor {
    /// Has the open children of a call admitted.
    pub(super) async fn delegate(&mut self, call_id: &str) -> Result<(), Halt> {
        let Some((call, delegated)) = self.delegated(call_id) else { return Ok(()) };
        self.shared.crash.pass_in(Point::ChildrenCommitted, self.state.run).await;
        for index in 0..delegated.children.len() {
            self.admit_child(&call, &delegated, index).await?;
            self.shared.crash.pass_in(Point::ChildAdmitted, self.state.run).await;
        }
        // Another call may be about to start children.
        self.inbox.send(Input::Timer);
        Ok(())
    }

    /// Has the open children of a call stop. One that was not admitted yet is admitted first, so that nobody who was about to
    /// admit it starts something that nobody stops.
    pub(super) async fn stop_children(&mut self, call_id: &str) -> Result<(), Halt> {
        let Some((call, delegated)) = self.delegated(call_id) else { return Ok(()) };
        let Some(stop) = self.state.stop.clone() else { return Ok(()) };
        let command = match stop.outcome {
            RunState::Halted => Command::HaltWithParent,
            _ => Command::Cancel { reason: stop.reason, principal: self.state.principal.to_string() },
        };
        for index in 0..delegated.children.len() {
            if self.admit_child(&call, &delegated, index).await? {
                self.tell(delegated.children[index].run, &command).await?;
                self.shared.crash.pass_in(Point::ChildStopped, self.state.run).await;
            }
        }
        Ok(())
    }

    /// Tells the parent, if there is one, how the run has ended.
    pub(super) async fn tell_parent(&mut self) -> Result<(), Halt> {
        let Some(parent) = self.state.parent.clone() else { return Ok(()) };
        let command = Command::ChildEnded { run: self.state.run, end: Box::new(self.child_end()) };
        self.tell(parent.run, &command).await?;
        self.shared.crash.pass_in(Point::ParentTold, self.state.run).await;
        Ok(())
    }

    /// Gives back what the run leaves of its allotment and its draws, and lets go of its counters.
    pub(super) async fn release(&self) {
        let (root, run) = (self.state.root(), self.state.run);
        let released = match &self.state.parent {
            None => self.shared.counters.retire(root, run, self.state.next_seq).await,
            Some(parent) => self.shared.counters.release(root, parent.pool, self.state.held()).await,
        };
        if let Err(error) = released {
            tracing::debug!(run.id = %run, error = %error, "counters not dropped; they expire");
        }
    }

    /// The children of a call, as far as they are open.
    fn delegated(&self, call_id: &str) -> Option<(Call, Delegated)> {
        let found = self.state.delegations().find(|(call, _)| call.call_id == call_id);
        found.map(|(call, delegated)| (call.clone(), delegated.clone()))
    }

    /// Whether the child is admitted; an open one that cannot be any more ends here.
    async fn admit_child(&mut self, call: &Call, delegated: &Delegated, index: usize) -> Result<bool, Halt> {
        let child = &delegated.children[index];
        if child.end.is_some() {
            return Ok(false);
        }
        let mut wait = self.store_wait();
        loop {
            let birth = Birth { context: &self.context, parent: &self.state, call, delegated, index };
            match self.kin.admit_child(&birth).await {
                Ok(true) => {
                    self.pending.extend(wait.over(self.shared.clock.now()));
                    return Ok(true);
                }
                Ok(false) => {
                    self.inbox.send(Input::ChildRefused { run: child.run });
                    return Ok(false);
                }
                Err(error) => {
                    let error = of_store(error);
                    // The intent of its children is not there, and will not be.
                    if self.tail_is_lost(&error).await {
                        return Err(self.stop_for_lost_tail().await);
                    }
                    self.rest(&mut wait, &error).await?;
                }
            }
        }
    }

    pub(super) async fn tell(&mut self, run: uuid::Uuid, command: &Command) -> Result<(), Halt> {
        let mut wait = self.store_wait();
        loop {
            match self.kin.tell(&self.context.caller.tenant, run, command).await {
                Ok(()) => {
                    self.pending.extend(wait.over(self.shared.clock.now()));
                    return Ok(());
                }
                Err(error) => self.rest(&mut wait, &of_store(error)).await?,
            }
        }
    }

    fn child_end(&self) -> ChildEnd {
        let (mut halt_reason, mut failure, mut answer) = (HaltReason::Unspecified, None, None);
        match &self.state.ending {
            Some(Ending::Answered(given)) => answer = Some((**given).clone()),
            Some(Ending::Halted(reason)) => halt_reason = *reason,
            Some(Ending::Failed(why)) => failure = Some(why.clone()),
            None => {}
        }
        ChildEnd {
            state: crate::view::run_state(self.state.phase),
            halt_reason,
            failure,
            used: self.state.used,
            usage: self.state.usage,
            tainted: self.state.tainted,
            head: bytes::Bytes::copy_from_slice(self.log.head().hash.as_bytes()),
            answer,
        }
    }
}

fn of_store(error: Error) -> store::Error {
    match error {
        Error::Store(source) => source,
        _ => store::Error::Corrupt("child run"),
    }
}
