//! The tools of an agent: picked by the task's selectors, let through by policy, named for providers.

use std::collections::{BTreeMap, BTreeSet};

use mar_alignment::{Agent, Decision, Question, Request, Stack, Verdict};
use mar_descriptor::descriptor::{ON_UNKNOWN_ASK_HUMAN, ON_UNKNOWN_TELL_MODEL};
use mar_descriptor::{Descriptor, Doubt, Probe, SealedTool};
use mar_proto::tool::{ListToolsRequest, ListToolsResponse, Tool};
use mar_proto::types::{self, OnUnknown, ToolDefinition, TrustTier};
use mar_runtime::ServiceName;
use mar_runtime::status::Resource;
use mar_runtime::violations::Violations;
use mar_task::delegation;

use crate::alias;
use crate::decisions;
use crate::error::{Denied, Error};
use crate::missing::Missing;
use crate::peers::{Call, ToolRegistry};
use crate::prompt::OfferedTool;
use crate::selector::Selector;

const PREFIX: &str = "tools/";
/// The tool with which an agent asks its caller.
const ASK: &str = "caller.ask";
const PAGE_SIZE: i32 = 500;
/// A catalogue that does not end by then is broken.
const MAX_PAGES: usize = 100;

/// What the gateway's catalogue holds for a task.
#[derive(Debug, Default)]
pub struct Found {
    tools: BTreeMap<String, Tool>,
    unavailable: BTreeSet<String>,
    /// Names of tools that the task brings along.
    brought: BTreeSet<String>,
}

/// The tools of one agent, by name.
#[derive(Debug, Default)]
pub struct Toolbox {
    tools: Vec<(SealedTool, ToolDefinition)>,
}

/// Reads every page of what the selectors pick. Without selectors nobody is asked.
///
/// # Errors
/// [`Error::Peer`], and [`Error::PeerBroken`] for pages that never end.
pub async fn find(registry: &dyn ToolRegistry, call: &Call, selectors: &[Selector]) -> Result<Found, Error> {
    let mut found = Found::default();
    let (own, asked): (Vec<&Selector>, Vec<&Selector>) = selectors.iter().partition(|selector| is_runtime(selector));
    found.add_runtime(&own);
    if asked.is_empty() {
        return Ok(found);
    }
    let patterns: Vec<String> = asked.iter().map(ToString::to_string).collect();
    let mut page_token = String::new();
    for _ in 0..MAX_PAGES {
        let request = ListToolsRequest { page_size: PAGE_SIZE, page_token, patterns: patterns.clone() };
        let page = registry
            .list_tools(call, request)
            .await
            .map_err(|status| Error::Peer { peer: ServiceName::ToolGateway, status: Box::new(status) })?;
        page_token = page.next_page_token.clone();
        found.take(page, selectors);
        if page_token.is_empty() {
            return Ok(found);
        }
    }
    Err(broken("a list of tools that does not end"))
}

/// Whether it picks tools of the runtime, which are none of the gateway's: `*` does not.
fn is_runtime(selector: &Selector) -> bool {
    match selector {
        Selector::Every => false,
        Selector::Upstream(upstream) => upstream == delegation::UPSTREAM,
        Selector::Tool(tool) => tool.split_once('.').is_some_and(|(upstream, _)| upstream == delegation::UPSTREAM),
    }
}

impl Found {
    /// The runtime's own tools. They have been reviewed with it.
    fn add_runtime(&mut self, selectors: &[&Selector]) {
        if selectors.iter().any(|selector| selector.picks(delegation::NAME)) {
            let tool = Tool {
                name: format!("{PREFIX}{}", delegation::NAME),
                upstream: delegation::UPSTREAM.to_owned(),
                definition: Some(delegation::definition()),
                trust_tier: TrustTier::Aligned.into(),
                ..Tool::default()
            };
            self.tools.insert(delegation::NAME.to_owned(), tool);
        }
    }

    fn take(&mut self, page: ListToolsResponse, selectors: &[Selector]) {
        self.unavailable.extend(page.unavailable.into_iter().map(|upstream| upstream.upstream));
        for tool in page.tools {
            let name = tool.name.strip_prefix(PREFIX).unwrap_or(&tool.name).to_owned();
            if selectors.iter().any(|selector| selector.picks(&name)) {
                self.tools.insert(name, tool);
            }
        }
    }

