//! The command line of `mar hooks`.

use clap::{Args, Subcommand};

use super::{EndpointArgs, examples};

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
            Self::Dead(args) => args.json,
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
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000), allow_hyphen_values = true, value_name = "N")]
    pub limit: u32,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
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
