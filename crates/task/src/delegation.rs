//! The runtime's own tool `runtime.delegate`: how models are told of it, and what a call of it asks for.

use mar_descriptor::{Hash, canonical, domain};
use mar_proto::session::DelegationMode;
use mar_proto::types::{Executor, ToolDefinition};
use serde::Deserialize;
use serde_json::{Value, json};

/// The upstream of tools that the runtime executes itself; no other upstream may have this name.
pub const UPSTREAM: &str = "runtime";
/// `upstream.tool`.
pub const NAME: &str = "runtime.delegate";
/// The most child runs of one call.
pub const MAX_CHILDREN: usize = 16;

const MAX_TASK_BYTES: usize = 64 << 10;
const MAX_CHOICES: usize = 32;
const MAX_CHOICE_BYTES: usize = 256;
const MAX_TOOLS: usize = 64;
/// Children that do one task where the call does not say how many.
const COPIES: usize = 3;

const DESCRIPTION: &str = "Hands work to sub-agents that work in parallel, each on one task of its own, and returns \
    their answers. Each sees only its task, so write down everything that it needs to know. Mode ALL (the default) \
    returns every answer, in order. BEST_OF has `copies` sub-agents do one task and returns the answer that rates itself \
    highest; VOTE has them do it and returns the answer that most of them give, out of `choices` if you give any. \
    `instruction` is put before every task. `tools` names those of your tools that they may use; left out: all but the \
    runtime's. Their work counts against your own limits; the `max_` values limit each of them.";

/// What a call asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// How the answers become one result.
    pub mode: DelegationMode,
    /// What each child is to do; 1 to [`MAX_CHILDREN`].
    pub prompts: Vec<String>,
    /// What a vote is between; empty for anything.
    pub choices: Vec<String>,
    /// `upstream.tool` that the children may have; `None` for what their parent has.
    pub tools: Option<Vec<String>>,
    /// The most that each child may use.
    pub ceiling: Ceiling,
}

/// The most that one child may use; `None` for what its parent can give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ceiling {
    /// Turns.
    pub steps: Option<i64>,
    /// Tool calls.
    pub tool_calls: Option<i64>,
    /// Input tokens.
    pub input_tokens: Option<i64>,
    /// Output tokens.
    pub output_tokens: Option<i64>,
    /// Nano-USD.
    pub cost_nano_usd: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    tasks: Vec<String>,
    #[serde(default)]
    mode: Mode,
    instruction: Option<String>,
    copies: Option<usize>,
    #[serde(default)]
    choices: Vec<String>,
    tools: Option<Vec<String>>,
    max_steps: Option<i64>,
    max_tool_calls: Option<i64>,
    max_input_tokens: Option<i64>,
    max_output_tokens: Option<i64>,
    max_cost_nano_usd: Option<i64>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Mode {
    #[default]
    All,
    BestOf,
    Vote,
}

/// The tool as the catalogue has it; the alias is empty.
#[must_use]
pub fn definition() -> ToolDefinition {
    let schema = schema();
    let hashed = json!({
        "name": NAME, "description": DESCRIPTION, "input_schema": schema, "output_schema": null,
    });
    let hash = Hash::of_foreign(domain::TOOL_DEFINITION, &hashed).unwrap_or(Hash::ZERO);
    ToolDefinition {
        name: format!("tools/{NAME}"),
        description: DESCRIPTION.to_owned(),
        input_schema_json: canonical::foreign(&schema).unwrap_or_default(),
        definition_hash: hash.to_string(),
        executor: Executor::Runtime.into(),
        ..ToolDefinition::default()
    }
}

fn schema() -> Value {
    let text = |most: usize| json!({"type": "string", "minLength": 1, "maxLength": most});
    let count = |least: i64, most: i64| json!({"type": "integer", "minimum": least, "maximum": most});
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["tasks"],
        "properties": {
            "tasks": {"type": "array", "minItems": 1, "maxItems": MAX_CHILDREN, "items": text(MAX_TASK_BYTES)},
            "mode": {"enum": ["ALL", "BEST_OF", "VOTE"]},
            "instruction": text(MAX_TASK_BYTES),
            "copies": count(2, 16),
            "choices": {
                "type": "array", "minItems": 2, "maxItems": MAX_CHOICES, "uniqueItems": true,
                "items": text(MAX_CHOICE_BYTES),
            },
            "tools": {"type": "array", "maxItems": MAX_TOOLS, "uniqueItems": true, "items": text(200)},
            "max_steps": count(1, 1_000),
            "max_tool_calls": count(0, 10_000),
            "max_input_tokens": count(1, 1_000_000_000),
            "max_output_tokens": count(1, 1_000_000_000),
            "max_cost_nano_usd": count(0, 1_000_000_000_000_000),
        },
    })
}

