//! The command line of `mar certs`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::examples;

/// `mar certs`.
#[derive(Debug, Subcommand)]
pub enum CertsCommand {
    /// Makes an authority and a certificate for services and callers on this machine, to try TLS with
    #[command(after_help = examples::CERTS)]
    Dev(DevCertsArgs),
}

/// `mar certs dev`.
#[derive(Debug, Args)]
pub struct DevCertsArgs {
    /// The folder; certificates that are there stay
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Another name that the services are reached by, beside this machine's and their own; may be repeated
    #[arg(long = "host", value_name = "NAME")]
    pub hosts: Vec<String>,
}
