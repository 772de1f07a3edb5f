use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::arguments::{Arguments, MAX_ARGUMENT_FACT_BYTES, MAX_ARGUMENT_VALUES};

pub(crate) mod arguments;
pub(crate) mod cedar;

/// Where in a run a decision is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Point {
    /// May this caller start this session?
    StartSession,
    /// May this agent use this model?
    SelectModel,
    /// May this prompt be sent?
    ShapePrompt,
    /// May this agent be offered this tool?
    ListTool,
    /// May this agent make this call?
    CallTool,
    /// May this result reach the agent?
    ReceiveResult,
    /// May this answer be given?
    GiveAnswer,
}

impl Point {
    /// Every decision point, in the order of its declaration.
    pub const ALL: [Self; 7] = [
        Self::StartSession,
        Self::SelectModel,
        Self::ShapePrompt,
        Self::ListTool,
        Self::CallTool,
        Self::ReceiveResult,
        Self::GiveAnswer,
    ];

    /// Whether a service decides here. A rule about a point that nobody decides would never be asked, so policies with
    /// such a rule are refused: `agent-generator` decides on models, prompts and listed tools while it synthesises,
    /// `tool-gateway` on calls and their results.
    pub fn is_decided(self) -> bool {
        match self {
            Self::SelectModel | Self::ShapePrompt | Self::ListTool | Self::CallTool | Self::ReceiveResult => true,
            Self::StartSession | Self::GiveAnswer => false,
        }
    }

    /// The name of the Cedar action.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StartSession => "startSession",
            Self::SelectModel => "selectModel",
            Self::ShapePrompt => "shapePrompt",
            Self::ListTool => "listTool",
            Self::CallTool => "callTool",
            Self::ReceiveResult => "receiveResult",
            Self::GiveAnswer => "giveAnswer",
        }
    }
}

/// How far an operator trusts a tool or model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TrustTier {
    /// Nobody has looked at it.
    #[default]
    Unverified,
    /// Being tried.
    Experimental,
    /// Behaves as its policies ask.
    Aligned,
    /// Fit for production.
    Production,
}

impl TrustTier {
    /// The tier's name as policies see it in `trust_tier`. `trust_rank` is its position from 0.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unverified => "UNVERIFIED",
            Self::Experimental => "EXPERIMENTAL",
            Self::Aligned => "ALIGNED",
            Self::Production => "PRODUCTION",
        }
    }
}

/// Who is calling, as the authentication layer says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The tenant.
    pub tenant: String,
    /// The principal's name.
    pub principal: String,
    /// The environment bound to the caller.
    pub environment: String,
    /// Groups of the principal.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// Scopes of the credential.
    #[serde(default)]
    pub scopes: BTreeSet<String>,
    /// On whose behalf the principal acts, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_user: Option<String>,
}

/// The agent that acts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its descriptor hash; empty while it is being synthesised.
    pub id: String,
    /// Its role.
    pub role: String,
    /// The purpose of its session.
    pub purpose: String,
    /// The type of its task.
    pub task_type: String,
    /// The caller that it acts for.
    pub caller: Caller,
}

/// A tool in the registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// `upstream.tool`.
    pub name: String,
    /// The upstream that offers it.
    pub upstream: String,
    /// Whether the operator declares that it changes nothing.
    pub read_only: bool,
    /// Whether the operator declares that repeating a call with its key is harmless.
    pub idempotent: bool,
    /// How far it is trusted.
    pub trust_tier: TrustTier,
}

/// A model in the catalogue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Its provider.
    pub provider: String,
    /// How far it is trusted.
    pub trust_tier: TrustTier,
    /// Regions where it may process data.
    #[serde(default)]
    pub residency: BTreeSet<String>,
}

/// A session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id; empty before it exists, and while an agent is synthesised.
    pub id: String,
    /// What it is for.
    pub purpose: String,
    /// Its labels, each `key=value`.
    #[serde(default)]
    pub labels: BTreeSet<String>,
}

