//! `template`: renders the system text and the words around the input.

use super::{Draft, PromptOptimizerStep};
use crate::recipe::{SystemContext, TemplateError};
use crate::schema::OutputSchema;

pub(super) struct TemplateStep;

impl PromptOptimizerStep for TemplateStep {
    fn name(&self) -> &'static str {
        "template"
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<String, TemplateError> {
        let recipe = draft.pick.recipe();
        draft.system = recipe.templates().system(&SystemContext {
            role: recipe.role(),
            purpose: &draft.brief.purpose,
            tool: recipe.slots().map(|(slot, _)| (slot, draft.bound.get(slot).map(|tool| tool.alias))).collect(),
            tools: draft.offered.iter().map(|tool| tool.alias).collect(),
            structured: draft.schema.is_some(),
            citations: draft.schema.is_some_and(OutputSchema::carries_citations),
        })?;
        draft.frame = recipe.templates().task(&draft.parameters)?;
        let around = draft.frame.before.len() + draft.frame.after.len();
        Ok(format!("rendered {} bytes of system text and {around} bytes around the input", draft.system.len()))
    }
}