impl Delegation {
    /// Reads the arguments of a call.
    ///
    /// # Errors
    /// What is wrong with them, for the model.
    pub fn parse(arguments_json: &str) -> Result<Self, String> {
        let read: Arguments = serde_json::from_str(arguments_json).map_err(|error| error.to_string())?;
        let fits = |text: &String, most| !text.trim().is_empty() && text.len() <= most;
        if !(1..=MAX_CHILDREN).contains(&read.tasks.len()) {
            return Err(format!("tasks must be 1 to {MAX_CHILDREN}"));
        }
        if !read.tasks.iter().chain(&read.instruction).all(|text| fits(text, MAX_TASK_BYTES)) {
            return Err(format!("tasks and instruction must be 1 to {MAX_TASK_BYTES} bytes of text"));
        }
        let alone = read.mode != Mode::All;
        if alone && read.tasks.len() > 1 {
            return Err("BEST_OF and VOTE take one task".to_owned());
        }
        if !alone && read.copies.is_some() || read.mode != Mode::Vote && !read.choices.is_empty() {
            return Err("copies belong to BEST_OF and VOTE, choices to VOTE".to_owned());
        }
        if read.choices.len() > MAX_CHOICES || !read.choices.iter().all(|text| fits(text, MAX_CHOICE_BYTES)) {
            return Err(format!("choices must be up to {MAX_CHOICES}, each 1 to {MAX_CHOICE_BYTES} bytes"));
        }
        if read.tools.as_ref().is_some_and(|tools| tools.len() > MAX_TOOLS) {
            return Err(format!("tools must be up to {MAX_TOOLS}"));
        }
        let copies = read.copies.unwrap_or(if alone { COPIES } else { 1 });
        if !(1..=MAX_CHILDREN).contains(&copies) {
            return Err(format!("copies must be 2 to {MAX_CHILDREN}"));
        }
        let ceiling = read.ceiling();
        let prompt = |task: &String| match &read.instruction {
            Some(instruction) => format!("{instruction}\n\n{task}"),
            None => task.clone(),
        };
        Ok(Self {
            mode: match read.mode {
                Mode::All => DelegationMode::All,
                Mode::BestOf => DelegationMode::BestOf,
                Mode::Vote => DelegationMode::Vote,
            },
            prompts: read.tasks.iter().flat_map(|task| std::iter::repeat_n(prompt(task), copies)).collect(),
            choices: read.choices,
            tools: read.tools,
            ceiling,
        })
    }

    /// The form that each child's answer has to have, as JSON Schema; `None` where the mode asks for none.
    #[must_use]
    pub fn output_schema(&self) -> Option<String> {
        let object = |properties: Value, required: Value| {
            json!({
                "type": "object", "additionalProperties": false, "properties": properties, "required": required,
            })
        };
        let schema = match self.mode {
            DelegationMode::BestOf => object(
                json!({
                    "answer": {"type": "string"},
                    "score": {
                        "type": "integer", "minimum": 0, "maximum": 100,
                        "description": "how well the answer does what was asked, judged strictly",
                    },
                }),
                json!(["answer", "score"]),
            ),
            DelegationMode::Vote if !self.choices.is_empty() => {
                object(json!({"choice": {"enum": self.choices}}), json!(["choice"]))
            }
            _ => return None,
        };
        Some(schema.to_string())
    }
}

impl Arguments {
    fn ceiling(&self) -> Ceiling {
        let at_least = |value: Option<i64>, least: i64| value.map(|value| value.max(least));
        Ceiling {
            steps: at_least(self.max_steps, 1),
            tool_calls: at_least(self.max_tool_calls, 0),
            input_tokens: at_least(self.max_input_tokens, 1),
            output_tokens: at_least(self.max_output_tokens, 1),
            cost_nano_usd: at_least(self.max_cost_nano_usd, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_has_a_hash_and_a_schema_that_compiles() {
        let definition = definition();
        assert_ne!(definition.definition_hash, Hash::ZERO.to_string());
        let schema: Value = serde_json::from_str(&definition.input_schema_json).unwrap();
        let validator = jsonschema::options().offline().build(&schema).unwrap();
        assert!(validator.is_valid(&json!({"tasks": ["a", "b"], "instruction": "Count.", "max_steps": 2})));
        for wrong in [json!({}), json!({"tasks": []}), json!({"tasks": ["a"], "mode": "SOME"}), json!({"tasks": "a"})] {
            assert!(!validator.is_valid(&wrong), "{wrong}");
        }
    }

    #[test]
    fn items_are_mapped_and_copies_repeat_one_task() {
        let all = Delegation::parse(r#"{"tasks":["a","b"],"instruction":"Count."}"#).unwrap();
        assert_eq!(all.prompts, ["Count.\n\na", "Count.\n\nb"]);
        assert_eq!((all.mode, all.output_schema()), (DelegationMode::All, None));
        let best = Delegation::parse(r#"{"tasks":["a"],"mode":"BEST_OF","max_steps":0}"#).unwrap();
        assert_eq!((best.prompts.len(), best.ceiling.steps), (3, Some(1)));
        assert!(best.output_schema().unwrap().contains("score"));
        let vote = r#"{"tasks":["a"],"mode":"VOTE","copies":5,"choices":["yes","no"]}"#;
        let vote = Delegation::parse(vote).unwrap();
        assert_eq!(vote.prompts, ["a"; 5]);
        assert!(vote.output_schema().unwrap().contains(r#"["yes","no"]"#));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let many = json!({"tasks": vec!["a"; MAX_CHILDREN + 1]}).to_string();
        let long = json!({"tasks": ["a".repeat(MAX_TASK_BYTES + 1)]}).to_string();
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"tasks":[]}"#,
            r#"{"tasks":[" "]}"#,
            r#"{"tasks":["a"],"instruction":""}"#,
            r#"{"tasks":["a","b"],"mode":"VOTE"}"#,
            r#"{"tasks":["a"],"copies":3}"#,
            r#"{"tasks":["a"],"mode":"BEST_OF","copies":0}"#,
            r#"{"tasks":["a"],"mode":"BEST_OF","copies":17}"#,
            r#"{"tasks":["a"],"mode":"BEST_OF","choices":["a","b"]}"#,
            r#"{"tasks":["a"],"more":1}"#,
            &many,
            &long,
        ] {
            assert!(Delegation::parse(wrong).is_err(), "{wrong}");
        }
    }
}
