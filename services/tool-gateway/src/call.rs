//! Decides on one call and makes it.
//!
//! The checks, in this order: the tool is sealed, its definition is the sealed one, the arguments fit its schema, the
//! sealed policies and the platform's current one allow it. Then the call is made, within its time and its upstream's
//! bounds, or handed to who makes it instead ([`elsewhere`]); the answer is cut to size, and the policies say whether the agent may receive it. What a check refuses is an
//! [`Outcome`] with its record, never an error.

use std::sync::Arc;
use std::time::Duration;

use mar_alignment::{
    Agent, Approval, Arguments, Caller, Decision, Question, Request, RunFacts, Stack, Tool, TrustTier, Verdict,
    decide_both,
};
use mar_descriptor::{Hash, domain};
use mar_proto::tool::Dispatch;
use mar_proto::types::{Executor, ToolDefinition};
use mar_runtime::auth;
use mar_runtime::clock::within;
use serde_json::Value;

use crate::cap::cap;
use crate::definition::Definition;
use crate::descriptors::Sealed;
use crate::outcome::{Answer, Call, Failure, Reason, Sent};
use crate::registry::Registry;
use crate::upstream::{State, Upstream};

use probe::Pin;

mod approval;
pub mod arguments;
pub mod elsewhere;
mod probe;
mod record;
mod replay;
mod result;
pub mod trace;

pub use approval::Approved;
pub use probe::Probed;
pub use record::Record;

/// What is kept of a caller's deadline, at most, to tell it that time was up.
const MARGIN: Duration = Duration::from_millis(500);

/// A call that has passed token and descriptor.
#[derive(Debug)]
pub struct Invocation {
    /// Who calls.
    pub caller: auth::Caller,
    /// What the agent may do.
    pub sealed: Arc<Sealed>,
    /// `{run}/{step}/{index}`.
    pub call_id: String,
    /// `upstream.tool`.
    pub tool: String,
    /// The arguments as they came.
    pub arguments_json: String,
    /// Stable over retries.
    pub idempotency_key: String,
    /// What session states about the run.
    pub facts: RunFacts,
    /// What people have approved, where they were asked.
    pub approval: Option<Approved>,
    /// The tool as session sealed it, where it says so.
    pub definition: Option<ToolDefinition>,
    /// The result that is there already, where only the decision is wanted.
    pub recorded: Option<Answer>,
    /// What is left of the caller's deadline.
    pub remaining: Option<Duration>,
    /// Whether the call is to be made.
    pub aim: Aim,
}

/// What is wanted of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aim {
    /// That it is made.
    Make,
    /// To know whether it took effect.
    Ask,
    /// The decision alone: its result is there already.
    Decide,
    /// It is itself the question: a probe, pinned by the tool that it is the probe of.
    Probe(Hash),
}

/// What became of a call.
#[derive(Debug)]
pub struct Outcome {
    /// What the agent is told.
    pub kind: Kind,
    /// Why, for the log of the run.
    pub record: Record,
    /// Whether the content counts as written by strangers.
    pub tainted: bool,
}

/// What the agent is told.
#[derive(Debug)]
pub enum Kind {
    /// The tool answered.
    Answered(Answer),
    /// The agent may receive the result that is there already.
    Recorded(Answer),
    /// A check refused.
    Denied(Denial),
    /// A human has to approve first.
    ApprovalRequired {
        /// Over call, tool, definition and arguments.
        digest: Hash,
        /// Why.
        message: String,
        /// By whom, by how many and until when.
        terms: Box<Approval>,
    },
    /// Everybody lets the call through, and somebody else makes it.
    HandedOver(Executor),
    /// What a probe says.
    Probed(Box<Probed>),
    /// No answer came.
    Failed(Failure),
}

/// Why a check refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Denial {
    /// The API's name of the reason.
    pub reason: &'static str,
    /// What the model is told, without payloads.
    pub message: String,
}

impl Denial {
    fn told(reason: &'static str, message: impl Into<String>) -> Kind {
        Kind::Denied(Self { reason, message: message.into() })
    }
}

