//! What people want of a run.

use mar_proto::session::{ApprovalState, WaitReason};

use super::World;
use crate::run::tests::fixture;
use crate::run::{CallState, Command, Phase, Resolution};

impl World {
    /// What lets a parked run go on.
    pub(super) fn remedy(&mut self) -> Command {
        match self.driver.state.phase {
            Phase::Waiting(WaitReason::Approval) => self.decision(true),
            Phase::Waiting(WaitReason::ToolResult) => fixture::result_of_caller(&self.handed(WaitReason::ToolResult)),
            Phase::Waiting(WaitReason::Input) => fixture::reply(&self.handed(WaitReason::Input), "the red one"),
            _ => Command::Resume,
        }
    }

    /// A call in the caller's hands.
    fn handed(&self, reason: WaitReason) -> String {
        let handed = self.driver.state.held_calls().find(|call| call.state == CallState::Handed { reason });
        handed.expect("a call in the caller's hands").call_id.clone()
    }

    /// What somebody may want at any time, whether it fits or not.
    pub(super) fn wish(&mut self) -> Command {
        match self.dice.below(4) {
            0 => self.decision(true),
            1 => self.decision(false),
            2 => fixture::result_of_caller(&fixture::call_id(1, 0)),
            _ => fixture::reply(&fixture::call_id(1, 0), "the blue one"),
        }
    }

    fn decision(&mut self, approved: bool) -> Command {
        let asked = self.driver.state.approvals.values();
        let pending = asked.filter(|approval| approval.state == ApprovalState::Pending);
        let known: Vec<String> = pending.map(|approval| approval.id.clone()).collect();
        let approval = if known.is_empty() { "1-0".to_owned() } else { self.dice.of(&known) };
        let who = self.dice.of(&["bob", "cid", "dan", "ada"]);
        let asked = self.driver.state.approvals.get(&approval).map_or("sha256:d".to_owned(), |one| one.digest.clone());
        let digest = self.dice.of(&[asked.clone(), asked.clone(), asked, "sha256:other".to_owned()]);
        // Without dice left everybody has to come by once.
        let who = if self.dice.spent() { format!("person-{}", self.commands) } else { who.to_owned() };
        Command::Resolve(Resolution {
            approval,
            digest,
            approved,
            principal: format!("user:{who}"),
            comment: String::new(),
        })
    }
}
