//! Turning an order into an agent under one seal.

use std::sync::Arc;

use mar_alignment::{Agent as PolicyAgent, Policy, PolicyText, Stack};
use mar_descriptor::{
    AgentSection, Descriptor, MetadataSection, PolicyLayer, PolicySection, PromptSection, RolePrompt, SealedDescriptor,
    SigningKey, seal,
};
use mar_proto::router::SelectModelResponse;
use mar_proto::session::ReservationPrice;
use mar_proto::types::{Message, ToolDefinition};
use mar_runtime::ServiceName;
use mar_runtime::auth::Caller;
use mar_runtime::clock::Clock;
use mar_runtime::status::Resource;
use mar_runtime::violations::Violations;

use crate::alias;
use crate::decisions;
use crate::error::Error;
use crate::lineage;
use crate::missing::Missing;
use crate::models::{self, Wish};
use crate::order::{Brief, Order};
use crate::peers::{Call, Router, ToolRegistry, is_unknown_policy};
use crate::prompt::{self, OfferedTool, Prompt};
use crate::recipe::{Catalogue, Pick, TemplateError};
use crate::store::{Store, Stored};
use crate::tools::{self, Found, Toolbox};

/// The components of synthesis.
pub struct Synthesis {
    /// Where prompts come from.
    pub recipes: Catalogue,
    /// The platform's policy layer.
    pub platform: Arc<Policy>,
    /// What seals descriptors.
    pub key: SigningKey,
    /// Admits models.
    pub router: Arc<dyn Router>,
    /// Lists tools.
    pub registry: Arc<dyn ToolRegistry>,
    /// Keeps descriptors.
    pub store: Arc<dyn Store>,
    /// Dates them.
    pub clock: Arc<dyn Clock>,
    /// The most tools that one agent may have.
    pub max_tools: usize,
}

/// An agent as the loop uses it.
#[derive(Debug)]
pub struct Agent {
    /// What it is, sealed.
    pub descriptor: SealedDescriptor,
    /// The rendered prompt: system, examples and task.
    pub prompt: Vec<Message>,
    /// Its tools with their aliases.
    pub tools: Vec<ToolDefinition>,
    /// What reservations reckon with.
    pub price: ReservationPrice,
    /// The largest window of who may reason, in tokens; 0 where nobody says.
    pub context_tokens: i64,
}

/// A prompt and where it came from.
#[derive(Debug)]
pub struct DryRun {
    /// Its source.
    pub pick: Pick,
    /// What the pipeline gave.
    pub prompt: Prompt,
}

impl Synthesis {
    /// Synthesises, seals and stores an agent.
    ///
    /// # Errors
    /// Every variant of [`Error`].
    pub async fn generate(&self, call: &Call, order: &Order) -> Result<Agent, Error> {
        let (pick, mut found) = self.known(call, order).await?;
        found.bring(&order.caller_tools);
        if let Some(hash) = order.parent {
            let parent = lineage::parent(&*self.store, &call.identity.caller.tenant, hash).await?;
            lineage::within(&parent, &order.limits)?;
            found.narrow(&parent, &order.selectors)?;
        }
        let stack = self.stack(&order.brief);
        let caller = &call.identity.caller;
        let agent = policy_agent(caller, &order.brief, &pick);
        let toolbox = found.choose(&order.selectors, &stack, &agent, self.max_tools)?;
        let prompt = render(&order.brief, &pick, &toolbox.offered())?;
        decisions::prompt(prompt.bytes(), &order.brief, &stack, &agent)?;
        let wish = Wish::new(order, pick.recipe().sampling(), !toolbox.is_empty(), prompt.output_schema.is_some());
        let mut answer = self.admitted(call, order, &wish).await?;
        decisions::narrow(&mut answer.candidates, &stack, &agent)?;
        let mut summarisers = models::summarisers(&answer.candidates);
        decisions::narrow(&mut summarisers, &stack, &agent)?;
        let price = models::dearest(&summarisers);
        let context_tokens = models::widest(&answer.candidates);
        let sealing = Sealing { caller, order, pick: &pick, stack: &stack, prompt: &prompt };
        let (descriptor, tools) = sealing.descriptor(wish.section(&answer, &summarisers)?, toolbox);
        let descriptor = seal(&descriptor, &self.key).map_err(Error::Seal)?;
        self.store.descriptor_put(&caller.tenant, &descriptor, self.clock.now()).await?;
        Ok(Agent { descriptor, prompt: prompt.messages, tools, price, context_tokens })
    }

    /// The recipe, and what the catalogue has of the tools. When one of them lacks something, the refusal names all
    /// that the order names in vain. What a peer fails to tell does not hide what is missing for certain.
    async fn known(&self, call: &Call, order: &Order) -> Result<(Pick, Found), Error> {
        let (pick, mut missing) = match self.pick(&order.brief) {
            Ok(pick) => (Some(pick), Missing::default()),
            Err(Error::NotFound(recipe)) => (None, recipe),
            Err(error) => return Err(error),
        };
        let found = tools::find(&*self.registry, call, &order.selectors).await;
        let unpicked = found.as_ref().map(|found| found.missing(&order.selectors)).unwrap_or_default();
        if let (Some(pick), true) = (pick, unpicked.is_empty()) {
            return Ok((pick, found?));
        }
        missing.extend(models::unknown(&*self.router, call, &order.model).await);
        missing.add(Resource::Tool, unpicked);
        Err(Error::NotFound(missing))
    }

