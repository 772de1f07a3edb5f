//! The API's messages and the gateway's types. All violations of a request are collected.

use mar_alignment::RunFacts;
use mar_descriptor::{Hash, SealedDescriptor, Signature};
use mar_proto::tool as pb;
use mar_proto::types::{self, Origin, Part, ToolResult, media, part};
use mar_runtime::auth::RunGrant;
use mar_runtime::violations::Violations;

use crate::call::{Approved, Invocation, Kind, Outcome};
use crate::config::is_upstream_name;
use crate::outcome::{Answer, note};
use crate::registry::Pattern;

const PREFIX: &str = "tools/";
const MAX_ID: usize = 512;
const MAX_PATTERNS: usize = 500;
const MAX_APPROVERS: usize = 64;
/// Bytes of a result that somebody brings, before it is cut.
const MAX_BROUGHT: usize = 4 << 20;
/// Bytes of a result that was recorded: as much as an upstream may be let answer, and what the gateway remarked on it.
const MAX_RECORDED: usize = (4 << 20) + (64 << 10);

/// `upstream.tool` of `tools/upstream.tool`.
pub(super) fn bare(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

pub(super) fn tool_name<'a>(name: &'a str, field: &str, found: &mut Violations) -> &'a str {
    let bare = name.strip_prefix(PREFIX).unwrap_or_default();
    let fits = bare.split_once('.').is_some_and(|(upstream, tool)| is_upstream_name(upstream) && !tool.is_empty());
    found.require(fits, field, "must be tools/{upstream}.{tool}");
    bare
}

pub(super) fn short(text: &str, field: &str, found: &mut Violations) {
    let fits = (1..=MAX_ID).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    found.require(fits, field, format!("must be 1 to {MAX_ID} visible ASCII characters"));
}

pub(super) fn patterns(texts: &[String], found: &mut Violations) -> Vec<Pattern> {
    found.require(texts.len() <= MAX_PATTERNS, "patterns", format!("must be at most {MAX_PATTERNS}"));
    let mut read = Vec::new();
    for (index, text) in texts.iter().take(MAX_PATTERNS).enumerate() {
        match Pattern::parse(text) {
            Some(pattern) => read.push(pattern),
            None => {
                found.field(&format!("patterns[{index}]"), "must be upstream.tool, upstream.* or *");
            }
        }
    }
    read
}

pub(super) fn granted_hash(grant: &RunGrant, found: &mut Violations) -> Hash {
    let hash = grant.descriptor_hash.as_deref().unwrap_or_default().parse();
    found.take("authorization", hash).unwrap_or(Hash::ZERO)
}

pub(super) fn sealed(sealed: Option<types::SealedDescriptor>, found: &mut Violations) -> Option<SealedDescriptor> {
    let sealed = sealed?;
    found.within("descriptor", |found| {
        let hash = found.take("hash", sealed.hash.parse());
        let mut signatures = Vec::new();
        for (index, signature) in sealed.signatures.into_iter().enumerate() {
            found.item("signatures", index, |found| {
                found.require(signature.sig.len() == 64, "sig", "must be 64 bytes").is_empty()
            });
            signatures.push(Signature { key_id: signature.key_id, sig: signature.sig.to_vec() });
        }
        Some(SealedDescriptor { hash: hash?, canonical: sealed.canonical.to_vec(), signatures })
    })
}

pub(super) fn facts(facts: pb::CallFacts, found: &mut Violations) -> RunFacts {
    found.within("facts", |found| {
        let mut count = |value: i64, field: &str| {
            let read = u64::try_from(value).map_err(|_| "must not be negative");
            found.take(field, read).unwrap_or_default()
        };
        RunFacts {
            step: count(facts.step, "step"),
            tool_calls: count(facts.tool_calls, "tool_calls"),
            taint: facts.tainted,
            ..RunFacts::default()
        }
    })
}

pub(super) fn approval(given: pb::ApprovalGiven, found: &mut Violations) -> Approved {
    found.within("approval", |found| {
        short(&given.call_digest, "call_digest", found);
        let counted = (1..=MAX_APPROVERS).contains(&given.approvers.len());
        found.require(counted, "approvers", format!("must be 1 to {MAX_APPROVERS}"));
        for (index, name) in given.approvers.iter().take(MAX_APPROVERS).enumerate() {
            let fits = (1..=MAX_ID).contains(&name.len()) && !name.chars().any(char::is_control);
            let at = format!("approvers[{index}]");
            found.require(fits, &at, format!("must be 1 to {MAX_ID} bytes without control characters"));
        }
        Approved { call_digest: given.call_digest, approvers: given.approvers.into_iter().collect() }
    })
}

