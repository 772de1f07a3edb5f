use std::sync::Arc;

use crate::decision::{Approval, Decision, Effect, Failure, Guidance, PolicyRef, RuleRef, Verdict};
use crate::engine::Findings;
use crate::layer::{Layer, PolicyText};
use crate::policy::approval;
use crate::policy::rule::Rule;
use crate::policy::{Policy, Violation};
use crate::request::arguments::Reads;
use crate::request::cedar::CedarRequest;
use crate::request::{Point, Request};
use crate::room;

/// The policies that bind a decision, from the platform down. Each of them must allow.
#[derive(Debug, Clone, Default)]
pub struct Stack {
    policies: Vec<Arc<Policy>>,
}

impl Stack {
    /// Orders policies by layer; within a layer they keep their order.
    pub fn new(policies: impl IntoIterator<Item = Arc<Policy>>) -> Self {
        let mut policies: Vec<_> = policies.into_iter().collect();
        policies.sort_by_key(|policy| policy.layer());
        Self { policies }
    }

    /// Parses each text and stacks them.
    ///
    /// # Errors
    /// The violations of all texts at once.
    pub fn parse(texts: impl IntoIterator<Item = PolicyText>) -> Result<Self, Vec<Violation>> {
        let mut policies = Vec::new();
        let mut violations = Vec::new();
        for text in texts {
            match Policy::parse(text) {
                Ok(policy) => policies.push(Arc::new(policy)),
                Err(found) => violations.extend(found),
            }
        }
        if violations.is_empty() { Ok(Self::new(policies)) } else { Err(violations) }
    }

    /// The policies, from the platform down.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.iter().map(Arc::as_ref)
    }

    /// The texts to seal into a descriptor, from the platform down.
    pub fn texts(&self) -> impl Iterator<Item = &PolicyText> {
        self.policies().map(Policy::text)
    }

    /// Decides under this stack alone, as where a session begins or an agent is synthesised.
    pub fn decide(&self, request: &Request) -> Decision {
        Weighing::new(self, None).decide(request)
    }

    fn references(&self) -> Vec<PolicyRef> {
        self.policies().map(Policy::reference).collect()
    }

    fn has_platform(&self) -> bool {
        self.policies().any(|policy| policy.layer() == Layer::Platform)
    }

    fn holds(&self, hash: &str) -> bool {
        self.policies().any(|policy| policy.hash() == hash)
    }
}

/// Decides under what was sealed and what the platform says now: both must allow, so that a tightened platform binds
/// runs that are under way and a loosened one does not reach them.
pub fn decide_both(sealed: &Stack, current_platform: &Stack, request: &Request) -> Decision {
    Weighing::new(sealed, Some(current_platform)).decide(request)
}

/// One decision in the making.
struct Weighing<'a> {
    sealed: &'a Stack,
    current: Option<&'a Stack>,
    permits: Vec<(&'a Policy, &'a Rule)>,
    forbids: Vec<(&'a Policy, &'a Rule)>,
    log_only: Vec<RuleRef>,
    log_only_errors: Vec<Failure>,
    unpermitted: Vec<PolicyRef>,
    errors: Vec<Failure>,
}

impl<'a> Weighing<'a> {
    fn new(sealed: &'a Stack, current: Option<&'a Stack>) -> Self {
        Self {
            sealed,
            current,
            permits: Vec::new(),
            forbids: Vec::new(),
            log_only: Vec::new(),
            log_only_errors: Vec::new(),
            unpermitted: Vec::new(),
            errors: Vec::new(),
        }
    }

    fn decide(mut self, request: &Request) -> Decision {
        self.require_platform();
        let policies = self.policies();
        let reads = policies.iter().map(|policy| policy.reads).fold(Reads::default(), Reads::union);
        match CedarRequest::build(request, reads) {
            Ok(built) => {
                let depth = policies.iter().map(|policy| policy.depth).max();
                room::with_room_for(depth.unwrap_or_default(), || {
                    policies.iter().for_each(|policy| self.weigh(policy, &built));
                });
            }
            Err(message) => self.errors.push(Failure { rule: None, message }),
        }
        self.conclude(request)
    }

    fn require_platform(&mut self) {
        let stacks = [("sealed", Some(self.sealed)), ("current", self.current)];
        for (name, stack) in stacks {
            if stack.is_some_and(|stack| !stack.has_platform()) {
                self.errors.push(Failure { rule: None, message: format!("the {name} layers hold no platform policy") });
            }
        }
    }

