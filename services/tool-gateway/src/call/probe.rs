//! Asking whether a call took effect.
//!
//! The probe that the descriptor seals for the tool is called with the key of the call in doubt, under the checks of any
//! call. It answers one JSON object: `{"outcome": "HAPPENED", "result": …}`, where `result` is what the call had answered
//! as far as it knows, or `{"outcome": "DID_NOT_HAPPEN"}`, or `{"outcome": "UNKNOWN"}`. Whatever else it answers means that
//! nobody knows. What it says that the call had answered passes the policies as that call's result.

use mar_alignment::{Tool, TrustTier};
use mar_descriptor::Hash;
use mar_proto::tool::ProbeAnswer;
use mar_proto::types::{Origin, part};
use serde_json::{Value, json};

use super::{Aim, Denial, Dispatcher, Invocation, Kind, Outcome, Record, result, upstream_of};
use crate::outcome::{Answer, tool_text};

/// What a probe says of a call.
#[derive(Debug)]
pub struct Probed {
    /// Whether it took effect.
    pub answer: ProbeAnswer,
    /// What the call had answered, where it did.
    pub result: Option<Answer>,
    /// The probe's own answer.
    pub evidence: Answer,
}

/// What is sealed about the tool of a call.
pub(super) struct Pin {
    pub definition_hash: Hash,
    pub read_only: bool,
    pub idempotent: bool,
}

impl Pin {
    pub(super) fn of(call: &Invocation) -> Result<Self, Kind> {
        if let Aim::Probe(definition_hash) = call.aim {
            return Ok(Self { definition_hash, read_only: true, idempotent: true });
        }
        let sealed = call.sealed.descriptor().agent.tool(&call.tool);
        let sealed = sealed.ok_or_else(|| Denial::told("TOOL_NOT_SEALED", "this agent does not have this tool"))?;
        Ok(Self { definition_hash: sealed.definition_hash, read_only: sealed.read_only, idempotent: sealed.idempotent })
    }
}

impl Dispatcher {
    /// Asks the probe of the call's tool.
    pub(super) async fn ask(&self, call: &Invocation) -> Outcome {
        let Some(question) = question(call) else {
            let mut record = Record::new(call);
            let kind = Denial::told("NO_PROBE", "no probe is sealed for this tool");
            record.conclude(&kind);
            return Outcome { kind, record, tainted: false };
        };
        let outcome = self.make(&question).await;
        let mut record = outcome.record;
        let kind = match outcome.kind {
            Kind::Answered(evidence) => {
                let mut probed = read(evidence);
                probed.result = probed.result.map(|result| self.receive_told(call, result, &mut record));
                Kind::Probed(Box::new(probed))
            }
            // A probe is asked without people: what a policy wants approved cannot be asked.
            Kind::ApprovalRequired { .. } => Denial::told("POLICY_DENIED", "a human would have to approve the probe"),
            other => other,
        };
        Outcome { kind, record, tainted: outcome.tainted }
    }

    /// What the probe tells of the call is its result, whoever says it: it passes as one.
    fn receive_told(&self, call: &Invocation, result: Answer, record: &mut Record) -> Answer {
        let sealed = call.sealed.descriptor().agent.tool(&call.tool);
        let upstream = self.registry.find(&call.tool).map(|(upstream, _)| upstream);
        let tool = Tool {
            name: call.tool.clone(),
            upstream: upstream_of(&call.tool).to_owned(),
            read_only: sealed.is_some_and(|sealed| sealed.read_only),
            idempotent: sealed.is_some_and(|sealed| sealed.idempotent),
            trust_tier: upstream.map_or(TrustTier::Unverified, |upstream| upstream.config.trust_tier()),
        };
        let decision = self.decide_result(call, tool, &result);
        let told = if decision.is_allowed() { result } else { result::withheld(&result, &decision) };
        record.doubted_received(decision);
        told
    }
}

