//! The decision record of a call: which check said what, on which facts. It holds no payload.

use mar_alignment::{Decision, Verdict};
use mar_descriptor::Hash;
use serde::Serialize;

use super::{Approved, Invocation, Kind};

/// What is recorded of a decision, whatever it was.
#[derive(Debug, Serialize)]
pub struct Record {
    call_id: String,
    tool: String,
    descriptor_hash: Hash,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed_definition_hash: Option<Hash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    definition_hash: Option<Hash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments_digest: Option<Hash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments_bytes: Option<usize>,
    /// Of the call: `allow`, `require_approval`, `deny`, or `undecided` where the upstream was away before anything was decided.
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The approval that turned the policies' `require_approval` into `allow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<Approved>,
    /// The policies' part, where it came to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<Decision>,
    /// What they say of the result, where there is one. A deny withheld it after the call was made, here or, where it is
    /// recorded, in another run.
    #[serde(skip_serializing_if = "Option::is_none")]
    result_decision: Option<Decision>,
    /// Of a probe: what they say of the result that it tells of the call in doubt.
    #[serde(skip_serializing_if = "Option::is_none")]
    doubted_result_decision: Option<Decision>,
}

impl Record {
    pub(super) fn new(call: &Invocation) -> Self {
        Self {
            call_id: call.call_id.clone(),
            tool: call.tool.clone(),
            descriptor_hash: call.sealed.hash(),
            sealed_definition_hash: None,
            definition_hash: None,
            arguments_digest: None,
            arguments_bytes: None,
            verdict: "undecided",
            reason: None,
            approval: None,
            decision: None,
            result_decision: None,
            doubted_result_decision: None,
        }
    }

    pub(super) fn sealed_definition(&mut self, hash: Hash) {
        self.sealed_definition_hash = Some(hash);
    }

    pub(super) fn definition(&mut self, hash: Hash) {
        self.definition_hash = Some(hash);
    }

    pub(super) fn arguments(&mut self, digest: Hash, bytes: usize) {
        self.arguments_digest = Some(digest);
        self.arguments_bytes = Some(bytes);
    }

    pub(super) fn approval(&mut self, given: &Approved) {
        self.approval = Some(given.clone());
    }

    pub(super) fn decision(&mut self, decision: Decision) {
        self.decision = Some(decision);
    }

    pub(super) fn received(&mut self, decision: Decision) {
        self.result_decision = Some(decision);
    }

    pub(super) fn doubted_received(&mut self, decision: Decision) {
        self.doubted_result_decision = Some(decision);
    }

    pub(super) fn conclude(&mut self, kind: &Kind) {
        let decided = self.decision.is_some();
        (self.verdict, self.reason) = match kind {
            // What is recorded needs nobody's approval, and has none.
            Kind::Recorded(_) if self.asks() => ("require_approval", None),
            Kind::Answered(_) | Kind::Recorded(_) | Kind::HandedOver(_) | Kind::Probed(_) => ("allow", None),
            Kind::Denied(denial) => ("deny", Some(denial.reason)),
            Kind::ApprovalRequired { .. } => ("require_approval", None),
            Kind::Failed(failure) => (if decided { "allow" } else { "undecided" }, Some(failure.reason.as_str())),
        };
    }

    /// Whether the policies want the call approved.
    fn asks(&self) -> bool {
        self.decision.as_ref().is_some_and(|decision| decision.verdict == Verdict::RequireApproval)
    }

    /// The record as JSON text.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Hashes of the policies that decided, in order and each once.
    pub fn policy_hashes(&self) -> Vec<String> {
        let mut hashes = Vec::new();
        let decided = self.decision.iter().chain(&self.result_decision).chain(&self.doubted_result_decision);
        for policy in decided.flat_map(|decision| decision.policies.iter().chain(&decision.current)) {
            if !hashes.contains(&policy.hash) {
                hashes.push(policy.hash.clone());
            }
        }
        hashes
    }
}
