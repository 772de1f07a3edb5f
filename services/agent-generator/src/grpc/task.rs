//! Reads a task. What breaks a rule is recorded and left out, so that everything else is looked at too.

use std::collections::BTreeSet;
use std::sync::Arc;

use mar_descriptor::{HaltingSection, TrustTier};
use mar_proto::session::{ModelConstraints, Task};
use mar_proto::types::{self, Origin, Part};
use mar_runtime::violations::Violations;

use crate::order::{Brief, ModelWish, Order};
use crate::schema::OutputSchema;
use crate::selector::Selector;

pub(super) fn order(task: Task, purpose: String, limits: HaltingSection, found: &mut Violations) -> Order {
    mar_task::check(&task, found);
    let selectors: BTreeSet<Selector> = task.tools.iter().filter_map(|tool| tool.pattern.parse().ok()).collect();
    Order {
        brief: read_brief(&task, purpose),
        caller_tools: mar_task::caller_tool::definitions(&task),
        selectors: selectors.into_iter().collect(),
        model: model(task.model.unwrap_or_default()),
        limits,
        policy: mar_task::policy(&task.alignment_policy).ok().flatten().map(Arc::new),
        parent: None,
        labels: task.labels,
    }
}

pub(super) fn brief(task: &Task, purpose: String, found: &mut Violations) -> Brief {
    mar_task::check_brief(task, found);
    read_brief(task, purpose)
}

fn read_brief(task: &Task, purpose: String) -> Brief {
    let task_type = if task.r#type.is_empty() { mar_task::DEFAULT_TYPE } else { &task.r#type };
    let schema = &task.output_schema_json;
    let schema = if schema.is_empty() { None } else { OutputSchema::parse(schema).ok() };
    // Who made a part is not for a request to say.
    let caller = |part: &Part| Part { content: part.content.clone(), origin: Origin::Caller.into(), tainted: false };
    Brief {
        task_type: task_type.to_owned(),
        input: task.input.iter().map(caller).collect(),
        output_schema: schema.map(Arc::new),
        recipe: mar_task::recipe_name(&task.recipe).map(str::to_owned),
        parameters: task.parameters.clone(),
        purpose,
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