    /// Each policy once: mostly the current platform is the sealed one.
    fn policies(&self) -> Vec<&'a Policy> {
        let sealed = self.sealed;
        let current = self.current.into_iter().flat_map(Stack::policies);
        let changed = current.filter(|policy| !sealed.holds(policy.hash()));
        sealed.policies().chain(changed).collect()
    }

    fn weigh(&mut self, policy: &'a Policy, request: &CedarRequest) {
        let Findings { satisfied, errors } = policy.engine.enforced(request);
        let rules = self.resolve(policy, satisfied.iter());
        if rules.is_empty() && errors.is_empty() {
            self.unpermitted.push(policy.reference());
        }
        for rule in rules {
            match rule.effect {
                Effect::Permit => self.permits.push((policy, rule)),
                Effect::Forbid => self.forbids.push((policy, rule)),
            }
        }
        self.errors.extend(failures(policy, errors));

        let Findings { satisfied, errors } = policy.engine.observed(request);
        let rules = self.resolve(policy, satisfied.iter());
        self.log_only.extend(rules.into_iter().map(|rule| policy.rule_reference(rule)));
        self.log_only_errors.extend(failures(policy, errors));
    }

    /// The rules behind Cedar's ids, in the order of the text.
    fn resolve<'i>(
        &mut self,
        policy: &'a Policy,
        ids: impl Iterator<Item = &'i cedar_policy::PolicyId>,
    ) -> Vec<&'a Rule> {
        let mut rules = Vec::new();
        for id in ids {
            match policy.rule(id) {
                Some(rule) => rules.push(rule),
                None => self.errors.push(Failure {
                    rule: None,
                    message: format!("{} answered with an unknown rule {id}", policy.text().name),
                }),
            }
        }
        rules.sort_by_key(|rule| rule.position);
        rules
    }

    fn conclude(self, request: &Request) -> Decision {
        let denied = !(self.forbids.is_empty() && self.unpermitted.is_empty() && self.errors.is_empty());
        // Only a call can wait for people. Anywhere else a permit that asks for approval of calls is a plain one.
        let waits = request.point() == Point::CallTool;
        let asked = self.permits.iter().copied().filter(|(_, rule)| waits && rule.approval.is_some());
        let asked: Vec<_> = asked.collect();
        let (verdict, determining) = if denied || self.permits.is_empty() {
            (Verdict::Deny, self.forbids)
        } else if asked.is_empty() {
            (Verdict::Allow, self.permits)
        } else {
            (Verdict::RequireApproval, asked)
        };
        let approval = (verdict == Verdict::RequireApproval).then(|| terms(determining.clone(), self.current));
        let guidance = determining.iter().find_map(|(_, rule)| rule.guidance);
        Decision {
            point: request.point(),
            verdict,
            guidance: guidance.or((verdict == Verdict::Deny).then_some(Guidance::Refuse)),
            message: determining.iter().find_map(|(_, rule)| rule.message.clone()),
            approval,
            facts: request.clone(),
            policies: self.sealed.references(),
            current: self.current.map(Stack::references).unwrap_or_default(),
            determining: determining.into_iter().map(|(policy, rule)| policy.rule_reference(rule)).collect(),
            unpermitted: self.unpermitted,
            log_only: self.log_only,
            log_only_errors: self.log_only_errors,
            errors: self.errors,
        }
    }
}

/// The group is that of the upper layer, so that a lower one cannot put its own in its place; of the platform's layers
/// that of the current one, whose operator knows who is there to approve; within a policy the first by id.
fn terms(mut asked: Vec<(&Policy, &Rule)>, current: Option<&Stack>) -> Approval {
    let is_current = |policy: &Policy| current.is_some_and(|current| current.holds(policy.hash()));
    asked.sort_by_key(|(policy, rule)| (policy.layer(), !is_current(policy), rule.name.clone()));
    approval::strictest(&asked)
}

fn failures(policy: &Policy, errors: Vec<(cedar_policy::PolicyId, String)>) -> Vec<Failure> {
    let mut errors: Vec<_> = errors.into_iter().map(|(id, message)| (policy.rule(&id), message)).collect();
    errors.sort_by_key(|(rule, _)| rule.map(|rule| rule.position));
    errors
        .into_iter()
        .map(|(rule, message)| Failure { rule: rule.map(|rule| policy.rule_reference(rule)), message })
        .collect()
}