/// Who makes a call.
#[derive(Clone, Copy)]
enum Maker<'a> {
    /// The gateway, at this upstream.
    Upstream(&'a Arc<Upstream>),
    /// Somebody else.
    Other(Executor),
}

/// Makes calls.
#[derive(Debug)]
pub struct Dispatcher {
    /// Where tools are.
    pub registry: Registry,
    /// The platform's policy as it is now.
    pub platform: Stack,
}

/// A call that every check has let through.
struct Cleared<'a> {
    maker: Maker<'a>,
    definition: Arc<Definition>,
    /// As policies know it.
    declared: Tool,
    arguments: Value,
}

impl Dispatcher {
    /// Decides, and makes the call when the decision is yes.
    pub async fn invoke(&self, call: &Invocation) -> Outcome {
        if call.aim == Aim::Ask { self.ask(call).await } else { self.make(call).await }
    }

    async fn make(&self, call: &Invocation) -> Outcome {
        let mut record = Record::new(call);
        let (kind, tainted) = match self.clear(call, &mut record).await {
            Err(kind) => (kind, false),
            Ok(Cleared { maker, declared, .. }) if call.aim == Aim::Decide && call.recorded.is_some() => {
                (self.replay(call, &maker, declared, &mut record), false)
            }
            Ok(_) if call.aim == Aim::Decide => (Kind::HandedOver(Executor::Unspecified), false),
            Ok(Cleared { maker: Maker::Other(executor), .. }) => (Kind::HandedOver(executor), false),
            Ok(Cleared { maker: Maker::Upstream(upstream), definition, declared, arguments }) => {
                let kind = match dispatch(call, upstream, &definition, arguments).await {
                    Kind::Answered(answer) => Kind::Answered(self.receive(call, declared, answer, &mut record)),
                    other => other,
                };
                (kind, !upstream.config.is_trusted())
            }
        };
        record.conclude(&kind);
        Outcome { kind, record, tainted }
    }

    /// Decides on the result of a call that somebody else has made. What comes from outside taints, whoever brings it, and is
    /// cut; what the runtime brings of its own runs is bounded, and knows what has influenced it.
    pub fn take(&self, call: &Invocation, answer: Answer) -> Outcome {
        let mut record = Record::new(call);
        let kind = self.taken(call, answer, &mut record).unwrap_or_else(|kind| kind);
        record.conclude(&kind);
        Outcome { kind, record, tainted: true }
    }

    fn taken(&self, call: &Invocation, answer: Answer, record: &mut Record) -> Result<Kind, Kind> {
        let not_here = || Denial::told("TOOL_NOT_SEALED", "this agent has no such tool whose results others bring");
        let executor = elsewhere::executor(upstream_of(&call.tool)).ok_or_else(not_here)?;
        let sealed = call.sealed.descriptor().agent.tool(&call.tool).ok_or_else(not_here)?;
        record.sealed_definition(sealed.definition_hash);
        elsewhere::pinned(call, sealed.definition_hash, record)?;
        let declared = Tool {
            name: call.tool.clone(),
            upstream: upstream_of(&call.tool).to_owned(),
            read_only: sealed.read_only,
            idempotent: sealed.idempotent,
            trust_tier: elsewhere::trust_tier(&call.tool),
        };
        Ok(match executor {
            Executor::Runtime => Kind::Recorded(self.receive(call, declared, answer, record)),
            _ => Kind::Answered(self.receive(call, declared, cap(answer, elsewhere::MAX_RESULT_BYTES), record)),
        })
    }

