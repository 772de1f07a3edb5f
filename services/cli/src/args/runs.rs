//! The command line of `mar runs`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{DiffArgs, EndpointArgs, ForkArgs, PageArgs, examples};

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
    #[command(after_help = examples::RUNS, after_long_help = examples::verify_long_help())]
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

impl RunsCommand {
    /// Whether failures are to be told as JSON, too.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::List(args) => args.page.json,
            Self::Show(args)
            | Self::Watch(args)
            | Self::Verify(args)
            | Self::Pause(args)
            | Self::Repeat(args)
            | Self::Resume(args)
            | Self::Cancel(args) => args.json,
            Self::Fork(args) => args.json,
            Self::Diff(args) => args.json,
            Self::Submit(args) => args.run.json,
            Self::Answer(args) => args.run.json,
        }
    }
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
    #[arg(long, value_enum, ignore_case = true, value_name = "STATE")]
    pub state: Option<StateName>,
    /// How much, how, and from where.
    #[command(flatten)]
    pub page: PageArgs<20>,
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
