//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit;
use crate::out::ColorChoice;

mod approvals;
mod blobs;
mod forks;
mod hooks;
mod sessions;

pub use approvals::{ApprovalArg, ApprovalStateName, ApprovalsCommand, ApprovalsListArgs, DecideArgs};
pub use blobs::{BlobGetArgs, BlobPutArgs, BlobsCommand};
pub use forks::{DiffArgs, ForkArgs};
pub use hooks::{DeadArgs, HooksCommand, RetryArgs};
pub use sessions::{EraseArgs, SessionArg, SessionStateName, SessionsCommand, SessionsListArgs};

/// Runs tasks as agents, durably, under limits and a policy.
#[derive(Debug, Parser)]
#[command(name = "mar", version, about, after_help = examples::TOP, max_term_width = 100)]
pub struct Cli {
    /// When to colour: auto respects terminals and NO_COLOR
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The examples, apart so that the types stay readable.
mod examples {
    pub(super) const TOP: &str = "\
Examples:
  mar up --docs ./docs                         start everything in one process
  mar run \"What is a halting policy?\" --tools 'docs.*'
  mar run - --schema answer.json --json < task.txt | jq .answer.json
  mar runs list

`mar COMMAND --help` has examples and exit codes of each command.";

    pub(super) const UP: &str = "\
Examples:
  mar up                                       SQLite and counters in process, under ~/.local/share/mar
  mar up --docs ./docs                         with full text search over a folder
  mar up --model-url http://127.0.0.1:8000/v1  with the models of an OpenAI-compatible server
  mar up --rehearse                            without any model: a scripted stand-in answers
  mar up --stores postgres,redis --postgres-url postgres://mar@localhost/mar --redis-url redis://localhost

It stops on Ctrl-C or SIGTERM; runs that are open go on at the next start.";

    pub(super) const RUN: &str = "\
Examples:
  mar run \"What is a halting policy?\" --tools 'docs.*'
  mar run \"Extract the invoice\" --schema invoice.json --json
  mar run - --max-steps 4 --max-cost 0.05 < task.txt
  mar run \"What is a seal?\" --recipe answer-with-sources --param language=German

Steps go to standard error, the answer to standard output. Ctrl-C cancels the run; a second one leaves at once.";

    pub(super) const RUNS: &str = "\
Examples:
  mar runs list --state failed
  mar runs show 01935c20                       the start of an id is enough
  mar runs watch sessions/01935c1e-…/runs/01935c20-…
  mar runs verify 01935c20                     0: the record is what was written; 1: it is not
  mar runs repeat 01935c20                     0: what the runtime decides is equal; 1: it is not
  mar runs fork 01935c20 --through 7           goes on from there; recorded calls are not made again
  mar runs diff 01935c31 01935c20              what differs between two runs of a session
  mar runs pause 01935c20                      parks it when nothing of it is in flight
  mar runs resume 01935c20
  mar runs submit 01935c20 3/0 --result out.json    the result of a call that the caller makes
  mar runs answer 01935c20 \"The red one.\"    what the agent asked for
  mar runs cancel 01935c20";

    pub(super) const APPROVALS: &str = "\
Examples:
  mar approvals list                           what waits for a decision
  mar approvals show 01935c20/3-0              the exact call; the start of the run's id is enough
  mar approvals approve 01935c20/3-0 --comment 'as agreed'
  mar approvals deny 01935c20/3-0 --yes        without asking, as scripts need it
  mar approvals list --json | jq -r '.approvals[].name'";

    pub(super) const SESSIONS: &str = "\
Examples:
  mar sessions list --state open
  mar sessions show 01935c1e-…
  mar sessions end 01935c1e-…                  cancels its runs and seals it
  mar sessions erase 01935c1e-… --yes          destroys its payloads, salts and keys for good
  mar sessions erase 01935c1e-… --end --yes    ends it first";

    pub(super) const BLOBS: &str = "\
Examples:
  mar blobs put report.pdf --session 01935c1e-…     tells the name that a task may use
  mar blobs put notes --type text/plain --session 01935c1e-… --json | jq -r .name
  mar blobs get sessions/01935c1e-…/blobs/9f86d0… --output report.pdf";

