//! The command line of `mar keys`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::examples;

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
