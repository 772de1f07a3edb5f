//! Tools that no upstream of the gateway has: those that the caller executes, and those of the runtime.
//!
//! Their definitions come with the call. What a definition says counts only if its hash, computed here, is the sealed one.

use std::sync::Arc;

use mar_alignment::TrustTier;
use mar_descriptor::Hash;
use mar_proto::types::{Executor, ToolDefinition};
use serde_json::{Map, Value};

use super::{Denial, Invocation, Kind, Record};
use crate::definition::{Declared, Definition, Described};

/// Results that others bring are cut at this size, as an upstream's are by default.
pub(super) const MAX_RESULT_BYTES: usize = 64 << 10;
/// Names that no upstream may have, and who makes the calls of their tools.
const RESERVED: [(&str, Executor); 2] = [("caller", Executor::Caller), ("runtime", Executor::Runtime)];
/// The tool with which an agent asks its caller. The runtime defines it.
const ASK: &str = "caller.ask";

/// Who makes the calls of an upstream that is none of the gateway's.
pub fn executor(upstream: &str) -> Option<Executor> {
    RESERVED.iter().find(|(name, _)| *name == upstream).map(|(_, executor)| *executor)
}

/// Who brings the results of a tool that no upstream has, where policies are asked about them. What a person answers is the
/// caller's word, as the task is.
pub(super) fn bringer(tool: &str) -> Option<Executor> {
    executor(super::upstream_of(tool)).filter(|_| tool != ASK)
}

/// What the runtime defines is reviewed with it; what a caller declares nobody has looked at.
pub(super) fn trust_tier(tool: &str) -> TrustTier {
    if tool == ASK || tool.starts_with("runtime.") { TrustTier::Aligned } else { TrustTier::Unverified }
}

/// The definition that came with the call, if it is the sealed one.
pub(super) fn pinned(call: &Invocation, pin: Hash, record: &mut Record) -> Result<Arc<Definition>, Kind> {
    let changed = |message: &str| Denial::told("TOOL_DEFINITION_CHANGED", message);
    let Some(told) = &call.definition else {
        return Err(changed("the definition of this tool did not come with the call"));
    };
    let definition = rebuilt(&call.tool, told).ok_or_else(|| changed("the definition of this tool cannot be read"))?;
    record.definition(definition.hash);
    if definition.hash != pin {
        return Err(changed("the definition that came with the call is not the sealed one"));
    }
    Ok(Arc::new(definition))
}

fn rebuilt(name: &str, told: &ToolDefinition) -> Option<Definition> {
    let (upstream, tool) = name.split_once('.')?;
    let output = match told.output_schema_json.as_str() {
        "" => None,
        text => Some(object(text)?),
    };
    let described = Described {
        tool: tool.to_owned(),
        description: told.description.clone(),
        input_schema: object(&told.input_schema_json)?,
        output_schema: output,
    };
    let declared = Declared { idempotent: told.idempotent, read_only: told.read_only, doubt: None };
    Definition::try_new(upstream, described, declared).ok()
}

fn object(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}
