//! A task out of arguments.

use std::io::Read as _;
use std::path::Path;

use mar_proto::session::{CallerTool, ModelConstraints, Task, ToolSelector};
use mar_proto::types::{HaltingPolicy, Part, part};

use crate::args::{RunArgs, TaskArgs};
use crate::failure::Failure;

/// The most that is read of a file or of standard input, beyond what the API takes.
const MAX_READ: u64 = 16 * 1024 * 1024;

/// The task that the arguments describe.
///
/// # Errors
/// Every file that cannot be read or does not hold what it should. What the runtime checks is left to it.
pub fn task(args: &RunArgs) -> Result<Task, Failure> {
    let mut wrong = Vec::new();
    let mut task = common(&args.task, &mut wrong);
    task.tools = args.tools.iter().map(|pattern| ToolSelector { pattern: pattern.trim().to_owned() }).collect();
    let model = ModelConstraints {
        routing_policy: args.model_policy.as_deref().map(|name| resource("routingPolicies/", name)).unwrap_or_default(),
        models: args.model.iter().map(|name| resource("models/", name)).collect(),
        ..ModelConstraints::default()
    };
    task.may_ask = args.may_ask;
    task.caller_tools = kept(args.caller_tools.as_deref().map(caller_tools), &mut wrong);
    task.model = (model != ModelConstraints::default()).then_some(model);
    let max_active_time = args.max_time.map(|time| {
        prost_types::Duration::try_from(time).map(Some).map_err(|_| Failure::usage("--max-time is too long"))
    });
    let halting = HaltingPolicy {
        max_steps: args.max_steps,
        max_tool_calls: args.max_tool_calls,
        max_depth: args.max_depth,
        max_cost_nano_usd: args.max_cost,
        max_active_time: kept(max_active_time, &mut wrong),
        ..HaltingPolicy::default()
    };
    task.halting = (halting != HaltingPolicy::default()).then_some(halting);
    task.alignment_policy = kept(args.policy.as_deref().map(read), &mut wrong);
    task.labels = args.label.iter().cloned().collect();
    Failure::together(wrong)?;
    Ok(task)
}

/// What `run` and `render` have in common.
///
/// # Errors
/// As [`task`].
pub fn shared(args: &TaskArgs) -> Result<Task, Failure> {
    let mut wrong = Vec::new();
    let task = common(args, &mut wrong);
    Failure::together(wrong)?;
    Ok(task)
}

fn common(args: &TaskArgs, wrong: &mut Vec<Failure>) -> Task {
    let schema = kept(args.schema.as_deref().map(read_schema), wrong);
    let text = if args.input == "-" { kept(Some(read_input()), wrong) } else { args.input.clone() };
    Task {
        r#type: args.kind.clone().unwrap_or_default(),
        input: vec![Part { content: Some(part::Content::Text(text)), ..Part::default() }],
        output_schema_json: schema,
        recipe: args.recipe.as_deref().map(|name| resource("recipes/", name)).unwrap_or_default(),
        parameters: args.param.iter().cloned().collect(),
        ..Task::default()
    }
}

/// What was read, if anything was to be; a failure is kept for later, so that the others are found too.
fn kept<T: Default>(read: Option<Result<T, Failure>>, wrong: &mut Vec<Failure>) -> T {
    let read = read.transpose().unwrap_or_else(|failure| {
        wrong.push(failure);
        None
    });
    read.unwrap_or_default()
}

/// A tool as `--caller-tools` has it.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    name: String,
    description: String,
    #[serde(default)]
    input_schema: Option<serde_json::Value>,
    #[serde(default)]
    output_schema: Option<serde_json::Value>,
    #[serde(default)]
    idempotent: bool,
    #[serde(default)]
    read_only: bool,
}

/// The tools that a file declares: a JSON array.
fn caller_tools(path: &Path) -> Result<Vec<CallerTool>, Failure> {
    let declared: Vec<Declared> = serde_json::from_str(&read(path)?)
        .map_err(|error| Failure::usage(format!("{} declares no tools: {error}", path.display())))?;
    let text = |schema: Option<serde_json::Value>| schema.map(|schema| schema.to_string()).unwrap_or_default();
    let tool = |tool: Declared| CallerTool {
        name: tool.name,
        description: tool.description,
        input_schema_json: text(tool.input_schema),
        output_schema_json: text(tool.output_schema),
        idempotent: tool.idempotent,
        read_only: tool.read_only,
    };
    Ok(declared.into_iter().map(tool).collect())
}

/// A resource name out of a name or a bare id.
pub fn resource(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) { name.to_owned() } else { format!("{prefix}{name}") }
}

/// Standard input as text.
///
/// # Errors
/// It cannot be read, or is not UTF-8.
pub fn read_input() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(MAX_READ).read_to_end(&mut bytes);
    read.map_err(|error| Failure::usage(format!("standard input cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|_| Failure::usage("standard input is not UTF-8"))
}

/// A file as text.
///
/// # Errors
/// It cannot be read, or is not UTF-8.
pub fn read(path: &Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("{} cannot be read: {error}", path.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(MAX_READ).read_to_end(&mut bytes)).map_err(failed)?;
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{} is not UTF-8", path.display())))
}

fn read_schema(path: &Path) -> Result<String, Failure> {
    let text = read(path)?;
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::usage(format!("{} is not JSON: {error}", path.display()))),
    }
}
