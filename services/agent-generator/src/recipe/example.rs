//! Few-shot examples: short conversations that show how a task is done.

use std::collections::{BTreeMap, BTreeSet};

use mar_descriptor::canonical;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::schema::OutputSchema;

/// A question, the tool calls that it took, and the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// Its name, for people.
    pub name: String,
    /// What is asked.
    pub question: String,
    /// The calls, one after the other.
    #[serde(default)]
    pub calls: Vec<Call>,
    /// The answer: text, or a document of the recipe's output format.
    pub answer: Value,
}

/// A tool call and what it gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The name of the tool in the recipe's `[tools]`.
    pub tool: String,
    /// The arguments.
    pub arguments: Value,
    /// The passages of the result.
    #[serde(default)]
    pub passages: Vec<Passage>,
    /// What the tool says when it has no passages.
    #[serde(default)]
    pub text: String,
}

/// A passage of an example's result.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passage {
    /// `{document}#{n}`.
    pub id: String,
    /// The document's title.
    pub title: String,
    /// What it says.
    pub text: String,
}

impl Call {
    /// The result as a model sees it: the passages as JSON text, else the tool's words.
    #[must_use]
    pub fn result(&self) -> String {
        if self.passages.is_empty() { self.text.clone() } else { json!(self.passages).to_string() }
    }
}

impl Example {
    /// The answer as a model writes it.
    #[must_use]
    pub fn answer_text(&self) -> String {
        match &self.answer {
            Value::String(text) => text.clone(),
            document => document.to_string(),
        }
    }

    /// Whether the answer is of this format; none is free text, which takes any answer that is text.
    #[must_use]
    pub fn answers(&self, schema: Option<&OutputSchema>) -> bool {
        match schema {
            Some(schema) => schema.accepts(&self.answer),
            None => self.answer.is_string(),
        }
    }

    /// Records what does not fit the rest of the recipe. Without a `format`, as where it cannot be read, answers are not
    /// looked at.
    pub(super) fn check(
        &self,
        format: Option<Option<&OutputSchema>>,
        slots: &BTreeMap<String, String>,
        wrong: &mut Vec<String>,
    ) {
        if format.is_some_and(|schema| !self.answers(schema)) {
            wrong.push(format!("recipe.toml: example {}: the answer is not of the output format", self.name));
        }
        let unknown: BTreeSet<_> =
            self.calls.iter().map(|call| &call.tool).filter(|tool| !slots.contains_key(*tool)).collect();
        wrong
            .extend(unknown.iter().map(|tool| format!("recipe.toml: example {}: {tool} is not in [tools]", self.name)));
    }

    /// What enters the recipe's hash.
    pub(super) fn canonical(&self) -> Result<Value, canonical::Error> {
        let calls: Vec<Value> = self
            .calls
            .iter()
            .map(|call| {
                Ok(json!({
                    "tool": call.tool,
                    "arguments": canonical::foreign(&call.arguments)?,
                    "result": call.result(),
                }))
            })
            .collect::<Result<_, canonical::Error>>()?;
        Ok(json!({
            "name": self.name,
            "question": self.question,
            "calls": calls,
            "answer": canonical::foreign(&self.answer)?,
        }))
    }
}
