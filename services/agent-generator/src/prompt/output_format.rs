//! `output-format`: decides what the answer has to fit.

use super::{Draft, PromptOptimizerStep};
use crate::recipe::TemplateError;

pub(super) struct OutputFormatStep;

impl PromptOptimizerStep for OutputFormatStep {
    fn name(&self) -> &'static str {
        "output-format"
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<String, TemplateError> {
        let own = draft.brief.output_schema.as_deref();
        draft.schema = own.or(draft.pick.recipe().output_schema());
        Ok(match (draft.schema, own) {
            (None, _) => "left the answer free text".to_owned(),
            (Some(schema), own) => format!(
                "took {} schema, {} citations",
                if own.is_some() { "the task's own" } else { "the recipe's" },
                if schema.carries_citations() { "with" } else { "without" }
            ),
        })
    }
}