/// What somebody brings as a result. Who made its parts is not for a request to say; what taints them is where the runtime
/// itself brings them.
pub(super) fn brought(result: ToolResult, found: &mut Violations) -> Answer {
    let mut answer = Answer { is_error: result.is_error, truncated: result.truncated, ..Answer::default() };
    found.within("result", |found| {
        for (index, part) in result.content.into_iter().enumerate() {
            let size = match &part.content {
                Some(part::Content::Text(text)) => Some(text.len()),
                Some(part::Content::Media(media)) => match &media.source {
                    Some(media::Source::Inline(bytes)) => Some(bytes.len()),
                    _ => None,
                },
                _ => None,
            };
            found.require(size.is_some(), &format!("content[{index}]"), "must be text or inline media");
            answer.size += size.unwrap_or_default();
            answer.parts.push(Part { content: part.content, origin: Origin::Tool.into(), tainted: part.tainted });
        }
        let fits = answer.size <= MAX_BROUGHT;
        found.require(fits, "content", format!("must be at most {MAX_BROUGHT} bytes together"));
    });
    if answer.parts.is_empty() {
        answer.parts.push(note("[The tool returned nothing.]"));
    }
    answer.passages = result.passages;
    answer
}

/// A result that another run's log holds. Its parts are what session says they are: it has them from this gateway.
pub(super) fn recorded(recorded: pb::RecordedResult, found: &mut Violations) -> Answer {
    found.within("recorded", |found| {
        let size = found.take("size_bytes", usize::try_from(recorded.size_bytes).map_err(|_| "must not be negative"));
        let result = recorded.result.unwrap_or_default();
        found.within("result", |found| {
            let mut inline = 0;
            for (index, part) in result.content.iter().enumerate() {
                let bytes = match &part.content {
                    Some(part::Content::Text(text)) => Some(text.len()),
                    Some(part::Content::Media(media)) => Some(match &media.source {
                        Some(media::Source::Inline(bytes)) => bytes.len(),
                        _ => 0,
                    }),
                    _ => None,
                };
                found.require(bytes.is_some(), &format!("content[{index}]"), "must be text or media");
                inline += bytes.unwrap_or_default();
            }
            let fits = inline <= MAX_RECORDED;
            found.require(fits, "content", format!("must be at most {MAX_RECORDED} bytes together"));
        });
        Answer {
            parts: result.content,
            passages: result.passages,
            is_error: result.is_error,
            size: size.unwrap_or_default(),
            truncated: result.truncated,
        }
    })
}

fn result(call: &Invocation, mut answer: Answer, tainted: bool) -> ToolResult {
    for part in &mut answer.parts {
        part.tainted = tainted && part.origin() == Origin::Tool;
    }
    told(call, answer)
}

fn told(call: &Invocation, answer: Answer) -> ToolResult {
    ToolResult {
        call_id: call.call_id.clone(),
        provider_call_id: String::new(),
        tool: format!("{PREFIX}{}", call.tool),
        is_error: answer.is_error,
        content: answer.parts,
        passages: answer.passages,
        truncated: answer.truncated,
    }
}

/// What became of a result that somebody brought.
pub(super) fn taken(call: &Invocation, outcome: Outcome) -> pb::ReceiveResultResponse {
    use pb::invoke_tool_response::Outcome as Made;
    use pb::receive_result_response::Outcome as Told;
    let made = self::outcome(call, outcome);
    let told = match made.outcome {
        Some(Made::Result(result)) => Some(Told::Result(result)),
        Some(Made::Denied(denied)) => Some(Told::Denied(denied)),
        // A result is taken or refused; nothing is asked or called for it.
        _ => None,
    };
    pb::ReceiveResultResponse {
        outcome: told,
        decision_json: made.decision_json,
        policy_hashes: made.policy_hashes,
        size_bytes: made.size_bytes,
    }
}

pub(super) fn outcome(call: &Invocation, outcome: Outcome) -> pb::InvokeToolResponse {
    use pb::invoke_tool_response::Outcome as Told;
    let Outcome { kind, record, tainted } = outcome;
    let mut size = 0;
    let told = match kind {
        Kind::Answered(answer) => {
            size = answer.size;
            Told::Result(result(call, answer, tainted))
        }
        Kind::Recorded(answer) => {
            size = answer.size;
            Told::Result(self::told(call, answer))
        }
        Kind::Probed(probed) => {
            size = probed.evidence.size;
            Told::Probed(pb::Probed {
                answer: probed.answer.into(),
                result: probed.result.map(|answer| result(call, answer, tainted)),
                evidence: Some(result(call, probed.evidence, tainted)),
            })
        }
        Kind::Denied(denial) => Told::Denied(pb::Denied { reason: denial.reason.to_owned(), message: denial.message }),
        Kind::ApprovalRequired { digest, message, terms } => Told::ApprovalRequired(pb::ApprovalRequired {
            call_digest: digest.to_string(),
            message,
            group: terms.group.unwrap_or_default(),
            needed: i32::try_from(terms.needed).unwrap_or(i32::MAX),
            expires_after: prost_types::Duration::try_from(terms.expires_after).ok(),
        }),
        Kind::HandedOver(executor) => Told::HandedOver(pb::HandedOver { executor: executor.into() }),
        Kind::Failed(failure) => Told::Failed(pb::Failed {
            reason: failure.reason.as_str().to_owned(),
            message: failure.message,
            dispatch: failure.dispatch.into(),
        }),
    };
    pb::InvokeToolResponse {
        outcome: Some(told),
        decision_json: record.to_json(),
        policy_hashes: record.policy_hashes(),
        size_bytes: i64::try_from(size).unwrap_or(i64::MAX),
    }
}
