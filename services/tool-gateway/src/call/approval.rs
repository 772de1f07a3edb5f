//! What people have approved, and whether it is this call.

use std::collections::BTreeSet;

use mar_alignment::Approval;
use mar_descriptor::{Hash, canonical};
use serde::Serialize;
use serde_json::json;

use super::Invocation;

const CALL_DOMAIN: &str = "mcp-agent-runtime/tool-call/v1";

/// The approval of one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Approved {
    /// The digest that was approved, as it was given.
    pub call_digest: String,
    /// Who approved.
    pub approvers: BTreeSet<String>,
}

impl Approved {
    /// Whether it is of the call with this digest, by as many as the policies ask for now.
    pub(super) fn covers(&self, digest: Hash, terms: &Approval) -> bool {
        let enough = u32::try_from(self.approvers.len()).is_ok_and(|given| given >= terms.needed.max(1));
        enough && self.call_digest == digest.to_string()
    }
}

/// What is approved: this call id, tool, definition and canonical arguments, and nothing else.
pub(super) fn digest(call: &Invocation, definition: Hash, arguments: Hash) -> Result<Hash, canonical::Error> {
    let call = json!({
        "call_id": call.call_id, "tool": call.tool, "definition": definition.to_string(),
        "arguments": arguments.to_string(),
    });
    Hash::of_foreign(CALL_DOMAIN, &call)
}
