//! `budget`: keeps system text and examples within the recipe's size. The task's input is no part of it, so that the
//! same agent is sealed for a short and a long question.

use super::{Draft, PromptOptimizerStep};
use crate::recipe::TemplateError;

pub(super) struct BudgetStep;

impl PromptOptimizerStep for BudgetStep {
    fn name(&self) -> &'static str {
        "budget"
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<String, TemplateError> {
        let limit = draft.pick.recipe().prompt_bytes();
        let before = draft.examples.len();
        while draft.static_bytes() > limit && draft.examples.pop().is_some() {}
        let (bytes, left_out) = (draft.static_bytes(), before - draft.examples.len());
        Ok(match (left_out, bytes > limit) {
            (_, true) => format!("left out all examples; the system text alone has {bytes} bytes, more than {limit}"),
            (0, false) => format!("system text and examples have {bytes} of {limit} bytes"),
            (_, false) => format!("left out {left_out} examples to stay within {limit} bytes"),
        })
    }
}
