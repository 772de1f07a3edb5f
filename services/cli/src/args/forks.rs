//! The command line of runs that share what another has recorded.

use clap::Args;

use super::EndpointArgs;

/// `mar runs fork`.
#[derive(Debug, Args)]
pub struct ForkArgs {
    /// sessions/…/runs/…, an id, or the start of one
    #[arg(value_name = "RUN")]
    pub run: String,
    /// The last event that both runs share, as `mar runs show` numbers them
    #[arg(long, value_name = "SEQ", default_value_t = 0, allow_hyphen_values = true)]
    pub through: i64,
    /// Lets calls that the first run did not make have effects
    #[arg(long)]
    pub allow_effects: bool,
    /// Starts it though another run of the session is open
    #[arg(long)]
    pub parallel: bool,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

/// `mar runs diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// sessions/…/runs/…, an id, or the start of one
    #[arg(value_name = "RUN")]
    pub run: String,
    /// The run that it is compared with [default: the one that it was forked from]
    #[arg(value_name = "BASE")]
    pub base: Option<String>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}
