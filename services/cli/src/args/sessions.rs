//! The command line of `mar sessions`.

use clap::{Args, Subcommand, ValueEnum};

use super::{EndpointArgs, PageArgs, examples};

/// `mar sessions`.
#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// Lists sessions, newest first
    #[command(after_help = examples::SESSIONS)]
    List(SessionsListArgs),
    /// Shows a session
    #[command(after_help = examples::SESSIONS)]
    Show(SessionArg),
    /// Cancels what runs in a session, and ends and seals it
    #[command(after_help = examples::SESSIONS)]
    End(SessionArg),
    /// Destroys what an ended session holds; its chains and seals stay
    #[command(after_help = examples::SESSIONS, after_long_help = examples::erase_long_help())]
    Erase(EraseArgs),
}

impl SessionsCommand {
    /// Whether failures are to be told as JSON, too.
    pub(super) fn wants_json(&self) -> bool {
        match self {
            Self::List(args) => args.page.json,
            Self::Show(args) | Self::End(args) => args.json,
            Self::Erase(args) => args.session.json,
        }
    }
}

/// `mar sessions list`.
#[derive(Debug, Args)]
pub struct SessionsListArgs {
    /// Only sessions in this state
    #[arg(long, value_enum, ignore_case = true, value_name = "STATE")]
    pub state: Option<SessionStateName>,
    /// How much, how, and from where.
    #[command(flatten)]
    pub page: PageArgs<20>,
}

/// A state, as a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "as the API names them")]
pub enum SessionStateName {
    Open,
    Ending,
    Ended,
    Erased,
}

/// One session.
#[derive(Debug, Args)]
pub struct SessionArg {
    /// sessions/… or the session's id
    #[arg(value_name = "SESSION")]
    pub session: String,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

/// `mar sessions erase`.
#[derive(Debug, Args)]
pub struct EraseArgs {
    /// Which.
    #[command(flatten)]
    pub session: SessionArg,
    /// Ends the session first, where it is open
    #[arg(long)]
    pub end: bool,
    /// Erases; without it nothing is done but to say what would be
    #[arg(long, short)]
    pub yes: bool,
}
