//! The command lines of `mar up` and `mar rehearse`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `--stores`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreName {
    /// One file per service.
    Sqlite,
    /// Postgres.
    Postgres,
    /// Counters in this process.
    Memory,
    /// Counters in Redis.
    Redis,
}

/// `mar up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Where to serve
    #[arg(long, value_name = "ADDRESS", default_value = crate::endpoint::DEFAULT)]
    pub listen: String,
    /// Folder of keys and data [default: $XDG_DATA_HOME/mar, else ~/.local/share/mar]
    #[arg(long, env = "MAR_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Stores and counters to use [default: sqlite,memory]
    #[arg(long, value_enum, ignore_case = true, value_delimiter = ',', value_name = "STORE,COUNTERS")]
    pub stores: Vec<StoreName>,
    /// With `--stores postgres`
    #[arg(long, env = "MAR_POSTGRES_URL", hide_env_values = true, value_name = "URL")]
    pub postgres_url: Option<String>,
    /// With `--stores redis`
    #[arg(long, env = "MAR_REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub redis_url: Option<String>,
    /// Folder of documents to search; the tools are docs.search and docs.list
    #[arg(long, value_name = "FOLDER")]
    pub docs: Option<PathBuf>,
    /// Base URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1; looked for on well-known ports otherwise
    #[arg(long, env = "MAR_MODEL_URL", value_name = "URL")]
    pub model_url: Option<String>,
    /// Plays a rehearsal instead of models: the built-in agent, or a script
    #[arg(long, value_name = "SCRIPT", num_args = 0..=1, conflicts_with = "model_url")]
    pub rehearse: Option<Option<PathBuf>>,
    /// TOML file with keys that differ from what `mar up` sets
    #[arg(long, env = "MAR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Overrides one key, such as session.store.url=…; may be repeated
    #[arg(long, value_name = "TABLE.KEY=VALUE")]
    pub set: Vec<String>,
}

/// `mar rehearse`.
#[derive(Debug, Args)]
pub struct RehearseArgs {
    /// The script [default: the built-in agent]
    #[arg(value_name = "SCRIPT")]
    pub script: Option<PathBuf>,
    /// The same
    #[arg(long = "script", value_name = "SCRIPT", conflicts_with = "script", hide = true)]
    pub script_option: Option<PathBuf>,
    /// Where to serve
    #[arg(long, value_name = "ADDRESS", default_value = crate::rehearse::DEFAULT)]
    pub listen: SocketAddr,
}
