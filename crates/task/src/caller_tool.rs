//! The tools that a caller executes itself, and the one with which an agent asks it.

use std::collections::BTreeSet;

use mar_descriptor::Hash;
use mar_proto::session::{CallerTool, Task};
use mar_proto::types::{Executor, ToolDefinition};
use mar_runtime::violations::Violations;
use serde_json::{Value, json};

use crate::schema::OutputSchema;

/// What the names of a caller's tools begin with, in front of the first dot.
pub const UPSTREAM: &str = "caller";
/// The tool with which an agent asks its caller: `caller.ask`.
pub const ASK: &str = "ask";

const MAX_TOOLS: usize = 64;
const MAX_NAME: usize = 64;
const MAX_DESCRIPTION_BYTES: usize = 8 << 10;
const MAX_TOGETHER_BYTES: usize = 256 << 10;

const ASK_DESCRIPTION: &str = "Asks the person or program that gave you this task a question, and waits for the answer. \
     Use it only when you cannot go on without something that no other tool can tell you.";

/// Records what is wrong with the tools that a task brings along.
pub fn check(task: &Task, found: &mut Violations) {
    let tools = &task.caller_tools;
    found.require(tools.len() <= MAX_TOOLS, "caller_tools", format!("must be at most {MAX_TOOLS}"));
    let text = |tool: &CallerTool| {
        tool.description.len() + tool.input_schema_json.len() + tool.output_schema_json.len() + tool.name.len()
    };
    let fits = tools.iter().map(text).sum::<usize>() <= MAX_TOGETHER_BYTES;
    found.require(fits, "caller_tools", format!("must be at most {MAX_TOGETHER_BYTES} bytes together"));
    let mut names = BTreeSet::new();
    for (index, tool) in tools.iter().enumerate().take(MAX_TOOLS) {
        found.item("caller_tools", index, |found| {
            check_one(tool, found);
            found.require(names.insert(&tool.name), "name", "occurs twice");
        });
    }
}

fn check_one(tool: &CallerTool, found: &mut Violations) {
    found.require(is_name(&tool.name), "name", "must match [a-zA-Z0-9_-]{1,64}");
    found.require(tool.name != ASK, "name", "is the runtime's: set `may_ask`");
    let fits = (1..=MAX_DESCRIPTION_BYTES).contains(&tool.description.len());
    found.require(fits, "description", format!("must be 1 to {MAX_DESCRIPTION_BYTES} bytes"));
    if !tool.input_schema_json.is_empty() {
        let schema = found.take("input_schema_json", OutputSchema::parse(&tool.input_schema_json));
        let object = schema.is_none_or(|schema| schema.value().is_object());
        found.require(object, "input_schema_json", "must be a JSON object");
    }
    if !tool.output_schema_json.is_empty() {
        let schema = found.take("output_schema_json", OutputSchema::parse(&tool.output_schema_json));
        let object = schema.is_none_or(|schema| schema.value().is_object());
        found.require(object, "output_schema_json", "must be a JSON object");
    }
}

/// The definitions of the tools that a checked task brings along; what does not pass [`check`] is left out.
#[must_use]
pub fn definitions(task: &Task) -> Vec<ToolDefinition> {
    let declared = task.caller_tools.iter().filter_map(definition);
    declared.chain(task.may_ask.then(ask).flatten()).collect()
}

/// The tool with which an agent asks its caller.
fn ask() -> Option<ToolDefinition> {
    let schema = json!({
        "type": "object",
        "properties": {"question": {"type": "string", "minLength": 1, "maxLength": 4_000}},
        "required": ["question"],
        "additionalProperties": false,
    });
    let tool = ToolDefinition {
        description: ASK_DESCRIPTION.to_owned(),
        idempotent: true,
        read_only: true,
        ..ToolDefinition::default()
    };
    pinned(ASK, tool, &schema, None)
}

fn definition(tool: &CallerTool) -> Option<ToolDefinition> {
    let parse = |text: &str| OutputSchema::parse(text).ok().map(|schema| schema.value().clone());
    let input = match tool.input_schema_json.as_str() {
        "" => json!({"type": "object"}),
        text => parse(text)?,
    };
    let output = match tool.output_schema_json.as_str() {
        "" => None,
        text => Some(parse(text)?),
    };
    let definition = ToolDefinition {
        description: tool.description.clone(),
        idempotent: tool.idempotent,
        read_only: tool.read_only,
        ..ToolDefinition::default()
    };
    pinned(&tool.name, definition, &input, output.as_ref())
}