    async fn clear<'a>(&'a self, call: &Invocation, record: &mut Record) -> Result<Cleared<'a>, Kind> {
        let sealed = Pin::of(call)?;
        record.sealed_definition(sealed.definition_hash);
        let (maker, definition) = self.locate(call, sealed.definition_hash, record).await?;
        if matches!(call.aim, Aim::Probe(_)) && !definition.read_only {
            return Err(Denial::told("NO_PROBE", "the probe is no longer declared read-only"));
        }
        let arguments = arguments::parse(&call.arguments_json).map_err(invalid)?;
        let digest = Hash::of_foreign(domain::TOOL_ARGUMENTS, &arguments)
            .map_err(|_| invalid("the arguments are nested too deeply or too large"))?;
        record.arguments(digest, call.arguments_json.len());
        definition.check(&arguments).map_err(|found| invalid(found.join("; ")))?;
        let declared = Tool {
            name: call.tool.clone(),
            upstream: upstream_of(&call.tool).to_owned(),
            // What the operator has taken back since it was sealed binds at once.
            read_only: sealed.read_only && definition.read_only,
            idempotent: sealed.idempotent && definition.idempotent,
            trust_tier: maker.trust_tier(&call.tool),
        };
        let arguments = Arc::new(arguments);
        let decision = self.decide(call, declared.clone(), &arguments, digest);
        let allowed = judge(call, &decision, definition.hash, digest, record);
        record.decision(decision);
        match allowed {
            // Nothing is sent, and the result is decided on: nobody has to approve it.
            Err(Kind::ApprovalRequired { .. }) if call.recorded.is_some() => {}
            allowed => allowed?,
        }
        let arguments = Arc::unwrap_or_clone(arguments);
        Ok(Cleared { maker, definition, declared, arguments })
    }

    /// Who makes the call, and the tool's definition if it is the sealed one.
    async fn locate(
        &self,
        call: &Invocation,
        pin: Hash,
        record: &mut Record,
    ) -> Result<(Maker<'_>, Arc<Definition>), Kind> {
        if let Some(executor) = elsewhere::executor(upstream_of(&call.tool)) {
            return Ok((Maker::Other(executor), elsewhere::pinned(call, pin, record)?));
        }
        if call.aim == Aim::Decide {
            // Nothing is sent: an upstream that is down, or gone, is in nobody's way.
            let maker = self
                .registry
                .find(&call.tool)
                .map_or(Maker::Other(Executor::Unspecified), |(upstream, _)| Maker::Upstream(upstream));
            return Ok((maker, elsewhere::pinned(call, pin, record)?));
        }
        let Some((upstream, tool)) = self.registry.find(&call.tool) else {
            return Err(unavailable("the upstream of this tool is not configured"));
        };
        let state = upstream.ready(limit(upstream, call)).await;
        Ok((Maker::Upstream(upstream), pinned(&state, tool, pin, record)?))
    }

    fn decide(&self, call: &Invocation, tool: Tool, arguments: &Arc<Value>, digest: Hash) -> Decision {
        let bytes = u64::try_from(call.arguments_json.len()).unwrap_or(u64::MAX);
        let question = Question::CallTool {
            agent: agent(call),
            tool,
            sealed: true,
            arguments: Arguments::new(Arc::clone(arguments), digest.to_string(), bytes),
        };
        let request = Request::new(question).in_run(call.facts.clone());
        decide_both(call.sealed.policies(), &self.platform, &request)
    }

    /// Lets an answer through, or puts the denial in its place: the call has been made, so that this is its result.
    fn receive(&self, call: &Invocation, tool: Tool, answer: Answer, record: &mut Record) -> Answer {
        let decision = self.decide_result(call, tool, &answer);
        let answer = if decision.is_allowed() { answer } else { result::withheld(&answer, &decision) };
        record.received(decision);
        answer
    }

    fn decide_result(&self, call: &Invocation, tool: Tool, answer: &Answer) -> Decision {
        let question = Question::ReceiveResult { agent: agent(call), tool, result: result::facts(answer) };
        let request = Request::new(question).in_run(call.facts.clone());
        decide_both(call.sealed.policies(), &self.platform, &request)
    }
}

impl Maker<'_> {
    fn trust_tier(&self, tool: &str) -> TrustTier {
        match self {
            Self::Upstream(upstream) => upstream.config.trust_tier(),
            Self::Other(_) => elsewhere::trust_tier(tool),
        }
    }
}

fn upstream_of(tool: &str) -> &str {
    tool.split_once('.').map_or(tool, |(upstream, _)| upstream)
}

fn agent(call: &Invocation) -> Agent {
    let descriptor = call.sealed.descriptor();
    let caller = &call.caller;
    Agent {
        id: call.sealed.hash().to_string(),
        role: descriptor.agent.role.clone(),
        purpose: descriptor.metadata.purpose.clone(),
        task_type: descriptor.metadata.task_type.clone(),
        caller: Caller {
            tenant: caller.tenant.clone(),
            principal: caller.principal.clone(),
            environment: caller.environment.clone(),
            groups: caller.groups.clone(),
            scopes: caller.scopes.clone(),
            end_user: caller.end_user.clone(),
        },
    }
}

