//! One round over the models: each once, those of providers in trouble last.

use std::collections::BTreeSet;

use super::Choice;
use crate::provider::FailureClass;

/// The models that are left in a round, best first.
#[derive(Debug)]
pub struct Round {
    left: Vec<Choice>,
    troubled: BTreeSet<String>,
}

impl Round {
    /// A round over these, best first.
    pub fn new(choices: Vec<Choice>) -> Self {
        Self { left: choices, troubled: BTreeSet::new() }
    }

    /// The next model to try. What `usable` refuses is dropped: nobody would be called.
    pub fn next(&mut self, usable: impl Fn(&Choice) -> bool) -> Option<Choice> {
        self.left.retain(usable);
        let calm = self.left.iter().position(|choice| !self.troubled.contains(&choice.model.provider));
        (!self.left.is_empty()).then(|| self.left.remove(calm.unwrap_or(0)))
    }

    /// Takes a failure into account: where it is the provider's and not the model's, other providers come first.
    pub fn note(&mut self, provider: &str, class: FailureClass) {
        let whole = match class {
            FailureClass::Credential | FailureClass::RateLimited | FailureClass::Unavailable => true,
            FailureClass::Refused | FailureClass::Broken => false,
        };
        if whole {
            self.troubled.insert(provider.to_owned());
        }
    }
}