    async fn admitted(&self, call: &Call, order: &Order, wish: &Wish<'_>) -> Result<SelectModelResponse, Error> {
        let status = match self.router.select_model(call, wish.request()).await {
            Ok(answer) => {
                let missing = models::absent(&order.model, &answer.candidates);
                return if missing.count() == 0 { Ok(answer) } else { Err(Error::NotFound(missing)) };
            }
            Err(status) => status,
        };
        if is_unknown_policy(&status) {
            let missing = models::unknown(&*self.router, call, &order.model).await;
            if missing.count() > 1 {
                return Err(Error::NotFound(missing));
            }
        }
        Err(Error::Peer { peer: ServiceName::Router, status: Box::new(status) })
    }

    /// Renders a prompt as if the agent had the tools that its recipe speaks of, and has the policies decide on it. Asks
    /// nobody.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a recipe, [`Error::Invalid`], [`Error::PolicyDenied`].
    pub fn render(&self, caller: &Caller, brief: &Brief) -> Result<DryRun, Error> {
        let pick = self.pick(brief)?;
        let names: Vec<&str> = pick.recipe().slots().map(|(_, name)| name).collect();
        let aliases = alias::assign(names.iter().copied());
        let offered: Vec<OfferedTool<'_>> =
            aliases.iter().map(|(name, alias)| OfferedTool { name, alias, input_schema: "" }).collect();
        let prompt = render(brief, &pick, &offered)?;
        decisions::prompt(prompt.bytes(), brief, &self.stack(brief), &policy_agent(caller, brief, &pick))?;
        Ok(DryRun { prompt, pick })
    }

    /// Reads a descriptor of the tenant.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`].
    pub async fn stored(&self, tenant: &str, hash: mar_descriptor::Hash, name: &str) -> Result<Stored, Error> {
        let stored = self.store.descriptor_get(tenant, hash).await?;
        stored.ok_or_else(|| Error::NotFound(Missing::one(Resource::Agent, name)))
    }

    fn pick(&self, brief: &Brief) -> Result<Pick, Error> {
        let name = brief.recipe.as_deref();
        self.recipes.pick(name, &brief.task_type).ok_or_else(|| {
            let name = format!("recipes/{}", name.unwrap_or_default());
            Error::NotFound(Missing::one(Resource::Recipe, name))
        })
    }

    /// The platform's layer, and the task's where it has one.
    fn stack(&self, brief: &Brief) -> Stack {
        Stack::new([Some(self.platform.clone()), brief.policy.clone()].into_iter().flatten())
    }
}

fn render(brief: &Brief, pick: &Pick, offered: &[OfferedTool<'_>]) -> Result<Prompt, Error> {
    prompt::render(brief, pick, offered).map_err(refused_template)
}

/// A recipe that renders with its defaults and not with this task: what the task gives does not suit it.
fn refused_template(error: TemplateError) -> Error {
    tracing::warn!(recipe.name = error.recipe, template = error.template, line = error.line, "{}", error.what);
    let mut found = Violations::new();
    found.field("task.recipe", error.to_string());
    Error::Invalid(found)
}

fn policy_agent(caller: &Caller, brief: &Brief, pick: &Pick) -> PolicyAgent {
    PolicyAgent {
        id: String::new(),
        role: pick.recipe().role().to_owned(),
        purpose: brief.purpose.clone(),
        task_type: brief.task_type.clone(),
        caller: mar_alignment::Caller {
            tenant: caller.tenant.clone(),
            principal: caller.principal.clone(),
            environment: caller.environment.clone(),
            groups: caller.groups.clone(),
            scopes: caller.scopes.clone(),
            end_user: caller.end_user.clone(),
        },
    }
}

/// What goes under the seal. Of the caller only the environment does.
struct Sealing<'a> {
    caller: &'a Caller,
    order: &'a Order,
    pick: &'a Pick,
    stack: &'a Stack,
    prompt: &'a Prompt,
}

impl Sealing<'_> {
    fn descriptor(&self, model: mar_descriptor::ModelSection, toolbox: Toolbox) -> (Descriptor, Vec<ToolDefinition>) {
        let (sealed, definitions) = toolbox.into_parts();
        let descriptor = Descriptor {
            model,
            prompt: self.prompt(),
            agent: AgentSection { role: self.pick.recipe().role().to_owned(), tools: sealed },
            policy: PolicySection { alignment_policy: self.stack.texts().map(layer).collect() },
            halting: self.order.limits.clone(),
            metadata: MetadataSection {
                purpose: self.order.brief.purpose.clone(),
                task_type: self.order.brief.task_type.clone(),
                environment: self.caller.environment.clone(),
                labels: self.order.brief.labels.clone(),
            },
            ..Descriptor::default()
        };
        (descriptor.normalised(), definitions)
    }

    fn prompt(&self) -> PromptSection {
        PromptSection {
            recipe: self.pick.named().map(|recipe| recipe.reference()),
            system: self.prompt.system.clone(),
            examples: self.prompt.examples.clone(),
            parameters: self.order.brief.parameters.keys().cloned().collect(),
            output_schema: self.prompt.output_schema.clone(),
            steps: self.prompt.steps.iter().map(|step| step.name.to_owned()).collect(),
            roles: [(models::SUMMARISE.to_owned(), RolePrompt::new(models::SUMMARISE_PROMPT))].into(),
        }
    }
}

fn layer(text: &PolicyText) -> PolicyLayer {
    PolicyLayer::new(text.layer.as_str(), &text.name, text.version, &text.text)
}

#[cfg(test)]
mod tests;
