use std::collections::HashMap;
use std::sync::LazyLock;

use cedar_policy::{
    ActionConstraint, AuthorizationError, Authorizer, EntityUid, PolicyId, PolicySet,
    ResourceConstraint,
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
    pub(crate) fn compile(
        set: &PolicySet,
        rules: &HashMap<PolicyId, Rule>,
    ) -> Result<Self, String> {
        let words = vocabulary()?;
        let mut slices = HashMap::new();
        for point in Point::ALL {
            let action = words.action(point)?;
            let mut slice = Slice::default();
            for policy in set.policies() {
                let rule = rules
                    .get(policy.id())
                    .ok_or("a rule without its annotations")?;
                if applies(&policy.action_constraint(), &action) {
                    let rules = if rule.log_only {
                        &mut slice.observed
                    } else {
                        &mut slice.enforced
                    };
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
            ResourceConstraint::In(uid)
            | ResourceConstraint::Eq(uid)
            | ResourceConstraint::IsIn(_, uid) => self.named.entry(uid).or_default(),
        };
        set.add(policy).map_err(|error| error.to_string())
    }

    fn evaluate(&self, request: &CedarRequest, findings: &mut Findings) {
        let named = request
            .resources
            .iter()
            .filter_map(|uid| self.named.get(uid));
        for set in std::iter::once(&self.general).chain(named) {
            if set.is_empty() {
                continue;
            }
            let response = AUTHORIZER.is_authorized(&request.request, set, &request.entities);
            findings
                .satisfied
                .extend(response.diagnostics().reason().cloned());
            for error in response.diagnostics().errors() {
                let AuthorizationError::PolicyEvaluationError(error) = error;
                findings
                    .errors
                    .push((error.policy_id().clone(), error.inner().to_string()));
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