    /// Adds the tools that a task brings along.
    pub fn bring(&mut self, tools: &[ToolDefinition]) {
        for definition in tools {
            let name = definition.name.strip_prefix(PREFIX).unwrap_or(&definition.name).to_owned();
            // As the gateway sees them: what the runtime defines is reviewed with it.
            let asks = name == ASK;
            let trust_tier = if asks { types::TrustTier::Aligned } else { types::TrustTier::Unverified };
            let tool = Tool {
                name: definition.name.clone(),
                definition: Some(definition.clone()),
                trust_tier: trust_tier.into(),
                ..Tool::default()
            };
            self.brought.insert(name.clone());
            self.tools.insert(name, tool);
        }
    }

    /// Leaves out what a parent's agent has not, or not as it is now.
    ///
    /// # Errors
    /// [`Error::PolicyDenied`] for tools that the task names.
    pub fn narrow(&mut self, parent: &Descriptor, selectors: &[Selector]) -> Result<(), Error> {
        let has = |name: &str, tool: &Tool| {
            let hash = tool.definition.as_ref().map(|definition| definition.definition_hash.as_str());
            parent.agent.tool(name).is_some_and(|own| Some(own.definition_hash.to_string().as_str()) == hash)
        };
        let mut beyond = Vec::new();
        self.tools.retain(|name, tool| {
            let kept = has(name, tool);
            if !kept && selectors.iter().any(|selector| selector.named() == Some(name)) {
                beyond.push(format!("{PREFIX}{name}"));
            }
            kept
        });
        if beyond.is_empty() {
            return Ok(());
        }
        Err(Error::PolicyDenied { denied: Denied::Tools(beyond), policies: vec!["the parent's descriptor".to_owned()] })
    }

    /// What the policies let the agent have. A tool or an upstream that a selector names is not silently left out.
    ///
    /// # Errors
    /// [`Error::NotFound`] for what is [missing](Self::missing), [`Error::Upstream`] for named tools that may be
    /// missing because their upstream is down, [`Error::PolicyDenied`] for named tools that are denied, [`Error::Invalid`] for more than `max` tools, [`Error::PeerBroken`] for a broken entry.
    pub fn choose(
        mut self,
        selectors: &[Selector],
        policy: &Stack,
        agent: &Agent,
        max: usize,
    ) -> Result<Toolbox, Error> {
        let (missing, down) = self.absent(selectors);
        // Waiting for an upstream does not bring what is not there.
        if !missing.is_empty() {
            let mut all = Missing::default();
            all.add(Resource::Tool, missing);
            return Err(Error::NotFound(all));
        }
        if !down.is_empty() {
            return Err(Error::Upstream { upstreams: down.into_iter().collect() });
        }
        let mut named: BTreeSet<&str> = selectors.iter().filter_map(Selector::named).collect();
        named.extend(self.brought.iter().map(String::as_str));
        let mut denied = Vec::new();
        self.tools.retain(|name, tool| {
            let decision = decide(policy, agent, name, tool);
            let allowed = decision.verdict != Verdict::Deny;
            if !allowed {
                tracing::debug!(tool.name = name, "policy leaves a tool out");
                denied.push((name.clone(), decision));
            }
            allowed
        });
        denied.retain(|(name, _)| named.contains(name.as_str()));
        if !denied.is_empty() {
            return Err(denial(&denied));
        }
        if self.tools.len() > max {
            let mut found = Violations::new();
            found.field("task.tools", format!("picks {} tools, at most {max} are allowed", self.tools.len()));
            return Err(Error::Invalid(found));
        }
        Toolbox::try_new(self.tools)
    }

    /// Every selector but `*` that picks nothing, as `tools/{selector}`, unless its upstream is down.
    #[must_use]
    pub fn missing(&self, selectors: &[Selector]) -> BTreeSet<String> {
        self.absent(selectors).0
    }

