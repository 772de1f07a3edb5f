//! Admit, then order: the one code path that both SelectModel and dispatch take. Pure and repeatable bit for bit.

use std::sync::Arc;

use mar_descriptor::TrustTier;

use crate::admission::{Circumstances, Rejection, Requirement, admit};
use crate::catalogue::{Catalogue, Model};
use crate::policy::RoutingPolicy;
use crate::score::{Term, terms, total};

/// What the moment adds, for all models.
pub struct Moment<'a> {
    /// The least tier that the caller's environment asks for.
    pub environment_tier: TrustTier,
    /// What is wrong with a provider's credential, if anything. Nothing ever, where the outcome is to be sealed.
    pub credential: &'a dyn Fn(&str) -> Option<String>,
    /// The input in tokens as the model would read it.
    pub input_tokens: &'a dyn Fn(&Model) -> i64,
}

/// One model's fit.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The model.
    pub model: Arc<Model>,
    /// Every hard constraint that it fails; none: admitted.
    pub rejections: Vec<Rejection>,
    /// In millionths; 0 when not admitted.
    pub score_micros: i64,
    /// What the score is made of; empty when not admitted.
    pub terms: Vec<Term>,
}

impl Candidate {
    /// Whether it passes every hard constraint.
    pub fn admitted(&self) -> bool {
        self.rejections.is_empty()
    }
}

/// Every model of the catalogue: the admitted ones, best first, then the others by name. Equal scores go by name.
pub fn select(
    catalogue: &Catalogue,
    policy: &RoutingPolicy,
    task_type: &str,
    wish: &Requirement,
    moment: &Moment<'_>,
) -> Vec<Candidate> {
    let weights = policy.weights(task_type);
    let only_rehearsal = catalogue.only_rehearsal();
    let mut candidates: Vec<_> = catalogue
        .models()
        .iter()
        .map(|model| {
            let credential = (moment.credential)(&model.provider);
            let now = Circumstances {
                environment_tier: moment.environment_tier,
                only_rehearsal,
                credential: credential.as_deref(),
                input_tokens: (moment.input_tokens)(model),
            };
            let rejections = admit(model, wish, &now);
            let terms = if rejections.is_empty() { terms(model, weights, task_type).to_vec() } else { Vec::new() };
            Candidate { model: Arc::clone(model), score_micros: total(&terms), rejections, terms }
        })
        .collect();
    // The catalogue is in the order of names and the sort is stable.
    candidates.sort_by_key(|candidate| (!candidate.admitted(), -candidate.score_micros));
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{BALANCED, PolicyConfig, Weights};

    fn run(policy: &RoutingPolicy, wish: &Requirement) -> Vec<Candidate> {
        let catalogue = Catalogue::built_in().unwrap();
        let moment =
            Moment { environment_tier: TrustTier::Unverified, credential: &|_| None, input_tokens: &|_| 1_000 };
        select(&catalogue, policy, "", wish, &moment)
    }

    fn lines(candidates: &[Candidate]) -> String {
        let line = |candidate: &Candidate| {
            let rejections: Vec<_> = candidate.rejections.iter().map(ToString::to_string).collect();
            format!("{} {} {}\n", candidate.model.name, candidate.score_micros, rejections.join("; "))
        };
        candidates.iter().map(line).collect()
    }

    #[test]
    fn the_order_is_pinned() {
        let policy = RoutingPolicy::new(BALANCED, PolicyConfig::default());
        let wish = Requirement {
            tools: true,
            output_tokens: 1_000,
            max_cost_nano_usd: Some(5_000_000),
            ..Requirement::default()
        };
        insta::assert_snapshot!(lines(&run(&policy, &wish)), @r"
        models/gpt-4o-mini 717623 
        models/gpt-4.1-mini 716470 
        models/gpt-5-mini 697777 
        models/gpt-4.1-nano 695318 
        models/gpt-5-nano 683736 
        models/qwen2.5-coder-1.5b 440000 
        models/qwen2.5-coder-0.5b 390000 
        models/gpt-4.1 0 PRICE: may cost 10000000 nano-USD, allowed are 5000000
        models/gpt-4o 0 PRICE: may cost 12500000 nano-USD, allowed are 5000000
        models/gpt-5 0 PRICE: may cost 11250000 nano-USD, allowed are 5000000
        models/gpt-5.1 0 PRICE: may cost 11250000 nano-USD, allowed are 5000000
        models/gpt-5.2 0 PRICE: may cost 15750000 nano-USD, allowed are 5000000
        models/o3 0 PRICE: may cost 10000000 nano-USD, allowed are 5000000
        models/o4-mini 0 PRICE: may cost 5500000 nano-USD, allowed are 5000000
        models/rehearsal 0 REHEARSAL: is a scripted stand-in and none was asked for
        models/rehearsal-constrained 0 REHEARSAL: is a scripted stand-in and none was asked for
        ");
    }

    #[test]
    fn the_same_question_gets_the_same_answer() {
        let policy = RoutingPolicy::new(BALANCED, PolicyConfig::default());
        let first = lines(&run(&policy, &Requirement::default()));
        for _ in 0..10 {
            assert_eq!(lines(&run(&policy, &Requirement::default())), first);
        }
    }

    #[test]
    fn weights_decide() {
        let only = |weights| {
            let config = PolicyConfig { weights, ..PolicyConfig::default() };
            let best = run(&RoutingPolicy::new("only", config), &Requirement::default());
            best[0].model.name.clone()
        };
        let none = Weights { quality: 0, price: 0, latency: 0 };
        assert_eq!(only(Weights { quality: 1_000_000, ..none }), "models/gpt-5.2");
        assert_eq!(only(Weights { price: 1_000_000, ..none }), "models/qwen2.5-coder-0.5b");
        // Equal values go by name.
        assert_eq!(only(Weights { latency: 1_000_000, ..none }), "models/gpt-4.1-mini");
    }
}
