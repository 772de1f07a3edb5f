//! What every list that grows takes.

use clap::Args;

use super::EndpointArgs;

/// How much of a list is wanted, how, and from where; `MOST` entries unless told otherwise.
#[derive(Debug, Args)]
pub struct PageArgs<const MOST: u32> {
    /// At most so many
    #[arg(long, default_value_t = MOST, value_parser = clap::value_parser!(u32).range(1..=100_000), allow_hyphen_values = true, value_name = "N")]
    pub limit: u32,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}
