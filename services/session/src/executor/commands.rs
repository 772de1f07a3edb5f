//! Fetching what callers want of the run.
//!
//! A command is durable before the executor hears of it. It leaves the store when the commit that took it is durable;
//! one that is read again after a crash is known by its id in the log.

use uuid::Uuid;

use super::Executor;
use crate::command;
use crate::run::{Command, Input, Timed};
use crate::store::Hold;

/// Commands between the store and the run.
#[derive(Debug)]
pub(super) struct Commands {
    /// There may be some that were not read.
    unread: bool,
    /// Taken, and still in the store.
    taken: Vec<Uuid>,
    /// Results that the gateway is being asked about.
    asked: Vec<Uuid>,
}

impl Commands {
    /// Nobody has wanted anything yet.
    pub(super) fn none() -> Self {
        Self { unread: false, taken: Vec::new(), asked: Vec::new() }
    }

    /// Somebody may have wanted something before this executor began.
    pub(super) fn perhaps() -> Self {
        Self { unread: true, taken: Vec::new(), asked: Vec::new() }
    }

    /// There is something to read.
    pub(super) fn due(&mut self) {
        self.unread = true;
    }

    /// Whether everything that is known of was read, taken and dropped.
    pub(super) fn settled(&self) -> bool {
        !self.unread && self.taken.is_empty()
    }

    /// Whether the gateway is being asked about something.
    pub(super) fn asks(&self) -> bool {
        !self.asked.is_empty()
    }

    /// These inputs are in the log, or will never be.
    pub(super) fn taken(&mut self, inputs: &[Timed]) {
        let ids: Vec<Uuid> = inputs.iter().filter_map(id).collect();
        self.asked.retain(|asked| !ids.contains(asked));
        self.taken.extend(ids);
    }
}

fn id(timed: &Timed) -> Option<Uuid> {
    match &timed.input {
        Input::Commanded { id, .. } => Some(*id),
        _ => None,
    }
}

impl Executor {
    /// Drops what was taken and reads what is new; whether the store let it.
    pub(super) async fn fetch_commands(&mut self) -> bool {
        if self.commands.settled() {
            return true;
        }
        match self.exchange_commands().await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(run.id = %self.state.run, error = %mar_runtime::status::chain(&error), "commands wait for the store");
                false
            }
        }
    }

    async fn exchange_commands(&mut self) -> Result<(), crate::store::Error> {
        let (tenant, run) = (&self.context.caller.tenant, self.state.run);
        if !self.commands.taken.is_empty() {
            self.shared.store.command_drop(tenant, run, &self.commands.taken).await?;
            self.commands.taken.clear();
        }
        if !self.commands.unread {
            return Ok(());
        }
        let hold = Hold { owner: &self.owner, epoch: self.held };
        let rows = self.shared.store.command_read(tenant, run, hold).await?;
        self.commands.unread = false;
        let at = self.shared.clock.now();
        for row in rows {
            if self.commands.asked.contains(&row.id) || self.pending.iter().any(|timed| id(timed) == Some(row.id)) {
                continue;
            }
            match command::decode(&row.body) {
                Ok(Command::ToolResult(given)) if self.is_handed(&given.result.call_id) => {
                    self.commands.asked.push(row.id);
                    self.receive(row.id, *given);
                }
                Ok(command) => self.pending.push(Timed { at, input: Input::Commanded { id: row.id, command } }),
                Err(error) => {
                    tracing::error!(run.id = %run, command.id = %row.id, error = %error, "command is dropped");
                    self.commands.taken.push(row.id);
                }
            }
        }
        Ok(())
    }
}
