//! The command line of `mar hooks`.

use clap::{Args, Subcommand};

use super::{EndpointArgs, PageArgs, examples};

/// `mar hooks`.
#[derive(Debug, Subcommand)]
pub enum HooksCommand {
    /// Lists notices that a hook could not deliver
    #[command(after_help = examples::HOOKS)]
    Dead(DeadArgs),
    /// Sends a dead notice once more; it is dropped when the hook takes it
    #[command(after_help = examples::HOOKS)]
    Retry(RetryArgs),
}

impl HooksCommand {
    /// Whether failures are to be told as JSON, too.
    pub(super) fn wants_json(&self) -> bool {
        match self {
            Self::Dead(args) => args.page.json,
            Self::Retry(args) => args.json,
        }
    }
}

/// `mar hooks dead`.
#[derive(Debug, Args)]
pub struct DeadArgs {
    /// Only those of this hook
    #[arg(long, default_value = "-", hide_default_value = true, value_name = "HOOK")]
    pub hook: String,
    /// How much, how, and from where.
    #[command(flatten)]
    pub page: PageArgs<100>,
}

/// `mar hooks retry`.
#[derive(Debug, Args)]
pub struct RetryArgs {
    /// hooks/…/notices/…, as `mar hooks dead` names it
    #[arg(value_name = "NOTICE")]
    pub notice: String,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}
