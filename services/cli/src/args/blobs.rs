//! The command line of `mar blobs`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{EndpointArgs, examples};

/// `mar blobs`.
#[derive(Debug, Subcommand)]
pub enum BlobsCommand {
    /// Streams a file into a session and tells its name
    #[command(after_help = examples::BLOBS)]
    Put(BlobPutArgs),
    /// Reads one back
    #[command(after_help = examples::BLOBS)]
    Get(BlobGetArgs),
}

impl BlobsCommand {
    /// Whether failures are to be told as JSON, too.
    pub(super) fn wants_json(&self) -> bool {
        match self {
            Self::Put(args) => args.json,
            Self::Get(_) => false,
        }
    }
}

/// `mar blobs put`.
#[derive(Debug, Args)]
pub struct BlobPutArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The session that gets it, sessions/… or its id
    #[arg(long, value_name = "SESSION")]
    pub session: String,
    /// Its media type, such as image/png; by default as the name's ending says
    #[arg(long = "type", value_name = "TYPE")]
    pub media_type: Option<String>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

/// `mar blobs get`.
#[derive(Debug, Args)]
pub struct BlobGetArgs {
    /// sessions/…/blobs/…, as `mar blobs put` names it
    #[arg(value_name = "BLOB")]
    pub blob: String,
    /// The file that it is written to, which must not be there; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "-", hide_default_value = true)]
    pub output: PathBuf,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}
