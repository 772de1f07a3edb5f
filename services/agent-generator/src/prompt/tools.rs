//! `tools`: binds the tools that the recipe speaks of to those that the agent has.

use super::{Draft, PromptOptimizerStep};
use crate::recipe::TemplateError;

pub(super) struct ToolsStep;

impl PromptOptimizerStep for ToolsStep {
    fn name(&self) -> &'static str {
        "tools"
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<String, TemplateError> {
        let mut said = Vec::new();
        for (slot, _) in draft.pick.recipe().slots() {
            let found = draft.offered.iter().filter(|tool| tool.short_name() == slot).min_by_key(|tool| tool.name);
            match found {
                Some(tool) => {
                    said.push(format!("`{slot}` is {}", tool.name));
                    draft.bound.insert(slot, *tool);
                }
                None => said.push(format!("`{slot}` is missing")),
            }
        }
        let count = draft.offered.len();
        Ok(if said.is_empty() {
            format!("offered {count} tools")
        } else {
            format!("offered {count} tools: {}", said.join(", "))
        })
    }
}
