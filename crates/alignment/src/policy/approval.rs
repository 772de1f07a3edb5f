use std::collections::BTreeMap;
use std::time::Duration;

use cedar_policy::ActionConstraint;

use super::Policy;
use super::rule::Rule;
use crate::decision::Approval;
use crate::request::Point;

const MAX_GROUP_CHARS: usize = 128;
const MAX_APPROVALS: u32 = 16;
const MIN_EXPIRY: Duration = Duration::from_secs(60);
const MAX_EXPIRY: Duration = Duration::from_secs(30 * 24 * 3_600);
const DEFAULT_EXPIRY: Duration = Duration::from_secs(3_600);

/// What one permit asks for before the call may go ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Whose members may approve.
    pub group: Option<String>,
    pub needed: u32,
    pub expires_after: Duration,
}

/// Takes the annotations that belong to a permit which asks for approval; the errors are sentences.
pub(super) fn read(asks: bool, notes: &mut BTreeMap<&str, &str>, errors: &mut Vec<String>) -> Option<Terms> {
    let [group, needed, expires] = ["approvers", "approvals", "expires"].map(|key| notes.remove(key));
    if !asks {
        if group.or(needed).or(expires).is_some() {
            errors.push(
                "@approvers, @approvals and @expires belong to a permit with @verdict(\"require_approval\")".to_owned(),
            );
        }
        return None;
    }
    if group.is_some_and(|group| !is_group(group)) {
        errors.push(format!(
            "@approvers is one group of 1 to {MAX_GROUP_CHARS} characters, without control characters or spaces around it"
        ));
    }
    let approvals = needed.map_or(Some(1), count);
    if approvals.is_none() {
        errors.push(format!("@approvals is a whole number from 1 to {MAX_APPROVALS}"));
    }
    let expiry = expires.map_or(Some(DEFAULT_EXPIRY), span);
    if expiry.is_none() {
        errors.push("@expires is a whole number and s, m, h or d, from \"1m\" to \"30d\"".to_owned());
    }
    Some(Terms { group: group.map(str::to_owned), needed: approvals?, expires_after: expiry? })
}

/// Whether a rule's scope lets it speak of tool calls.
pub(super) fn may_apply(policy: &cedar_policy::Policy) -> bool {
    let is_call = |action: &cedar_policy::EntityUid| action.id().unescaped() == Point::CallTool.as_str();
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(action) => is_call(&action),
        ActionConstraint::In(actions) => actions.iter().any(is_call),
    }
}

fn is_group(group: &str) -> bool {
    (1..=MAX_GROUP_CHARS).contains(&group.chars().count())
        && group.trim() == group
        && !group.chars().any(char::is_control)
}

fn count(text: &str) -> Option<u32> {
    digits(text)?.try_into().ok().filter(|count| (1..=MAX_APPROVALS).contains(count))
}

fn span(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 24 * 3_600,
        _ => return None,
    };
    let span = Duration::from_secs(digits(number)?.checked_mul(seconds)?);
    (MIN_EXPIRY..=MAX_EXPIRY).contains(&span).then_some(span)
}

/// A number in its one spelling, so that `+1` and `01` are not taken for it.
fn digits(text: &str) -> Option<u64> {
    let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

/// The most approvals, the shortest time and the first group of rules that all ask for approval.
pub(crate) fn strictest(asked: &[(&Policy, &Rule)]) -> Approval {
    let terms = || asked.iter().filter_map(|(_, rule)| rule.approval.as_ref());
    let mut approval = Approval {
        group: None,
        group_rule: None,
        other_groups: Vec::new(),
        needed: terms().map(|terms| terms.needed).max().unwrap_or(1),
        expires_after: terms().map(|terms| terms.expires_after).min().unwrap_or(DEFAULT_EXPIRY),
    };
    for (policy, rule) in asked {
        let Some(group) = rule.approval.as_ref().and_then(|terms| terms.group.as_ref()) else { continue };
        match &approval.group {
            None => {
                approval.group = Some(group.clone());
                approval.group_rule = Some(policy.rule_reference(rule));
            }
            Some(first) if first != group => approval.other_groups.push(policy.rule_reference(rule)),
            Some(_) => {}
        }
    }
    approval
}
