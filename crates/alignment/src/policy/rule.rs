use std::collections::BTreeMap;

use cedar_policy::Policy;

use super::approval::{self, Terms};
use crate::decision::{Effect, Guidance};
use crate::request::arguments::Reads;

const MAX_ANNOTATION_CHARS: usize = 500;
const MAX_ID_CHARS: usize = 64;

/// What a rule's annotations say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Where it stands in its policy, from 0.
    pub position: usize,
    /// Its `@id`, or `policy<position>`.
    pub name: String,
    pub effect: Effect,
    /// A forbid that is recorded and not enforced.
    pub log_only: bool,
    /// What a permit asks for that lets a call go ahead only once it is approved.
    pub approval: Option<Terms>,
    pub guidance: Option<Guidance>,
    pub message: Option<String>,
}

impl Rule {
    /// Reads a rule's annotations; the errors are sentences, all of them.
    pub(super) fn read(policy: &Policy) -> Result<Self, Vec<String>> {
        let mut notes: BTreeMap<&str, &str> = policy.annotations().collect();
        let mut errors = Vec::new();
        let effect = match policy.effect() {
            cedar_policy::Effect::Permit => Effect::Permit,
            cedar_policy::Effect::Forbid => Effect::Forbid,
        };
        let generated = policy.id().to_string();
        let name = notes.remove("id").unwrap_or(&generated).to_owned();
        if !is_id(&name) {
            errors.push(format!(
                "@id holds 1 to {MAX_ID_CHARS} of a-z, 0-9, '.', '-' and '_', beginning with a letter or digit"
            ));
        }
        let asks = asks_approval(effect, notes.remove("verdict"), &mut errors);
        if asks && !approval::may_apply(policy) {
            errors.push(
                "@verdict(\"require_approval\") belongs to a permit of callTool: nothing else can wait".to_owned(),
            );
        }
        let approval = approval::read(asks, &mut notes, &mut errors);
        let log_only = log_only(effect, notes.remove("mode"), &mut errors);
        let guidance = guidance(notes.remove("guidance"), &mut errors);
        let message = notes.remove("message").map(str::to_owned);
        if (guidance.is_some() || message.is_some()) && effect == Effect::Permit && !asks {
            errors.push("@guidance and @message belong to a forbid or to a permit that requires approval".to_owned());
        }
        if message.as_deref().is_some_and(|text| text.is_empty() || text.chars().count() > MAX_ANNOTATION_CHARS) {
            errors.push(format!("@message holds 1 to {MAX_ANNOTATION_CHARS} characters"));
        }
        notes.remove("description");
        errors.extend(notes.keys().map(|key| {
            format!(
                "unknown annotation @{key}: there are @id, @verdict, @approvers, @approvals, @expires, @mode, @guidance, \
                 @message and @description"
            )
        }));
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            position: generated.trim_start_matches("policy").parse().unwrap_or(usize::MAX),
            name,
            effect,
            log_only,
            approval,
            guidance,
            message,
        })
    }
}

fn asks_approval(effect: Effect, note: Option<&str>, errors: &mut Vec<String>) -> bool {
    match (effect, note) {
        (_, None) | (Effect::Permit, Some("allow")) | (Effect::Forbid, Some("deny")) => false,
        (Effect::Permit, Some("require_approval")) => true,
        (Effect::Permit, Some(_)) => {
            errors.push("@verdict of a permit is \"allow\" or \"require_approval\"".to_owned());
            false
        }
        (Effect::Forbid, Some(_)) => {
            errors.push("@verdict of a forbid is \"deny\"".to_owned());
            false
        }
    }
}

fn log_only(effect: Effect, note: Option<&str>, errors: &mut Vec<String>) -> bool {
    match (effect, note) {
        (_, None | Some("enforce")) => false,
        (Effect::Forbid, Some("log_only")) => true,
        (Effect::Permit, Some("log_only")) => {
            errors.push("@mode(\"log_only\") belongs to a forbid: a permit has no effect to hold back".to_owned());
            false
        }
        (_, Some(_)) => {
            errors.push("@mode is \"enforce\" or \"log_only\"".to_owned());
            false
        }
    }
}

fn guidance(note: Option<&str>, errors: &mut Vec<String>) -> Option<Guidance> {
    match note? {
        "refuse" => Some(Guidance::Refuse),
        "ask" => Some(Guidance::Ask),
        "hand_over" => Some(Guidance::HandOver),
        "continue_without" => Some(Guidance::ContinueWithout),
        _ => {
            errors.push("@guidance is \"refuse\", \"ask\", \"hand_over\" or \"continue_without\"".to_owned());
            None
        }
    }
}

fn is_id(name: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= MAX_ID_CHARS
        && name.as_bytes().first().is_some_and(plain)
        && name.bytes().all(|byte| plain(&byte) || matches!(byte, b'.' | b'-' | b'_'))
}

/// Which costly facts a rule may read. A rule that has no JSON form counts as reading all of them.
pub(super) fn reads(policy: &Policy) -> Reads {
    let form = policy.to_json().map(|form| form.to_string()).ok();
    let reads = |name: &str| form.as_deref().is_none_or(|form| form.contains(&format!("\"{name}\"")));
    Reads { names: reads("argument_names"), text: reads("argument_text"), values: reads("arguments") }
}