/// The definition that the upstream has now, if it is the sealed one.
fn pinned(state: &State, tool: &str, pin: Hash, record: &mut Record) -> Result<Arc<Definition>, Kind> {
    let Some(catalogue) = &state.catalogue else {
        return Err(unavailable("the upstream of this tool is down"));
    };
    let Some(definition) = catalogue.get(tool) else {
        return Err(Denial::told("TOOL_DEFINITION_CHANGED", "the upstream no longer offers this tool"));
    };
    record.definition(definition.hash);
    if definition.hash != pin {
        return Err(Denial::told("TOOL_DEFINITION_CHANGED", "the tool has changed since this agent was made"));
    }
    Ok(Arc::clone(definition))
}

fn judge(
    call: &Invocation,
    decision: &Decision,
    definition: Hash,
    arguments: Hash,
    record: &mut Record,
) -> Result<(), Kind> {
    let message = |default: &str| decision.message.clone().unwrap_or_else(|| default.to_owned());
    match (decision.verdict, &decision.approval) {
        (Verdict::Allow, _) => Ok(()),
        (Verdict::RequireApproval, Some(terms)) => {
            let digest =
                approval::digest(call, definition, arguments).map_err(|_| invalid("the call cannot be hashed"))?;
            if let Some(given) = call.approval.as_ref().filter(|given| given.covers(digest, terms)) {
                record.approval(given);
                return Ok(());
            }
            let message = message("a human has to approve this call first");
            Err(Kind::ApprovalRequired { digest, message, terms: Box::new(terms.clone()) })
        }
        (Verdict::Deny | Verdict::RequireApproval, _) => {
            Err(Denial::told("POLICY_DENIED", message("the policy does not allow this call")))
        }
    }
}

async fn dispatch(call: &Invocation, upstream: &Upstream, definition: &Definition, arguments: Value) -> Kind {
    let sent = Sent::default();
    let limit = limit(upstream, call);
    let Value::Object(arguments) = arguments else { return invalid("the arguments are no JSON object") };
    let outgoing = Call {
        tool: definition.tool.clone(),
        arguments,
        idempotency_key: call.idempotency_key.clone(),
        trace: trace::current(),
        sent: sent.clone(),
    };
    let made = async {
        let Ok(_turn) = upstream.gate.enter().await else {
            return Err(unavailable("the upstream is busy: too many calls wait for it"));
        };
        // The upstream may have been started again, with other tools, while the call waited for its turn.
        let state = upstream.state();
        let Some(session) = &state.session else { return Err(unavailable("the upstream of this tool is down")) };
        let current = state.catalogue.as_ref().and_then(|catalogue| catalogue.get(&definition.tool));
        if current.is_none_or(|current| current.hash != definition.hash) {
            return Err(Denial::told("TOOL_DEFINITION_CHANGED", "the tool has just changed"));
        }
        session.call(outgoing).await.map_err(Kind::Failed)
    };
    match within(&*upstream.clock, limit, made).await {
        Ok(Ok(answer)) => Kind::Answered(cap(answer, upstream.config.max_result_bytes.as_len())),
        Ok(Err(kind)) => kind,
        Err(_) => {
            let message = format!("the tool did not answer within {} ms", limit.as_millis());
            Kind::Failed(Failure::new(Reason::Timeout, sent.dispatch(), message))
        }
    }
}

/// The shorter of the upstream's time and the caller's, less what it takes to say so.
fn limit(upstream: &Upstream, call: &Invocation) -> Duration {
    let own = upstream.config.timeout;
    call.remaining.map_or(own, |left| own.min(left.saturating_sub(MARGIN.min(left / 5))))
}

fn unavailable(message: &str) -> Kind {
    Kind::Failed(Failure::new(Reason::Unavailable, Dispatch::NotSent, message))
}

fn invalid(message: impl Into<String>) -> Kind {
    Denial::told("ARGUMENTS_INVALID", message)
}