/// Adds name, schemas and the hash over all of it.
fn pinned(name: &str, tool: ToolDefinition, input: &Value, output: Option<&Value>) -> Option<ToolDefinition> {
    let name = format!("{UPSTREAM}.{name}");
    let hash = Hash::of_tool_definition(&name, &tool.description, input, output).ok()?;
    let text = |schema: &Value| mar_descriptor::canonical::foreign(schema).ok();
    Some(ToolDefinition {
        name: format!("tools/{name}"),
        input_schema_json: text(input)?,
        output_schema_json: output.map_or_else(|| Some(String::new()), text)?,
        definition_hash: hash.to_string(),
        executor: Executor::Caller.into(),
        ..tool
    })
}

fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> CallerTool {
        CallerTool {
            name: "open_file".into(),
            description: "Opens a file in the editor.".into(),
            input_schema_json:
                r#"{"type": "object", "required": ["path"], "properties": {"path": {"type": "string"}}}"#.into(),
            ..CallerTool::default()
        }
    }

    fn fields(tools: Vec<CallerTool>) -> Vec<String> {
        let mut found = Violations::new();
        check(&Task { caller_tools: tools, ..Task::default() }, &mut found);
        found.iter().map(|violation| violation.field.clone()).collect()
    }

    #[test]
    fn a_tool_is_pinned_by_what_a_model_is_told_of_it() {
        assert!(fields(vec![open()]).is_empty());
        let one = |tool: CallerTool| {
            definitions(&Task { caller_tools: vec![tool], ..Task::default() }).pop().expect("a definition")
        };
        let pinned = one(open());
        assert_eq!((pinned.name.as_str(), pinned.executor()), ("tools/caller.open_file", Executor::Caller));
        let spaced = CallerTool { input_schema_json: open().input_schema_json.replace(' ', ""), ..open() };
        assert_eq!(one(spaced), pinned, "spelling does not count");
        assert_eq!(one(CallerTool { idempotent: true, ..open() }).definition_hash, pinned.definition_hash);
        assert_ne!(
            one(CallerTool { description: "Shuts it.".into(), ..open() }).definition_hash,
            pinned.definition_hash
        );
        let typed = CallerTool { output_schema_json: r#"{"type":"string"}"#.into(), ..open() };
        assert_ne!(one(typed).definition_hash, pinned.definition_hash);
        let any = one(CallerTool { input_schema_json: String::new(), ..open() });
        assert_eq!(any.input_schema_json, r#"{"type":"object"}"#);
    }

    #[test]
    fn asking_is_a_tool_where_the_task_lets_it() {
        assert!(definitions(&Task::default()).is_empty());
        let asked = definitions(&Task { may_ask: true, ..Task::default() });
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].name, "tools/caller.ask");
        assert!(asked[0].read_only && asked[0].executor() == Executor::Caller);
    }

    #[test]
    fn everything_wrong_is_told() {
        let bad = CallerTool {
            name: "open file".into(),
            input_schema_json: "true".into(),
            output_schema_json: r#"{"type":"strnig"}"#.into(),
            ..CallerTool::default()
        };
        let asks = CallerTool { name: "ask".into(), ..open() };
        assert_eq!(
            fields(vec![bad, open(), open(), asks]),
            [
                "caller_tools[0].name",
                "caller_tools[0].description",
                "caller_tools[0].input_schema_json",
                "caller_tools[0].output_schema_json",
                "caller_tools[2].name",
                "caller_tools[3].name",
            ]
        );
        let many = (0..65).map(|n| CallerTool { name: format!("t{n}"), ..open() }).collect();
        assert_eq!(fields(many), ["caller_tools"]);
        let long = |n: usize| CallerTool { name: format!("t{n}"), description: "x".repeat(8 << 10), ..open() };
        assert_eq!(fields((0..40).map(long).collect()), ["caller_tools"], "too much together");
    }
}
