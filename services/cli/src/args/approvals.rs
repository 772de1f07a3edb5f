//! The command line of `mar approvals`.

use clap::{Args, Subcommand, ValueEnum};

use super::{EndpointArgs, PageArgs, examples};

/// `mar approvals`.
#[derive(Debug, Subcommand)]
pub enum ApprovalsCommand {
    /// Lists approvals, newest run first
    #[command(after_help = examples::APPROVALS)]
    List(ApprovalsListArgs),
    /// Shows the exact call that waits, why, for whom and how long
    #[command(after_help = examples::APPROVALS)]
    Show(ApprovalArg),
    /// Shows the call, asks, and lets exactly this call happen once
    #[command(after_help = examples::APPROVALS, after_long_help = examples::decide_long_help())]
    Approve(DecideArgs),
    /// Shows the call, asks, and keeps it from happening; one refusal is enough
    #[command(after_help = examples::APPROVALS, after_long_help = examples::decide_long_help())]
    Deny(DecideArgs),
}

impl ApprovalsCommand {
    /// Whether failures are to be told as JSON, too.
    pub(super) fn wants_json(&self) -> bool {
        match self {
            Self::List(args) => args.page.json,
            Self::Show(args) => args.json,
            Self::Approve(args) | Self::Deny(args) => args.approval.json,
        }
    }
}

/// `mar approvals list`.
#[derive(Debug, Args)]
pub struct ApprovalsListArgs {
    /// Only approvals of this run
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Only approvals in this state
    #[arg(long, value_enum, ignore_case = true, default_value_t, value_name = "STATE")]
    pub state: ApprovalStateName,
    /// How much, how, and from where.
    #[command(flatten)]
    pub page: PageArgs<100>,
}

/// A state, as a filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "as the API names them")]
pub enum ApprovalStateName {
    #[default]
    Pending,
    Approved,
    Denied,
    Expired,
    All,
}

/// One approval.
#[derive(Debug, Args)]
pub struct ApprovalArg {
    /// sessions/…/runs/…/approvals/…, RUN/approvals/ID or RUN/ID, where RUN may be the start of a run's id
    #[arg(value_name = "APPROVAL")]
    pub approval: String,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

/// `mar approvals approve` and `mar approvals deny`.
#[derive(Debug, Args)]
pub struct DecideArgs {
    /// Which.
    #[command(flatten)]
    pub approval: ApprovalArg,
    /// Why; it is recorded, and the model is told why a call was denied
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub comment: String,
    /// Decides without asking; needed where there is no terminal
    #[arg(long, short)]
    pub yes: bool,
}
