//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::out::ColorChoice;

mod approvals;
mod blobs;
mod catalogues;
mod certs;
mod examples;
mod forks;
mod hooks;
mod keys;
mod lists;
mod runs;
mod sessions;
mod tasks;
mod up;

pub use approvals::{ApprovalArg, ApprovalStateName, ApprovalsCommand, ApprovalsListArgs, DecideArgs};
pub use blobs::{BlobGetArgs, BlobPutArgs, BlobsCommand};
pub use catalogues::{ListArgs, ModelsCommand, ToolsCommand, ToolsListArgs};
pub use certs::{CertsCommand, DevCertsArgs};
pub use forks::{DiffArgs, ForkArgs};
pub use hooks::{DeadArgs, HooksCommand, RetryArgs};
pub use keys::{ApiKeyArgs, KeysCommand};
pub use lists::PageArgs;
pub use runs::{AnswerArgs, RunArg, RunsCommand, RunsListArgs, StateName, SubmitArgs};
pub use sessions::{EraseArgs, SessionArg, SessionStateName, SessionsCommand, SessionsListArgs};
pub use tasks::{RenderArgs, RunArgs, TaskArgs};
pub use up::{RehearseArgs, StoreName, UpArgs};

/// Runs tasks as agents, durably, under limits and a policy.
#[derive(Debug, Parser)]
#[command(name = "mar", version, about, after_help = examples::TOP, max_term_width = 100)]
pub struct Cli {
    /// When to colour: auto respects terminals and NO_COLOR
    #[arg(long, global = true, value_enum, ignore_case = true, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `mar` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Starts all four services in this process
    #[command(after_help = examples::UP)]
    Up(UpArgs),
    /// Runs a task and shows its way to the answer
    #[command(after_help = examples::RUN, after_long_help = examples::run_long_help())]
    Run(Box<RunArgs>),
    /// Lists, shows, follows, verifies, pauses, resumes, feeds and cancels runs
    #[command(after_help = examples::RUNS)]
    Runs {
        /// What to do with runs.
        #[command(subcommand)]
        command: RunsCommand,
    },
    /// Lists, shows and decides on calls that wait for people
    #[command(after_help = examples::APPROVALS)]
    Approvals {
        /// What to do with approvals.
        #[command(subcommand)]
        command: ApprovalsCommand,
    },
    /// Lists, shows, ends and erases sessions
    #[command(after_help = examples::SESSIONS)]
    Sessions {
        /// What to do with sessions.
        #[command(subcommand)]
        command: SessionsCommand,
    },
    /// Streams files into a session, and back
    #[command(after_help = examples::BLOBS)]
    Blobs {
        /// What to do with blobs.
        #[command(subcommand)]
        command: BlobsCommand,
    },
    /// Lists and sends again what hooks were not told
    #[command(after_help = examples::HOOKS)]
    Hooks {
        /// What to do with hooks.
        #[command(subcommand)]
        command: HooksCommand,
    },
    /// Models of the catalogue
    #[command(after_help = examples::MODELS)]
    Models {
        /// What to do with models.
        #[command(subcommand)]
        command: ModelsCommand,
    },
    /// Tools of the gateway
    #[command(after_help = examples::TOOLS)]
    Tools {
        /// What to do with tools.
        #[command(subcommand)]
        command: ToolsCommand,
    },
    /// Renders a task's prompt without running it
    #[command(after_help = examples::RENDER)]
    Render(RenderArgs),
    /// Plays a scripted stand-in for a model
    #[command(after_help = examples::REHEARSE)]
    Rehearse(RehearseArgs),
    /// Makes keys
    #[command(after_help = examples::KEYS)]
    Keys {
        /// Which keys.
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Makes certificates
    #[command(after_help = examples::CERTS)]
    Certs {
        /// Which certificates.
        #[command(subcommand)]
        command: CertsCommand,
    },
}

impl Command {
    /// Whether failures are to be told as JSON, too.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Run(args) => args.json,
            Self::Runs { command } => command.wants_json(),
            Self::Approvals { command } => command.wants_json(),
            Self::Sessions { command } => command.wants_json(),
            Self::Blobs { command } => command.wants_json(),
            Self::Hooks { command } => command.wants_json(),
            Self::Models { command: ModelsCommand::List(args) } => args.json,
            Self::Tools { command: ToolsCommand::List(args) } => args.json,
            Self::Render(args) => args.json,
            Self::Up(_) | Self::Rehearse(_) | Self::Keys { .. } | Self::Certs { .. } => false,
        }
    }
}

/// Where to call, as whom.
#[derive(Clone, Debug, Default, Args)]
pub struct EndpointArgs {
    /// Where the runtime answers, or the service that the command needs [default: 127.0.0.1:7410]
    #[arg(long, env = "MAR_ENDPOINT", value_name = "ADDRESS", help_heading = "Endpoint")]
    pub endpoint: Option<String>,
    /// API key; not needed for a runtime in dev mode on this machine
    #[arg(long, env = "MAR_API_KEY", hide_env_values = true, value_name = "KEY", help_heading = "Endpoint")]
    pub key: Option<String>,
    /// PEM file with the authorities that vouch for an https:// endpoint [default: the system's]
    #[arg(long, env = "MAR_CA", value_name = "FILE", help_heading = "Endpoint")]
    pub ca: Option<PathBuf>,
    /// PEM file with the certificate to show to an https:// endpoint that asks for one
    #[arg(long, env = "MAR_CERTIFICATE", value_name = "FILE", help_heading = "Endpoint", requires = "certificate_key")]
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key
    #[arg(long, env = "MAR_CERTIFICATE_KEY", value_name = "FILE", help_heading = "Endpoint", requires = "certificate")]
    pub certificate_key: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_commands_are_sound() {
        Cli::command().debug_assert();
    }

    /// Lists print the names of states in capitals, and who copies one from there is understood.
    #[test]
    fn names_are_taken_in_either_case() {
        fn check(command: &clap::Command, seen: &mut usize) {
            let named = |arg: &&clap::Arg| arg.get_action().takes_values() && !arg.get_possible_values().is_empty();
            for arg in command.get_arguments().filter(named) {
                assert!(arg.is_ignore_case_set(), "{} of {}", arg.get_id(), command.get_name());
                *seen += 1;
            }
            command.get_subcommands().for_each(|command| check(command, seen));
        }
        let mut seen = 0;
        check(&Cli::command(), &mut seen);
        assert!(seen >= 5, "{seen}");
        for args in [&["runs", "list", "--state", "FAILED"][..], &["approvals", "list", "--state", "Pending"]] {
            Cli::try_parse_from([&["mar"], args].concat()).unwrap();
        }
    }

    #[test]
    fn the_rehearsal_of_up_may_have_a_script() {
        let up = |args: &[&str]| match Cli::try_parse_from([&["mar", "up"], args].concat()).unwrap().command {
            Command::Up(args) => args.rehearse,
            _ => panic!(),
        };
        assert_eq!(up(&[]), None);
        assert_eq!(up(&["--rehearse"]), Some(None));
        assert_eq!(up(&["--rehearse", "a.toml"]), Some(Some("a.toml".into())));
    }
}