    pub(super) const HOOKS: &str = "\
Examples:
  mar hooks dead                               what no hook took, and why
  mar hooks dead --hook audit --json | jq -r '.notices[].name'
  mar hooks retry hooks/audit/notices/01935c20-….17";

    pub(super) const MODELS: &str = "\
Examples:
  mar models list
  mar models list --json | jq '.models[].name'";

    pub(super) const TOOLS: &str = "\
Examples:
  mar tools list
  mar tools list 'docs.*' --json";

    pub(super) const RENDER: &str = "\
Examples:
  mar render \"What is a halting policy?\"       the prompt that an agent would get, without running anything
  mar render \"What is a seal?\" --param language=German --json";

    pub(super) const REHEARSE: &str = "\
Examples:
  mar rehearse                                 plays a plain agent that searches once and answers
  mar rehearse docs/examples/rehearsal.toml --listen 127.0.0.1:9000

It is not a model. `mar up` finds it on its default address; name it with `mar run --model rehearsal`.";

    pub(super) const KEYS: &str = "\
Examples:
  mar keys new ./keys                          session.pem, generator.pem and their .pub.pem files
  mar keys api --id ci --tenant acme --principal ci --environment prod --scope '*'";
}

/// What `mar` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Starts all four services in this process
    #[command(after_help = examples::UP)]
    Up(UpArgs),
    /// Runs a task and shows its way to the answer
    #[command(after_help = examples::RUN, after_long_help = run_long_help())]
    Run(Box<RunArgs>),
    /// Lists, shows, follows, verifies, pauses, resumes, feeds and cancels runs
    #[command(after_help = examples::RUNS)]
    Runs {
        /// What to do with runs.
        #[command(subcommand)]
        command: RunsCommand,
    },
    /// Lists, shows and decides on calls that wait for people
    #[command(after_help = examples::APPROVALS)]
    Approvals {
        /// What to do with approvals.
        #[command(subcommand)]
        command: ApprovalsCommand,
    },
    /// Lists, shows, ends and erases sessions
    #[command(after_help = examples::SESSIONS)]
    Sessions {
        /// What to do with sessions.
        #[command(subcommand)]
        command: SessionsCommand,
    },
    /// Streams files into a session, and back
    #[command(after_help = examples::BLOBS)]
    Blobs {
        /// What to do with blobs.
        #[command(subcommand)]
        command: BlobsCommand,
    },
    /// Lists and sends again what hooks were not told
    #[command(after_help = examples::HOOKS)]
    Hooks {
        /// What to do with hooks.
        #[command(subcommand)]
        command: HooksCommand,
    },
    /// Models of the catalogue
    #[command(after_help = examples::MODELS)]
    Models {
        /// What to do with models.
        #[command(subcommand)]
        command: ModelsCommand,
    },
    /// Tools of the gateway
    #[command(after_help = examples::TOOLS)]
    Tools {
        /// What to do with tools.
        #[command(subcommand)]
        command: ToolsCommand,
    },
    /// Renders a task's prompt without running it
    #[command(after_help = examples::RENDER)]
    Render(RenderArgs),
    /// Plays a scripted stand-in for a model
    #[command(after_help = examples::REHEARSE)]
    Rehearse(RehearseArgs),
    /// Makes keys
    #[command(after_help = examples::KEYS)]
    Keys {
        /// Which keys.
        #[command(subcommand)]
        command: KeysCommand,
    },
}

fn run_long_help() -> String {
    format!("{}\n\n{}", examples::RUN, exit::HELP)
}

fn decide_long_help() -> String {
    format!(
        "{}\n\nThe call is shown first, and the decision holds for exactly that call. It is never the requester's own: \
         APPROVAL_NOT_ALLOWED ends with 77. An approval that is not open any more, or was decided by this caller already, \
         is APPROVAL_STATE and ends with 64.\n\n{}",
        examples::APPROVALS,
        exit::HELP
    )
}

fn erase_long_help() -> String {
    format!(
        "{}\n\nIt needs the scope sessions.erase. An open session is SESSION_OPEN, one of a tenant under legal hold LEGAL_HOLD; \
         both end with 64 and destroy nothing. Hashes, chains, seals and signatures stay, and `mar runs verify` says that \
         the payloads were erased.\n\n{}",
        examples::SESSIONS,
        exit::HELP
    )
}

