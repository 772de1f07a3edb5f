//! The other services: an agent for each kind of task, a model that plays it, and tools that remember.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use mar_descriptor::{Descriptor, ModelRole, RolePrompt, Sampling};
use mar_proto::agent::{GenerateAgentRequest, GenerateAgentResponse};
use mar_proto::router::stream_generate_response::Frame;
use mar_proto::router::{ProviderAttempt, StreamGenerateResponse, Turn, TurnDelta};
use mar_proto::session::{Agent, ReservationPrice};
use mar_proto::tool::{
    ApprovalRequired, HandedOver, InvokeToolRequest, InvokeToolResponse, ReceiveResultRequest, ReceiveResultResponse,
    invoke_tool_response::Outcome, receive_result_response,
};
use mar_proto::types::{
    Executor, Message, Part as Piece, Role, SealedDescriptor, ToolCall, ToolDefinition, ToolResult, Usage,
    part::Content,
};
use mar_session::clients::{Peers, Refusal, RunContext, TurnRequest, TurnStream};
use mar_session::run::SUMMARISE;
use prost::Message as _;

use crate::link::{Chance, Link, Lost, Part};
use crate::story::Kind;

/// Declared idempotent: one effect for each key.
pub const SURE: &str = "tools/sure.apply";
/// Not: an effect each time.
pub const ONCE: &str = "tools/once.append";
/// Not either, and a policy wants people to be asked.
pub const MAIL: &str = "tools/mail.send";
/// Only reads.
pub const PEEK: &str = "tools/peek.read";
/// The caller's.
const LOOK: &str = "tools/caller.look";
/// A question to the caller.
const ASK: &str = "tools/caller.ask";
/// The runtime's: child runs.
const DELEGATE: &str = "tools/runtime.delegate";
const SCHEMA: &str = r#"{"type":"object","required":["answer"],"properties":{"answer":{"type":"string"}}}"#;

/// The message of every task, behind what was said before.
pub const TASK: &str = "go on";

/// Tokens of the window of agents whose conversations outgrow it.
const NARROW: i64 = 1_500;
/// Where arguments ask for it a result is so long that it is worth leaving out.
const WIDE: &str = "wide";

/// What tools remember: calls and effects by tool and key.
#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<Mutex<Entries>>);

/// Calls and effects by tool and key.
pub type Entries = BTreeMap<(String, String), (usize, usize)>;

impl Journal {
    fn call(&self, tool: &str, key: &str) {
        let mut journal = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (calls, effects) = journal.entry((tool.to_owned(), key.to_owned())).or_default();
        *calls += 1;
        *effects = match tool {
            SURE => 1,
            PEEK => 0,
            _ => *effects + 1,
        };
    }