    /// The selectors that pick nothing, and the upstreams of those that may pick something again. Looks at the whole
    /// catalogue, before any policy does: what a policy leaves out of `upstream.*` is there. Of an upstream that is down
    /// `upstream.*` takes what was seen of it; where nothing was, it is waited for, or the same task would be another agent a
    /// moment later.
    fn absent(&self, selectors: &[Selector]) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut missing, mut down) = (BTreeSet::new(), BTreeSet::new());
        for selector in selectors {
            let upstream = match selector {
                Selector::Every => continue,
                Selector::Upstream(upstream) => upstream.as_str(),
                Selector::Tool(tool) => tool.split_once('.').map_or("", |(upstream, _)| upstream),
            };
            if self.tools.keys().any(|name| selector.picks(name)) {
                continue;
            }
            if self.unavailable.contains(upstream) {
                down.insert(upstream.to_owned());
            } else {
                missing.insert(format!("{PREFIX}{selector}"));
            }
        }
        (missing, down)
    }
}

impl Toolbox {
    fn try_new(tools: BTreeMap<String, Tool>) -> Result<Self, Error> {
        let aliases = alias::assign(tools.keys().map(String::as_str));
        let mut kept = Vec::with_capacity(tools.len());
        for (name, tool) in &tools {
            let definition = tool.definition.clone().ok_or_else(|| broken("a tool without definition"))?;
            let hash = definition.definition_hash.parse().map_err(|_| broken("a definition hash that is none"))?;
            let alias = aliases.get(name.as_str()).cloned().unwrap_or_default();
            let sealed = SealedTool {
                name: name.clone(),
                alias: alias.clone(),
                definition_hash: hash,
                idempotent: definition.idempotent,
                read_only: definition.read_only,
                doubt: definition.doubt.as_ref().map(doubt).transpose()?,
            };
            kept.push((sealed, ToolDefinition { alias, name: format!("{PREFIX}{name}"), ..definition }));
        }
        Ok(Self { tools: kept })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// As a prompt speaks of them.
    #[must_use]
    pub fn offered(&self) -> Vec<OfferedTool<'_>> {
        self.tools
            .iter()
            .map(|(sealed, definition)| OfferedTool {
                name: &sealed.name,
                alias: &sealed.alias,
                input_schema: &definition.input_schema_json,
            })
            .collect()
    }

    /// As the descriptor pins them, and as models are told of them.
    #[must_use]
    pub fn into_parts(self) -> (Vec<SealedTool>, Vec<ToolDefinition>) {
        self.tools.into_iter().unzip()
    }
}

/// What the operator declares about calls whose outcome nobody knows, as it is sealed.
fn doubt(told: &types::Doubt) -> Result<Doubt, Error> {
    let probe = told.probe.as_ref().map(|probe| -> Result<Probe, Error> {
        Ok(Probe {
            tool: probe.tool.strip_prefix(PREFIX).unwrap_or(&probe.tool).to_owned(),
            definition_hash: probe.definition_hash.parse().map_err(|_| broken("a probe's hash that is none"))?,
            key_argument: probe.key_argument.clone(),
            settles_after_ms: probe.settles_after_ms,
        })
    });
    let on_unknown = match told.on_unknown() {
        OnUnknown::AskHuman => ON_UNKNOWN_ASK_HUMAN,
        OnUnknown::TellModel | OnUnknown::Unspecified => ON_UNKNOWN_TELL_MODEL,
    };
    Ok(Doubt {
        probe: probe.transpose()?,
        on_unknown: on_unknown.to_owned(),
        group: told.group.clone(),
        expires_after_ms: told.expires_after_ms,
    })
}

fn decide(policy: &Stack, agent: &Agent, name: &str, tool: &Tool) -> Decision {
    let definition = tool.definition.as_ref();
    let tool = mar_alignment::Tool {
        name: name.to_owned(),
        upstream: name.split_once('.').map(|(upstream, _)| upstream.to_owned()).unwrap_or_default(),
        read_only: definition.is_some_and(|one| one.read_only),
        idempotent: definition.is_some_and(|one| one.idempotent),
        trust_tier: decisions::tier(tool.trust_tier()),
    };
    policy.decide(&Request::new(Question::ListTool { agent: agent.clone(), tool }))
}

fn denial(denied: &[(String, Decision)]) -> Error {
    Error::PolicyDenied {
        denied: Denied::Tools(denied.iter().map(|(name, _)| format!("{PREFIX}{name}")).collect()),
        policies: decisions::causes(denied.iter().map(|(_, decision)| decision)),
    }
}

fn broken(what: &str) -> Error {
    Error::PeerBroken { peer: ServiceName::ToolGateway, what: what.to_owned() }
}