fn verify_long_help() -> String {
    format!("{}\n\nEvery fault is listed with its place.\n\n{}", examples::RUNS, exit::HELP)
}

impl Command {
    /// Whether failures are to be told as JSON, too.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Run(args) => args.json,
            Self::Runs { command } => match command {
                RunsCommand::List(args) => args.json,
                RunsCommand::Show(args)
                | RunsCommand::Watch(args)
                | RunsCommand::Verify(args)
                | RunsCommand::Pause(args)
                | RunsCommand::Repeat(args)
                | RunsCommand::Resume(args)
                | RunsCommand::Cancel(args) => args.json,
                RunsCommand::Fork(args) => args.json,
                RunsCommand::Diff(args) => args.json,
                RunsCommand::Submit(args) => args.run.json,
                RunsCommand::Answer(args) => args.run.json,
            },
            Self::Approvals { command } => command.wants_json(),
            Self::Sessions { command } => command.wants_json(),
            Self::Blobs { command } => command.wants_json(),
            Self::Hooks { command } => command.wants_json(),
            Self::Models { command: ModelsCommand::List(args) } => args.json,
            Self::Tools { command: ToolsCommand::List(args) } => args.json,
            Self::Render(args) => args.json,
            Self::Up(_) | Self::Rehearse(_) | Self::Keys { .. } => false,
        }
    }
}

/// Where to call, as whom.
#[derive(Clone, Debug, Default, Args)]
pub struct EndpointArgs {
    /// Where the runtime answers, or the service that the command needs [default: 127.0.0.1:7410]
    #[arg(long, env = "MAR_ENDPOINT", value_name = "ADDRESS", help_heading = "Endpoint")]
    pub endpoint: Option<String>,
    /// API key; not needed for a runtime in dev mode on this machine
    #[arg(long, env = "MAR_API_KEY", hide_env_values = true, value_name = "KEY", help_heading = "Endpoint")]
    pub key: Option<String>,
}

/// `--stores`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreName {
    /// One file per service.
    Sqlite,
    /// Postgres.
    Postgres,
    /// Counters in this process.
    Memory,
    /// Counters in Redis.
    Redis,
}

/// `mar up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Where to serve
    #[arg(long, value_name = "ADDRESS", default_value = crate::endpoint::DEFAULT)]
    pub listen: String,
    /// Folder of keys and data [default: $XDG_DATA_HOME/mar, else ~/.local/share/mar]
    #[arg(long, env = "MAR_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Stores and counters to use [default: sqlite,memory]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STORE,COUNTERS")]
    pub stores: Vec<StoreName>,
    /// With `--stores postgres`
    #[arg(long, env = "MAR_POSTGRES_URL", hide_env_values = true, value_name = "URL")]
    pub postgres_url: Option<String>,
    /// With `--stores redis`
    #[arg(long, env = "MAR_REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub redis_url: Option<String>,
    /// Folder of documents to search; the tools are docs.search and docs.list
    #[arg(long, value_name = "FOLDER")]
    pub docs: Option<PathBuf>,
    /// Base URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1; looked for on well-known ports otherwise
    #[arg(long, env = "MAR_MODEL_URL", value_name = "URL")]
    pub model_url: Option<String>,
    /// Plays a rehearsal instead of models: the built-in agent, or a script
    #[arg(long, value_name = "SCRIPT", num_args = 0..=1, conflicts_with = "model_url")]
    pub rehearse: Option<Option<PathBuf>>,
    /// TOML file with keys that differ from what `mar up` sets
    #[arg(long, env = "MAR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Overrides one key, such as session.store.url=…; may be repeated
    #[arg(long, value_name = "TABLE.KEY=VALUE")]
    pub set: Vec<String>,
}

/// What a task is made of, for `run` and `render`.
#[derive(Clone, Debug, Args)]
pub struct TaskArgs {
    /// The task; `-` reads it from standard input
    #[arg(value_name = "TASK")]
    pub input: String,
    /// Kind of task [default: answer]
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// Prompt recipe [default: the one for the type]
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<String>,
    /// Value for the recipe's template; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub param: Vec<(String, String)>,
    /// File with a JSON Schema that the answer has to fit
    #[arg(long, value_name = "FILE")]
    pub schema: Option<PathBuf>,
}

