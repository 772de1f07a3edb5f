//! `recipe`: takes the recipe and its parameters.

use super::{Draft, PromptOptimizerStep};
use crate::recipe::{Pick, TemplateError};

pub(super) struct RecipeStep;

impl PromptOptimizerStep for RecipeStep {
    fn name(&self) -> &'static str {
        "recipe"
    }

    fn apply(&self, draft: &mut Draft<'_>) -> Result<String, TemplateError> {
        let pick = draft.pick;
        draft.parameters = pick.recipe().parameter_values(&draft.brief.parameters);
        let given = draft.brief.parameters.len();
        Ok(match pick {
            Pick::Recipe(recipe) => {
                format!("took {} with {given} of {} parameters given", recipe.resource(), recipe.parameters().len())
            }
            Pick::Plain(_) => {
                format!("took the plain prompt: no recipe is named, and none is for `{}`", draft.brief.task_type)
            }
        })
    }
}
