use std::collections::HashMap;
use std::sync::LazyLock;

use cedar_policy::{
    ActionConstraint, AuthorizationError, Authorizer, EntityUid, PolicyId, PolicySet, ResourceConstraint,
};

use crate::policy::rule::Rule;
use crate::request::Point;
use crate::request::cedar::CedarRequest;
use crate::schema::vocabulary;

static AUTHORIZER: LazyLock<Authorizer> = LazyLock::new(Authorizer::new);

/// A policy's rules, sorted by what they can apply to: Cedar's evaluation is linear in the rules that it is given.
#[derive(Debug)]
pub(crate) struct Engine {
    slices: HashMap<Point, Slice>,
}

/// The rules for one decision point.
#[derive(Debug, Default)]
struct Slice {
    enforced: Rules,
    /// Log-only forbids. Kept apart, because Cedar lets every forbid that it is given forbid.
    observed: Rules,
}

#[derive(Debug, Default)]
struct Rules {
    general: PolicySet,
    /// Rules whose scope names one resource, or the upstream that it is in.
    named: HashMap<EntityUid, PolicySet>,
}

/// What a set of rules says to a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// The rules that are satisfied. Permits are left out where a forbid is satisfied.
    pub satisfied: Vec<PolicyId>,
    /// The rules that could not be evaluated, and why.
    pub errors: Vec<(PolicyId, String)>,
}

impl Engine {
    pub(crate) fn compile(set: &PolicySet, rules: &HashMap<PolicyId, Rule>) -> Result<Self, String> {
        let words = vocabulary()?;
        let mut slices = HashMap::new();
        for point in Point::ALL {
            let action = words.action(point)?;
            let mut slice = Slice::default();
            for policy in set.policies() {
                let rule = rules.get(policy.id()).ok_or("a rule without its annotations")?;
                if applies(&policy.action_constraint(), &action) {
                    let rules = if rule.log_only { &mut slice.observed } else { &mut slice.enforced };
                    rules.add(policy.clone())?;
                }
            }
            slices.insert(point, slice);
        }
        Ok(Self { slices })
    }

    /// What the rules in force say.
    pub(crate) fn enforced(&self, request: &CedarRequest) -> Findings {
        self.findings(request, |slice| &slice.enforced)
    }

    /// What the log-only rules would say.
    pub(crate) fn observed(&self, request: &CedarRequest) -> Findings {
        self.findings(request, |slice| &slice.observed)
    }

    fn findings(&self, request: &CedarRequest, pick: fn(&Slice) -> &Rules) -> Findings {
        let mut findings = Findings::default();
        if let Some(slice) = self.slices.get(&request.point) {
            pick(slice).evaluate(request, &mut findings);
        }
        findings
    }
}

impl Rules {
    fn add(&mut self, policy: cedar_policy::Policy) -> Result<(), String> {
        let set = match policy.resource_constraint() {
            ResourceConstraint::Any | ResourceConstraint::Is(_) => &mut self.general,
            ResourceConstraint::In(uid) | ResourceConstraint::Eq(uid) | ResourceConstraint::IsIn(_, uid) => {
                self.named.entry(uid).or_default()
            }
        };
        set.add(policy).map_err(|error| error.to_string())
    }

    fn evaluate(&self, request: &CedarRequest, findings: &mut Findings) {
        let named = request.resources.iter().filter_map(|uid| self.named.get(uid));
        for set in std::iter::once(&self.general).chain(named) {
            if set.is_empty() {
                continue;
            }
            let response = AUTHORIZER.is_authorized(&request.request, set, &request.entities);
            findings.satisfied.extend(response.diagnostics().reason().cloned());
            for error in response.diagnostics().errors() {
                let AuthorizationError::PolicyEvaluationError(error) = error;
                findings.errors.push((error.policy_id().clone(), error.inner().to_string()));
            }
        }
    }
}

fn applies(constraint: &ActionConstraint, action: &EntityUid) -> bool {
    match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(only) => only == action,
        // The schema has no action groups, so membership is identity.
        ActionConstraint::In(any) => any.contains(action),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use proptest::sample::subsequence;

    use super::*;
    use crate::request::arguments::Reads;
    use crate::{Agent, Arguments, Layer, Policy, PolicyText, Question, Request, RunFacts, Tool};

    const RULES: [&str; 10] = [
        "permit (principal, action, resource);",
        "permit (principal is Agent, action == Action::\"listTool\", resource is Tool);",
        "permit (principal, action in [Action::\"callTool\", Action::\"listTool\"], resource == Tool::\"docs.search\");",
        "permit (principal, action, resource in Upstream::\"docs\");",
        "permit (principal, action, resource is Tool in Upstream::\"mail\");",
        "permit (principal, action, resource in Tool::\"mail.send\");",
        "forbid (principal, action == Action::\"callTool\", resource == Tool::\"mail.send\") when { context.taint };",
        "forbid (principal, action == Action::\"callTool\", resource in Upstream::\"mail\") unless { context.sealed };",
        "forbid (principal, action == Action::\"listTool\", resource == Tool::\"docs.fetch\");",
        "forbid (principal, action, resource == Tool::\"docs.search\") when { context.step * 9223372036854775807 < 0 };",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Cedar over all rules at once is the reference: slicing may not lose a rule or add one.
        #[test]
        fn slices_say_what_the_whole_says(
            rules in subsequence(&RULES[..], 1..=RULES.len()),
            name in proptest::sample::select(vec!["docs.search", "docs.fetch", "mail.send", "mail.list", "docs", "mail"]),
            call in any::<bool>(),
            sealed in any::<bool>(),
            taint in any::<bool>(),
            step in 0..3_u64,
        ) {
            let text = rules.join("\n");
            let whole: PolicySet = text.parse().unwrap();
            let policy = Policy::parse(PolicyText { layer: Layer::Platform, name: "p".to_owned(), version: 1, text }).unwrap();
            let upstream = name.split('.').next().unwrap().to_owned();
            let tool = Tool { name: name.to_owned(), upstream, ..Tool::default() };
            let question = if call {
                Question::CallTool {
                    agent: Agent::default(), tool, sealed, arguments: Arguments::new(serde_json::json!({}), "d", 2),
                }
            } else {
                Question::ListTool { agent: Agent::default(), tool }
            };
            let request = Request::new(question).in_run(RunFacts { step, taint, ..RunFacts::default() });
            let built = CedarRequest::build(&request, Reads::default()).unwrap();

            let reference = AUTHORIZER.is_authorized(&built.request, &whole, &built.entities);
            let sliced = policy.engine.enforced(&built);
            let errors: BTreeSet<_> = sliced.errors.iter().map(|(id, _)| id.to_string()).collect();
            let expected: BTreeSet<_> = reference.diagnostics().errors().map(|error| {
                let AuthorizationError::PolicyEvaluationError(error) = error;
                error.policy_id().to_string()
            }).collect();
            prop_assert_eq!(errors, expected);

            let effect = |id: &PolicyId| whole.policy(id).unwrap().effect();
            let forbids: BTreeSet<_> = sliced.satisfied.iter().filter(|id| effect(id) == cedar_policy::Effect::Forbid).collect();
            let permits: BTreeSet<_> = sliced.satisfied.iter().filter(|id| effect(id) == cedar_policy::Effect::Permit).collect();
            let determining: BTreeSet<_> = reference.diagnostics().reason().collect();
            if forbids.is_empty() {
                prop_assert_eq!(permits, determining);
            } else {
                prop_assert_eq!(forbids, determining);
            }
        }
    }
}