/// `mar run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The task.
    #[command(flatten)]
    pub task: TaskArgs,
    /// Session to run in, by name or id [default: a new one]
    #[arg(long, value_name = "SESSION")]
    pub session: Option<String>,
    /// Tools the agent may have: upstream.tool, upstream.* or *; separated by commas [default: none]
    #[arg(long, value_delimiter = ',', value_name = "TOOLS")]
    pub tools: Vec<String>,
    /// JSON file with tools that the caller executes: [{name, description, input_schema, …}]
    #[arg(long, value_name = "FILE")]
    pub caller_tools: Option<PathBuf>,
    /// Lets the agent ask questions, which `mar runs answer` answers
    #[arg(long)]
    pub may_ask: bool,
    /// Turns of the model at the most
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Limits")]
    pub max_steps: Option<i64>,
    /// Tool calls at the most
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Limits")]
    pub max_tool_calls: Option<i64>,
    /// Cost at the most, such as 0.05
    #[arg(long, value_name = "USD", value_parser = nano_usd, allow_hyphen_values = true, help_heading = "Limits")]
    pub max_cost: Option<i64>,
    /// Time in RUNNING at the most, such as 90s or 5m
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true, help_heading = "Limits")]
    pub max_time: Option<Duration>,
    /// Routing policy that orders the models that fit
    #[arg(long, value_name = "POLICY", help_heading = "Model")]
    pub model_policy: Option<String>,
    /// Only this model; may be repeated
    #[arg(long, value_name = "MODEL", help_heading = "Model")]
    pub model: Vec<String>,
    /// File with a Cedar policy that narrows what the agent may do
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Label of the run; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
    /// One JSON object on standard output and nothing else
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

/// `mar runs`.
#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// Lists runs, newest first
    #[command(after_help = examples::RUNS)]
    List(RunsListArgs),
    /// Shows a run and its events
    #[command(after_help = examples::RUNS)]
    Show(RunArg),
    /// Follows a run to its end, from its first event
    #[command(after_help = examples::RUNS)]
    Watch(RunArg),
    /// Recomputes hashes, chain, commitments and signatures of a run
    #[command(after_help = examples::RUNS, after_long_help = verify_long_help())]
    Verify(RunArg),
    /// Starts a run that shares another's record up to an event, and follows it
    #[command(after_help = examples::RUNS)]
    Fork(ForkArgs),
    /// Runs a run again on its recorded results, and says what came out the same
    #[command(after_help = examples::RUNS)]
    Repeat(RunArg),
    /// Says how two runs of a session differ
    #[command(after_help = examples::RUNS)]
    Diff(DiffArgs),
    /// Parks a run when nothing of it is in flight
    #[command(after_help = examples::RUNS)]
    Pause(RunArg),
    /// Lets a paused run go on
    #[command(after_help = examples::RUNS)]
    Resume(RunArg),
    /// Gives the result of a call that waits for its caller to make it
    #[command(after_help = examples::RUNS)]
    Submit(SubmitArgs),
    /// Answers a question that an agent asks its caller
    #[command(after_help = examples::RUNS)]
    Answer(AnswerArgs),
    /// Asks a run to stop
    #[command(after_help = examples::RUNS)]
    Cancel(RunArg),
}

/// `mar runs submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// Which run.
    #[command(flatten)]
    pub run: RunArg,
    /// The call: STEP/INDEX, or its whole id
    #[arg(value_name = "CALL")]
    pub call: String,
    /// File with the result, as text or JSON; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub result: PathBuf,
    /// The call failed, and the result says why
    #[arg(long)]
    pub error: bool,
}

/// `mar runs answer`.
#[derive(Debug, Args)]
pub struct AnswerArgs {
    /// Which run.
    #[command(flatten)]
    pub run: RunArg,
    /// The answer; `-` reads it from standard input
    #[arg(value_name = "TEXT")]
    pub text: String,
    /// The call that asks: STEP/INDEX, or its whole id [default: the first that waits]
    #[arg(long, value_name = "CALL")]
    pub call: Option<String>,
}