/// The call of the probe. It carries no key of its own: an answer that the upstream remembers would be of the past.
fn question(call: &Invocation) -> Option<Invocation> {
    let probe = call.sealed.descriptor().agent.tool(&call.tool)?.doubt.as_ref()?.probe.as_ref()?;
    Some(Invocation {
        caller: call.caller.clone(),
        sealed: call.sealed.clone(),
        call_id: call.call_id.clone(),
        tool: probe.tool.clone(),
        arguments_json: json!({ probe.key_argument.as_str(): call.idempotency_key }).to_string(),
        idempotency_key: String::new(),
        facts: call.facts.clone(),
        approval: None,
        definition: None,
        recorded: None,
        remaining: call.remaining,
        aim: Aim::Probe(probe.definition_hash),
    })
}

/// What a probe's answer says.
fn read(evidence: Answer) -> Probed {
    let said = said(&evidence);
    let (answer, result) = match said.as_ref().and_then(|said| said.get("outcome")).and_then(Value::as_str) {
        Some("HAPPENED") => (ProbeAnswer::Happened, said.as_ref().map(|said| happened(said.get("result")))),
        Some("DID_NOT_HAPPEN") => (ProbeAnswer::DidNotHappen, None),
        _ => (ProbeAnswer::Unknown, None),
    };
    Probed { answer, result, evidence }
}

/// The one JSON object that the probe answers; `None` for an error, for anything cut, and for anything else.
fn said(evidence: &Answer) -> Option<Value> {
    if evidence.is_error || evidence.truncated {
        return None;
    }
    let mut texts = evidence.parts.iter().filter(|part| part.origin() == Origin::Tool);
    let (Some(only), None) = (texts.next(), texts.next()) else { return None };
    let Some(part::Content::Text(text)) = &only.content else { return None };
    // Doubled keys would let two readers see two answers.
    super::arguments::parse(text).ok()
}

/// What the model is told of a call that took effect.
fn happened(result: Option<&Value>) -> Answer {
    let text = match result {
        None | Some(Value::Null) => "The call took effect. What it answered is not known.".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    Answer { size: text.len(), parts: vec![tool_text(text)], ..Answer::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        Answer { parts: vec![tool_text(text)], ..Answer::default() }
    }

    fn text(answer: &Answer) -> &str {
        match &answer.parts[0].content {
            Some(part::Content::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_probe_that_answers_in_its_form_is_understood() {
        let happened = read(answer(r#" {"outcome": "HAPPENED", "result": "sent as 42"} "#));
        assert_eq!((happened.answer, text(happened.result.as_ref().unwrap())), (ProbeAnswer::Happened, "sent as 42"));
        let happened = read(answer(r#"{"outcome": "HAPPENED", "result": {"id": 42}}"#));
        assert_eq!(text(happened.result.as_ref().unwrap()), r#"{"id":42}"#);
        let happened = read(answer(r#"{"outcome": "HAPPENED"}"#));
        assert!(text(happened.result.as_ref().unwrap()).contains("took effect"));
        let not = read(answer(r#"{"outcome": "DID_NOT_HAPPEN", "result": "ignored"}"#));
        assert!(not.answer == ProbeAnswer::DidNotHappen && not.result.is_none());
    }

    #[test]
    fn whatever_else_a_probe_answers_means_that_nobody_knows() {
        for odd in [
            "",
            "HAPPENED",
            "true",
            r#"["HAPPENED"]"#,
            r#"{"outcome": "happened"}"#,
            r#"{"outcome": true}"#,
            r#"{"outcome": "UNKNOWN"}"#,
            r#"{"outcome": "DID_NOT_HAPPEN", "outcome": "HAPPENED"}"#,
            r#"{"outcome": "HAPPENED"} and more"#,
        ] {
            let probed = read(answer(odd));
            assert!(probed.answer == ProbeAnswer::Unknown && probed.result.is_none(), "{odd}");
        }
        let happened = answer(r#"{"outcome": "HAPPENED"}"#);
        let error = Answer { is_error: true, ..happened.clone() };
        let cut = Answer { truncated: true, ..happened.clone() };
        let twice = Answer { parts: [happened.parts.clone(), happened.parts].concat(), ..Answer::default() };
        for odd in [error, cut, twice, Answer::default()] {
            assert_eq!(read(odd).answer, ProbeAnswer::Unknown);
        }
    }
}
