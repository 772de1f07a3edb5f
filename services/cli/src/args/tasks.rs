//! The command lines of `mar run` and `mar render`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::EndpointArgs;

/// What a task is made of, for `run` and `render`.
#[derive(Clone, Debug, Args)]
pub struct TaskArgs {
    /// The task; `-` reads it from standard input
    #[arg(value_name = "TASK")]
    pub input: String,
    /// Kind of task [default: answer]
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// Prompt recipe [default: the one for the type]
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<String>,
    /// Value for the recipe's template; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub param: Vec<(String, String)>,
    /// File with a JSON Schema that the answer has to fit
    #[arg(long, value_name = "FILE")]
    pub schema: Option<PathBuf>,
}

/// `mar run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The task.
    #[command(flatten)]
    pub task: TaskArgs,
    /// Session to run in, by name or id [default: a new one]
    #[arg(long, value_name = "SESSION")]
    pub session: Option<String>,
    /// Tools the agent may have: upstream.tool, upstream.* or *; separated by commas [default: none]
    #[arg(long, value_delimiter = ',', value_name = "TOOLS")]
    pub tools: Vec<String>,
    /// JSON file with tools that the caller executes: [{name, description, input_schema, …}]
    #[arg(long, value_name = "FILE")]
    pub caller_tools: Option<PathBuf>,
    /// Lets the agent ask questions, which `mar runs answer` answers
    #[arg(long)]
    pub may_ask: bool,
    /// Turns of the model at the most
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Limits")]
    pub max_steps: Option<i64>,
    /// Tool calls at the most
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Limits")]
    pub max_tool_calls: Option<i64>,
    /// Levels of runs below this one that it may start with runtime.delegate
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Limits")]
    pub max_depth: Option<i64>,
    /// Cost at the most, such as 0.05
    #[arg(long, value_name = "USD", value_parser = nano_usd, allow_hyphen_values = true, help_heading = "Limits")]
    pub max_cost: Option<i64>,
    /// Time in RUNNING at the most, such as 90s or 5m
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true, help_heading = "Limits")]
    pub max_time: Option<Duration>,
    /// Routing policy that orders the models that fit
    #[arg(long, value_name = "POLICY", help_heading = "Model")]
    pub model_policy: Option<String>,
    /// Only this model; may be repeated
    #[arg(long, value_name = "MODEL", help_heading = "Model")]
    pub model: Vec<String>,
    /// File with a Cedar policy that narrows what the agent may do
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Label of the run; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
    /// One JSON object on standard output and nothing else
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

/// `mar render`.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// The task.
    #[command(flatten)]
    pub task: TaskArgs,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Where to call.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE".to_owned()),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "must be a time such as 90s or 5m".to_owned())
}

/// A decimal amount of USD in nano-USD, exactly.
fn nano_usd(text: &str) -> Result<i64, String> {
    let wrong = || "must be an amount of 0 or more such as 0.05, with at most 9 decimals".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return Err(wrong());
    }
    let nano = format!("{whole}{fraction:0<9}");
    nano.parse().map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_exact() {
        assert_eq!(nano_usd("0.05"), Ok(50_000_000));
        assert_eq!(nano_usd("12"), Ok(12_000_000_000));
        assert_eq!(nano_usd("0.000000001"), Ok(1));
        for wrong in ["", "-1", "1e3", ".5", "0.0000000001", "99999999999999999999", "a"] {
            assert!(nano_usd(wrong).is_err(), "{wrong}");
        }
    }
}