/// A final answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its size in bytes.
    pub bytes: u64,
    /// How many citations it carries.
    pub citations: u64,
    /// Whether the task asked for an output schema.
    pub structured: bool,
}

/// What a tool returned, as far as policies see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultFacts {
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether the tool reports an error.
    pub is_error: bool,
    /// What is conspicuous in it, such as `invisible_characters`.
    #[serde(default)]
    pub findings: BTreeSet<String>,
}

/// What the host knows about the run. Before a run exists, the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFacts {
    /// The step, from 1; 0 outside a run.
    pub step: u64,
    /// Tool calls made so far.
    pub tool_calls: u64,
    /// Whether untrusted content has influenced the run.
    pub taint: bool,
    /// Classes of the data that the run has touched.
    #[serde(default)]
    pub data_classes: BTreeSet<String>,
}

/// What is being decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "point", rename_all = "camelCase")]
pub enum Question {
    /// Session start.
    StartSession {
        /// Who asks.
        caller: Caller,
        /// For which session.
        session: Session,
    },
    /// Model selection, once per model.
    SelectModel {
        /// The agent, or the one being synthesised.
        agent: Agent,
        /// The model in question.
        model: Model,
    },
    /// Prompt.
    ShapePrompt {
        /// The agent.
        agent: Agent,
        /// Its session.
        session: Session,
        /// The size of the rendered prompt in bytes.
        prompt_bytes: u64,
    },
    /// Tool list, once per tool.
    ListTool {
        /// The agent, or the one being synthesised.
        agent: Agent,
        /// The tool in question.
        tool: Tool,
    },
    /// Tool call.
    CallTool {
        /// The agent.
        agent: Agent,
        /// The tool that it calls.
        tool: Tool,
        /// Whether the verified descriptor holds the tool with the definition that it has now.
        sealed: bool,
        /// With what.
        arguments: Arguments,
    },
    /// Tool result.
    ReceiveResult {
        /// The agent.
        agent: Agent,
        /// The tool that answered.
        tool: Tool,
        /// What came back.
        result: ResultFacts,
    },
    /// Final answer.
    GiveAnswer {
        /// The agent.
        agent: Agent,
        /// The answer.
        answer: Answer,
    },
}

/// One question with the facts of its run. Serialises without the arguments' content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What is asked.
    pub question: Question,
    /// What is known about the run.
    pub run: RunFacts,
}

impl Request {
    /// A question outside or at the very start of a run.
    pub fn new(question: Question) -> Self {
        Self { question, run: RunFacts::default() }
    }

    /// The same question at this moment of a run.
    #[must_use]
    pub fn in_run(mut self, run: RunFacts) -> Self {
        self.run = run;
        self
    }

    /// Gives a recorded tool call its arguments back, so that it can be decided again. No effect on other questions.
    /// That `value` is what the recorded digest names is for the caller to check.
    #[must_use]
    pub fn with_arguments(mut self, value: Value) -> Self {
        if let Question::CallTool { arguments, .. } = &mut self.question {
            arguments.restore(value);
        }
        self
    }

    /// The decision point.
    pub fn point(&self) -> Point {
        match &self.question {
            Question::StartSession { .. } => Point::StartSession,
            Question::SelectModel { .. } => Point::SelectModel,
            Question::ShapePrompt { .. } => Point::ShapePrompt,
            Question::ListTool { .. } => Point::ListTool,
            Question::CallTool { .. } => Point::CallTool,
            Question::ReceiveResult { .. } => Point::ReceiveResult,
            Question::GiveAnswer { .. } => Point::GiveAnswer,
        }
    }

    /// The environment of the caller.
    pub fn environment(&self) -> &str {
        match &self.question {
            Question::StartSession { caller, .. } => &caller.environment,
            Question::SelectModel { agent, .. }
            | Question::ShapePrompt { agent, .. }
            | Question::ListTool { agent, .. }
            | Question::CallTool { agent, .. }
            | Question::ReceiveResult { agent, .. }
            | Question::GiveAnswer { agent, .. } => &agent.caller.environment,
        }
    }
}
