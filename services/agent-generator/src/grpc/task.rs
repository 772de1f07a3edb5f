//! Reads a task. What breaks a rule is recorded and left out, so that everything else is looked at too.

use std::collections::BTreeSet;
use std::sync::Arc;

use mar_descriptor::{HaltingSection, TrustTier};
use mar_proto::session::{ModelConstraints, Task};
use mar_proto::types::{self, Origin, Part};
use mar_runtime::violations::Violations;

use crate::order::{Brief, ModelWish, Order};
use crate::recipe::Catalogue;
use crate::schema::OutputSchema;
use crate::selector::Selector;

/// Records every rule that the task breaks, those of the recipe that it gets included.
pub(super) fn check(task: &Task, recipes: &Catalogue, found: &mut Violations) {
    mar_task::check(task, found);
    for name in recipes.strange_parameters(task) {
        found.field(&format!("parameters[{name:?}]"), "is no parameter of the recipe");
    }
}

pub(super) fn order(task: Task, purpose: String, limits: HaltingSection) -> Order {
    let selectors: BTreeSet<Selector> = task.tools.iter().filter_map(|tool| tool.pattern.parse().ok()).collect();
    Order {
        brief: brief(&task, purpose),
        caller_tools: mar_task::caller_tool::definitions(&task),
        selectors: selectors.into_iter().collect(),
        model: model(task.model.unwrap_or_default()),
        limits,
        parent: None,
    }
}

pub(super) fn brief(task: &Task, purpose: String) -> Brief {
    let schema = &task.output_schema_json;
    let schema = if schema.is_empty() { None } else { OutputSchema::parse(schema).ok() };
    // Who made a part is not for a request to say.
    let caller = |part: &Part| Part { content: part.content.clone(), origin: Origin::Caller.into(), tainted: false };
    Brief {
        task_type: mar_task::task_type(task).to_owned(),
        input: task.input.iter().map(caller).collect(),
        output_schema: schema.map(Arc::new),
        recipe: mar_task::recipe_name(&task.recipe).map(str::to_owned),
        parameters: task.parameters.clone(),
        purpose,
        policy: mar_task::policy(&task.alignment_policy).ok().flatten().map(Arc::new),
        labels: task.labels.clone(),
    }
}

fn model(wish: ModelConstraints) -> ModelWish {
    let min_trust_tier = match wish.min_trust_tier() {
        types::TrustTier::Unspecified | types::TrustTier::Unverified => TrustTier::Unverified,
        types::TrustTier::Experimental => TrustTier::Experimental,
        types::TrustTier::Aligned => TrustTier::Aligned,
        types::TrustTier::Production => TrustTier::Production,
    };
    let sorted = |list: Vec<String>| list.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    ModelWish {
        routing_policy: wish.routing_policy,
        models: sorted(wish.models),
        providers: sorted(wish.providers),
        min_trust_tier,
        residency: sorted(wish.residency),
        temperature: Some(wish.temperature).filter(|text| !text.is_empty()),
        max_output_tokens: Some(wish.max_output_tokens).filter(|tokens| *tokens != 0),
    }
}