    pub fn entries(&self) -> Entries {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The prompts that models were given for turns, by generation.
#[derive(Debug, Clone, Default)]
pub struct Prompts(Arc<Mutex<BTreeMap<String, Vec<Arc<Message>>>>>);

impl Prompts {
    fn note(&self, generation: &str, messages: &[Arc<Message>]) {
        let mut prompts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        prompts.insert(generation.to_owned(), messages.to_vec());
    }

    /// The prompt of a generation, where a model has heard of it.
    pub fn of(&self, generation: &str) -> Option<Vec<Arc<Message>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(generation).cloned()
    }
}

/// A replica's connection to its peers.
pub struct SimPeers {
    pub link: Arc<Link>,
    pub journal: Journal,
    pub prompts: Prompts,
}

/// Words, and as many more as chance has it.
pub fn said(chance: &Chance, words: &str) -> String {
    let more = usize::try_from(chance.below(24)).unwrap_or(0);
    format!("{words} {}", "and so on ".repeat(more))
}

fn text(text: &str) -> Piece {
    Piece { content: Some(Content::Text(text.to_owned())), ..Piece::default() }
}

fn agent(kind: Kind) -> Agent {
    static DESCRIPTORS: LazyLock<[SealedDescriptor; 3]> =
        LazyLock::new(|| [Kind::Chain, Kind::Form, Kind::Long].map(descriptor));
    let tool = |name: &&str| ToolDefinition {
        name: (*name).to_owned(),
        alias: name.trim_start_matches("tools/").replace('.', "_"),
        input_schema_json: r#"{"type":"object"}"#.to_owned(),
        definition_hash: format!("sha256:{name}"),
        idempotent: *name == SURE,
        read_only: *name == PEEK,
        executor: executor(name).into(),
        ..ToolDefinition::default()
    };
    let tools: &[&str] = match kind {
        Kind::Family => &[SURE, ONCE, PEEK, DELEGATE],
        Kind::Errand => &[SURE, PEEK, LOOK, ASK],
        _ => &[SURE, ONCE, PEEK, MAIL],
    };
    let message = |role: Role, said: &str| Message { role: role.into(), parts: vec![text(said)] };
    let sealed = match kind {
        Kind::Form => 1,
        kind if sums_up(kind) => 2,
        _ => 0,
    };
    Agent {
        descriptor: Some(DESCRIPTORS[sealed].clone()),
        // What was said before in the session comes between the two.
        prompt: vec![message(Role::System, kind.word()), message(Role::User, TASK)],
        tools: tools.iter().map(tool).collect(),
        price: Some(ReservationPrice { input_per_million: 3_000_000_000, output_per_million: 15_000_000_000 }),
        context_tokens: if is_narrow(kind) { NARROW } else { 0 },
    }
}

/// Whether the agent can have something summed up.
fn sums_up(kind: Kind) -> bool {
    is_narrow(kind) || kind == Kind::Talk
}

/// Whether the agent's window is too small for all that it is told.
fn is_narrow(kind: Kind) -> bool {
    matches!(kind, Kind::Long | Kind::Thrift)
}

fn descriptor(kind: Kind) -> SealedDescriptor {
    let mut descriptor = Descriptor::default();
    let sampling = Sampling { max_output_tokens: 100, ..Sampling::default() };
    descriptor
        .model
        .roles
        .insert("reason".to_owned(), ModelRole { sampling: sampling.clone(), ..ModelRole::default() });
    if sums_up(kind) {
        descriptor.model.roles.insert(SUMMARISE.to_owned(), ModelRole { sampling, ..ModelRole::default() });
        descriptor.prompt.roles.insert(SUMMARISE.to_owned(), RolePrompt::new("sum it up"));
    }
    descriptor.prompt.output_schema = (kind == Kind::Form).then(|| SCHEMA.to_owned());
    let sealed = || Some((descriptor.hash().ok()?.to_string(), descriptor.canonical().ok()?));
    let (hash, canonical) = sealed().unwrap_or_default();
    SealedDescriptor { hash, canonical: canonical.into(), signatures: Vec::new() }
}

/// Who makes calls of a tool.
fn executor(tool: &str) -> Executor {
    match tool {
        LOOK | ASK => Executor::Caller,
        DELEGATE => Executor::Runtime,
        _ => Executor::Unspecified,
    }
}

fn call(chance: &Chance, tool: &str, step: i64, index: usize, kind: Kind) -> Piece {
    let n = match chance.below(12) {
        // What a fork's origin has not asked for, mostly.
        0 => step + 100,
        // What was asked before, perhaps.
        1 | 2 => 7,
        _ => step,
    };
    let arguments_json = match tool {
        DELEGATE if step == 1 => r#"{"tasks":["leaf 1","leaf 2","leaf 3","leaf 4","leaf 5"]}"#.to_owned(),
        DELEGATE => r#"{"tasks":["leaf 6","leaf 7"]}"#.to_owned(),
        _ if is_narrow(kind) && step % 3 == 1 => format!(r#"{{"n":{step},"{WIDE}":true}}"#),
        _ => format!(r#"{{"n":{n}}}"#),
    };
    let call = ToolCall {
        provider_call_id: format!("call_{step}_{index}"),
        tool: tool.to_owned(),
        arguments_json,
        ..ToolCall::default()
    };
    Piece { content: Some(Content::ToolCall(call)), ..Piece::default() }
}

fn refusal(reason: &str, transient: bool, never_sent: bool) -> Refusal {
    let message = "simulated".to_owned();
    Refusal {
        reason: reason.to_owned(),
        message,
        transient,
        never_sent,
        retry_after: None,
        spent: None,
        failed_models: Vec::new(),
        attempts: Box::default(),
    }
}

fn lost(lost: Lost) -> Refusal {
    refusal("PEER_UNAVAILABLE", true, lost == Lost::NeverSent)
}

impl SimPeers {
    /// What the model says in this step.
    fn turn(&self, kind: Kind, step: i64, input_tokens: i64) -> Turn {
        let chance = &self.link.chance;
        let calls =
            |tools: &[&str]| tools.iter().enumerate().map(|(at, tool)| call(chance, tool, step, at, kind)).collect();
        let stranger = chance.once_in(12) && kind != Kind::Form;
        let parts: Vec<Piece> = match kind {
            _ if stranger => calls(&["tools/nobody.knows"]),
            _ if chance.once_in(10) && kind != Kind::Form => calls(&[PEEK, SURE]),
            Kind::Talk if step == 1 && chance.once_in(2) => calls(&[PEEK]),
            Kind::Talk => vec![text(&said(chance, "so it is"))],
            Kind::Chain | Kind::Long | Kind::Thrift => calls(&[SURE]),
            Kind::Pairs => calls(&[SURE, ONCE]),
            Kind::Family if step == 1 => calls(&[DELEGATE]),
            Kind::Family if step == 2 && chance.once_in(2) => calls(&[SURE, DELEGATE]),
            Kind::Family => vec![text("all have come home")],
            Kind::Leaf if step < 4 => calls(if chance.once_in(3) { &[SURE, ONCE] } else { &[SURE] }),
            Kind::Leaf => vec![text("a leaf")],
            Kind::Errand if step == 1 => calls(&[LOOK]),
            Kind::Errand if step == 2 => calls(if chance.once_in(2) { &[ASK] } else { &[LOOK, ASK, SURE] }),
            Kind::Errand => vec![text("thank you")],
            Kind::Medley if step == 1 => calls(&[SURE, ONCE, MAIL]),
            Kind::Form if step == 1 => calls(&[ONCE]),
            Kind::Form if chance.once_in(3) => vec![text(r#"{"said":"something else"}"#)],
            Kind::Form => vec![text(r#"{"answer":"42"}"#)],
            Kind::Medley => vec![text("all have been asked")],
        };
        let asks = parts.iter().any(|part| matches!(part.content, Some(Content::ToolCall(_))));
        Turn {
            message: Some(Message { role: Role::Assistant.into(), parts }),
            model: "models/simulated".into(),
            usage: Some(Usage { input_tokens, output_tokens: 20, cost_nano_usd: 450_000, ..Usage::default() }),
            finish_reason: if asks { "TOOL_CALLS" } else { "STOP" }.into(),
            ..Turn::default()
        }
    }
}

/// What a prompt takes: at most what was reserved for it, and more the longer it is where that matters.
fn counted(kind: Kind, request: &TurnRequest) -> i64 {
    if !is_narrow(kind) && request.model_role != SUMMARISE {
        return 50;
    }
    let bytes: usize = request.messages.iter().map(|message| message.encoded_len()).sum();
    i64::try_from(bytes / 2).unwrap_or(i64::MAX).min(request.budget.max_input_tokens)
}

/// Notes on what was done so far; now and then there are none.
fn notes(chance: &Chance, input_tokens: i64) -> Turn {
    let said = if chance.once_in(12) { "" } else { "so far so good" };
    Turn {
        message: Some(Message { role: Role::Assistant.into(), parts: vec![text(said)] }),
        model: "models/simulated".into(),
        usage: Some(Usage { input_tokens, output_tokens: 20, cost_nano_usd: 450_000, ..Usage::default() }),
        finish_reason: "STOP".into(),
        ..Turn::default()
    }
}

fn frame(frame: Frame) -> StreamGenerateResponse {
    StreamGenerateResponse { frame: Some(frame) }
}

#[async_trait]
impl Peers for SimPeers {
    async fn generate_agent(
        &self,
        context: &RunContext,
        request: GenerateAgentRequest,
    ) -> Result<GenerateAgentResponse, Refusal> {
        let kind = Kind::of_task(&request.task.unwrap_or_default());
        let answer = || GenerateAgentResponse { name: String::new(), agent: Some(agent(kind)) };
        self.link.trip(Part::Generator, context.run, answer).await.map_err(lost)
    }

    async fn stream_generate(
        &self,
        context: &RunContext,
        request: TurnRequest,
        deadline: Duration,
    ) -> Result<TurnStream, Refusal> {
        let said = request.messages.first().and_then(|message| message.parts.first()?.content.clone());
        if request.model_role != SUMMARISE {
            self.prompts.note(&request.generation_id, &request.messages);
        }
        let kind = Kind::named(match &said {
            Some(Content::Text(word)) => word,
            _ => "",
        });
        let step: i64 = request.generation_id.split('/').nth(1).and_then(|step| step.parse().ok()).unwrap_or(0);
        let chance = self.link.chance.clone();
        let model = String::from("models/simulated");
        let mut frames = vec![Ok(frame(Frame::Attempt(ProviderAttempt { attempt: 1, model })))];
        let delta = || Frame::Delta(TurnDelta { text: "so ".into(), ..TurnDelta::default() });
        frames.extend((0..chance.below(4)).map(|_| Ok(frame(delta()))));
        let calm = self.link.weather.is_calm();
        match chance.below(if calm { 1_000_000 } else { 60 }) {
            1 => frames.push(Err(refusal("PROVIDER_BROKEN", true, false))),
            2 => frames.push(Err(refusal("PEER_UNAVAILABLE", true, false))),
            3 => {}
            _ => {
                let tokens = counted(kind, &request);
                let sums_up = request.model_role == SUMMARISE;
                let turn = if sums_up { notes(&chance, tokens) } else { self.turn(kind, step, tokens) };
                frames.push(Ok(frame(Frame::Turn(turn))));
            }
        }
        self.link.trip(Part::Router, context.run, || ()).await.map_err(lost)?;
        let (link, until) = (Arc::clone(&self.link), self.link.time.now() + deadline);
        let paced = futures::stream::iter(frames).then(move |frame| {
            let link = Arc::clone(&link);
            async move {
                let slow = link.chance.once_in(40);
                link.time
                    .sleep(if slow { link.chance.span(100_000, 2_000_000) } else { link.chance.span(500, 30_000) })
                    .await;
                link.alive().await;
                if link.time.now() > until { Err(refusal("DEADLINE_EXCEEDED", true, false)) } else { frame }
            }
        });
        Ok(paced.boxed())
    }

    async fn invoke_tool(
        &self,
        context: &RunContext,
        request: InvokeToolRequest,
        deadline: Duration,
    ) -> Result<InvokeToolResponse, Refusal> {
        let (link, until) = (&self.link, self.link.time.now() + deadline);
        let slow = link.chance.once_in(20);
        let done = link.trip(Part::Gateway, context.run, || {
            if request.decide_only {
                // What a tool has said is let through; of anything else nothing is sent.
                let recorded = request.recorded.and_then(|recorded| recorded.result);
                let handed_over = HandedOver { executor: executor(&request.tool).into() };
                return recorded.map_or(Outcome::HandedOver(handed_over), Outcome::Result);
            }
            if request.tool == MAIL && request.approval.is_none() {
                return Outcome::ApprovalRequired(ApprovalRequired {
                    call_digest: format!("sha256:{}", request.call_id),
                    message: "mail leaves the house".into(),
                    needed: 1,
                    expires_after: Some(prost_types::Duration { seconds: 8, nanos: 0 }),
                    ..ApprovalRequired::default()
                });
            }
            let executor = executor(&request.tool);
            if executor != Executor::Unspecified {
                return Outcome::HandedOver(HandedOver { executor: executor.into() });
            }
            self.journal.call(&request.tool, &request.idempotency_key);
            let said = match request.arguments_json.contains(WIDE) {
                true => request.idempotency_key.repeat(1 + 2_000 / request.idempotency_key.len().max(1)),
                false => request.idempotency_key.clone(),
            };
            Outcome::Result(ToolResult { content: vec![text(&said)], ..ToolResult::default() })
        });
        let outcome = done.await.map_err(lost)?;
        if slow {
            link.time.sleep(link.chance.span(100_000, 3_000_000)).await;
            link.alive().await;
        }
        if link.time.now() > until {
            return Err(refusal("DEADLINE_EXCEEDED", true, false));
        }
        Ok(InvokeToolResponse { outcome: Some(outcome), ..InvokeToolResponse::default() })
    }

    async fn receive_result(
        &self,
        context: &RunContext,
        request: ReceiveResultRequest,
        _: Duration,
    ) -> Result<ReceiveResultResponse, Refusal> {
        let answer = || ReceiveResultResponse {
            outcome: request.result.map(receive_result_response::Outcome::Result),
            ..ReceiveResultResponse::default()
        };
        self.link.trip(Part::Gateway, context.run, answer).await.map_err(lost)
    }

    fn forget(&self, _: &RunContext) {}
}
