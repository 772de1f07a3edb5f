//! The command lines of `mar models` and `mar tools`.

use clap::{Args, Subcommand};

use super::{EndpointArgs, examples};

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
