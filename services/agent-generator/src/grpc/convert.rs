//! Between the wire and the domain. Everything that is wrong with a request is found before it is refused.

use mar_descriptor::Hash;
use mar_proto::agent::{
    GenerateAgentRequest, GenerateAgentResponse, GetAgentResponse, PromptOptimizerStep, RenderPromptRequest,
    RenderPromptResponse,
};
use mar_proto::session;
use mar_proto::types;
use mar_runtime::violations::Violations;
use prost_types::Timestamp;

use super::{limits, task};
use crate::order::{Brief, Order};
use crate::prompt::StepReport;
use crate::recipe::Catalogue;
use crate::store::Stored;
use crate::synthesis::{Agent, DryRun};

const AGENTS: &str = "agents/";
const MAX_PURPOSE_CHARS: usize = 256;

/// Reads a request for an agent.
///
/// # Errors
/// Every rule that it breaks.
pub fn order(request: GenerateAgentRequest, recipes: &Catalogue) -> Result<Order, Violations> {
    let mut found = Violations::new();
    purpose(&request.purpose, &mut found);
    let limits = limits::read(request.limits, &mut found);
    let task = task(request.task, recipes, &mut found);
    let mut order = task::order(task, request.purpose, limits);
    if !request.parent_hash.is_empty() {
        order.parent = found.take("parent_hash", request.parent_hash.parse());
    }
    found.into_result(order)
}

/// Reads a request for a dry run. Its task has to be one that an agent could be asked for, also in what its prompt is
/// not made of: what passes here is not refused there.
///
/// # Errors
/// Every rule that it breaks.
pub fn brief(request: RenderPromptRequest, recipes: &Catalogue) -> Result<Brief, Violations> {
    let mut found = Violations::new();
    purpose(&request.purpose, &mut found);
    let task = task(request.task, recipes, &mut found);
    found.into_result(task::brief(&task, request.purpose))
}

/// Reads `agents/{sha256}`.
///
/// # Errors
/// The name is of another form.
pub fn agent_hash(name: &str) -> Result<Hash, Violations> {
    let hash = name.strip_prefix(AGENTS).and_then(|digits| format!("sha256:{digits}").parse().ok());
    hash.ok_or_else(|| {
        let mut found = Violations::new();
        found.field("name", "must be `agents/` and 64 lower-case hex digits");
        found
    })
}

/// Answers GenerateAgent.
#[must_use]
pub fn generated(agent: Agent) -> GenerateAgentResponse {
    let hash = agent.descriptor.hash.to_string();
    let digits = hash.split_once(':').map_or(hash.as_str(), |(_, digits)| digits);
    GenerateAgentResponse {
        name: format!("{AGENTS}{digits}"),
        agent: Some(session::Agent {
            descriptor: Some(sealed(agent.descriptor)),
            prompt: agent.prompt,
            tools: agent.tools,
            price: Some(agent.price),
            context_tokens: agent.context_tokens,
        }),
    }
}

/// Answers GetAgent.
#[must_use]
pub fn stored(stored: Stored) -> GetAgentResponse {
    let time = stored.create_time;
    GetAgentResponse {
        descriptor: Some(sealed(stored.descriptor)),
        create_time: Some(Timestamp { seconds: time.unix_timestamp(), nanos: time.nanosecond().cast_signed() }),
    }
}

/// Answers RenderPrompt.
#[must_use]
pub fn rendered(run: DryRun) -> RenderPromptResponse {
    RenderPromptResponse {
        recipe: run.pick.named().map(|recipe| recipe.resource()).unwrap_or_default(),
        prompt: run.prompt.messages,
        steps: run.prompt.steps.into_iter().map(step).collect(),
        output_schema_json: run.prompt.output_schema.unwrap_or_default(),
    }
}

fn step(report: StepReport) -> PromptOptimizerStep {
    PromptOptimizerStep {
        name: report.name.to_owned(),
        effect: report.effect,
        prompt_bytes: i64::try_from(report.prompt_bytes).unwrap_or(i64::MAX),
    }
}

fn sealed(descriptor: mar_descriptor::SealedDescriptor) -> types::SealedDescriptor {
    let signatures = descriptor.signatures.into_iter();
    types::SealedDescriptor {
        hash: descriptor.hash.to_string(),
        canonical: descriptor.canonical.into(),
        signatures: signatures.map(|one| types::Signature { key_id: one.key_id, sig: one.sig.into() }).collect(),
    }
}

fn purpose(text: &str, found: &mut Violations) {
    let fits = text.chars().count() <= MAX_PURPOSE_CHARS;
    found.require(fits, "purpose", format!("must be at most {MAX_PURPOSE_CHARS} characters"));
}

fn task(task: Option<session::Task>, recipes: &Catalogue, found: &mut Violations) -> session::Task {
    found.require(task.is_some(), "task", "must be given");
    let task = task.unwrap_or_default();
    found.within("task", |found| task::check(&task, recipes, found));
    task
}