/// `mar runs list`.
#[derive(Debug, Args)]
pub struct RunsListArgs {
    /// Only runs of this session
    #[arg(long, value_name = "SESSION")]
    pub session: Option<String>,
    /// Only runs in this state
    #[arg(long, value_enum, value_name = "STATE")]
    pub state: Option<StateName>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000), allow_hyphen_values = true, value_name = "N")]
    pub limit: u32,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

/// A state, as a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "as the API names them")]
pub enum StateName {
    Pending,
    Running,
    Waiting,
    Succeeded,
    Failed,
    Halted,
    Denied,
    Cancelled,
}

/// One run.
#[derive(Debug, Args)]
pub struct RunArg {
    /// sessions/…/runs/…, an id, or the start of one
    #[arg(value_name = "RUN")]
    pub run: String,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

/// `mar models`.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Lists the models, and which of them can be used now
    #[command(after_help = examples::MODELS)]
    List(ListArgs),
}

/// `mar models list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

/// `mar tools`.
#[derive(Debug, Subcommand)]
pub enum ToolsCommand {
    /// Lists the tools
    #[command(after_help = examples::TOOLS)]
    List(ToolsListArgs),
}

/// `mar tools list`.
#[derive(Debug, Args)]
pub struct ToolsListArgs {
    /// Only these: upstream.tool, upstream.* or *
    #[arg(value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

/// `mar render`.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// The task.
    #[command(flatten)]
    pub task: TaskArgs,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

/// `mar rehearse`.
#[derive(Debug, Args)]
pub struct RehearseArgs {
    /// The script [default: the built-in agent]
    #[arg(value_name = "SCRIPT")]
    pub script: Option<PathBuf>,
    /// The same
    #[arg(long = "script", value_name = "SCRIPT", conflicts_with = "script", hide = true)]
    pub script_option: Option<PathBuf>,
    /// Where to serve
    #[arg(long, value_name = "ADDRESS", default_value = crate::rehearse::DEFAULT)]
    pub listen: SocketAddr,
}

/// `mar keys`.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Makes the key pairs of session and agent-generator in a folder
    #[command(after_help = examples::KEYS)]
    New {
        /// The folder; keys that are there stay
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Makes an API key and prints it with its entry for the configuration
    #[command(after_help = examples::KEYS)]
    Api(ApiKeyArgs),
}

/// `mar keys api`.
#[derive(Debug, Args)]
pub struct ApiKeyArgs {
    /// Name of the key: a-z, 0-9 and -
    #[arg(long)]
    pub id: String,
    /// The caller's tenant
    #[arg(long, default_value = "dev")]
    pub tenant: String,
    /// The caller's principal [default: the id]
    #[arg(long)]
    pub principal: Option<String>,
    /// The caller's environment
    #[arg(long, default_value = "dev")]
    pub environment: String,
    /// Group of the caller, such as one whose members decide on approvals; may be repeated
    #[arg(long = "group", value_name = "GROUP")]
    pub groups: Vec<String>,
    /// What the key allows; may be repeated
    #[arg(long = "scope", default_value = "*")]
    pub scopes: Vec<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE".to_owned()),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "must be a time such as 90s or 5m".to_owned())
}

/// A decimal amount of USD in nano-USD, exactly.
fn nano_usd(text: &str) -> Result<i64, String> {
    let wrong = || "must be an amount of 0 or more such as 0.05, with at most 9 decimals".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return Err(wrong());
    }
    let nano = format!("{whole}{fraction:0<9}");
    nano.parse().map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_commands_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn money_is_exact() {
        assert_eq!(nano_usd("0.05"), Ok(50_000_000));
        assert_eq!(nano_usd("12"), Ok(12_000_000_000));
        assert_eq!(nano_usd("0.000000001"), Ok(1));
        for wrong in ["", "-1", "1e3", ".5", "0.0000000001", "99999999999999999999", "a"] {
            assert!(nano_usd(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_rehearsal_of_up_may_have_a_script() {
        let up = |args: &[&str]| match Cli::try_parse_from([&["mar", "up"], args].concat()).unwrap().command {
            Command::Up(args) => args.rehearse,
            _ => panic!(),
        };
        assert_eq!(up(&[]), None);
        assert_eq!(up(&["--rehearse"]), Some(None));
        assert_eq!(up(&["--rehearse", "a.toml"]), Some(Some("a.toml".into())));
    }
}
