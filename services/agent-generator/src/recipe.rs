//! Prompt recipes: system role, templates, few-shot examples, output format and defaults, versioned and hashed.

use std::collections::BTreeMap;

use mar_descriptor::{Hash, RecipeRef, canonical, decimal, domain};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::schema::OutputSchema;

mod catalogue;
mod example;
mod front;
mod template;

pub use catalogue::{Catalogue, Pick};
pub use example::{Call, Example, Passage};
pub use template::{Frame, SystemContext, TemplateError, Templates};

use front::Front;

/// The sources of a recipe as its files hold them.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// `recipe.toml`.
    pub front: &'a str,
    /// `system.jinja`.
    pub system: &'a str,
    /// `task.jinja`.
    pub task: &'a str,
    /// `output.schema.json`, where answers are not free text.
    pub output_schema: Option<&'a str>,
}

/// A recipe that parsed, compiled and rendered once.
#[derive(Debug)]
pub struct Recipe {
    front: Front,
    hash: Hash,
    templates: Templates,
    output_schema: Option<OutputSchema>,
}

/// A named value that a task may give.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// What it is for.
    pub description: String,
    /// Its value when the task gives none.
    #[serde(default)]
    pub default: String,
}

/// How answers are sampled unless the task says otherwise.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// A decimal from `0` to `2`; none leaves it to the provider.
    #[serde(default)]
    pub temperature: Option<String>,
    /// Output tokens of one generation, at least 16.
    pub max_output_tokens: i64,
}

/// One thing that is wrong with a recipe.
#[derive(Debug, thiserror::Error)]
#[error("recipe {recipe}: {what}")]
pub struct Error {
    recipe: String,
    what: String,
}

impl Recipe {
    /// Parses and checks a recipe; `label` is its folder, which has its name.
    ///
    /// # Errors
    /// Everything that is wrong, with the file and, for templates and what is not TOML, the line.
    pub fn parse(label: &str, sources: &Sources<'_>) -> Result<Self, Vec<Error>> {
        let mut wrong = Vec::new();
        match Self::build(label, sources, &mut wrong) {
            Some(recipe) if wrong.is_empty() => Ok(recipe),
            _ => Err(wrong.into_iter().map(|what| Error { recipe: label.to_owned(), what }).collect()),
        }
    }

    /// The recipe as far as its files can be read; each of them is looked at, whatever is wrong with the others.
    fn build(label: &str, sources: &Sources<'_>, wrong: &mut Vec<String>) -> Option<Self> {
        let front = Front::read(label, sources.front, wrong);
        let schema = sources.output_schema.map(OutputSchema::parse).transpose();
        let schema = schema.map_err(|what| wrong.push(format!("output.schema.json: {what}"))).ok();
        let (templates, broken) = Templates::compile(label, sources.system, sources.task);
        wrong.extend(broken.iter().map(TemplateError::in_file));
        let front = front?;
        for example in &front.examples {
            example.check(schema.as_ref().map(Option::as_ref), &front.tools, wrong);
        }
        front.rehearse(&templates, &broken, wrong);
        let output_schema = schema?;
        let hash = hash(&front, sources, output_schema.as_ref());
        let hash = hash.map_err(|error| wrong.push(format!("recipe.toml: {error}"))).ok()?;
        Some(Self { front, hash, templates, output_schema })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.front.name
    }

    /// `recipes/{recipe}/versions/{n}`.
    #[must_use]
    pub fn resource(&self) -> String {
        format!("recipes/{}/versions/{}", self.front.name, self.front.version)
    }

    /// How a descriptor names it.
    #[must_use]
    pub fn reference(&self) -> RecipeRef {
        RecipeRef { name: self.front.name.clone(), version: self.front.version, hash: self.hash }
    }

    /// The hash over its canonical form.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// What the agent is, in a few words.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.front.role
    }

    /// The kinds of task that it is the platform's recipe for.
    #[must_use]
    pub fn task_types(&self) -> &[String] {
        &self.front.task_types
    }

    /// The tools that it speaks of: the name in templates and examples, and `upstream.tool` for a dry run.
    pub fn slots(&self) -> impl Iterator<Item = (&str, &str)> {
        self.front.slots()
    }

    /// Its parameters.
    #[must_use]
    pub fn parameters(&self) -> &BTreeMap<String, Parameter> {
        &self.front.parameters
    }

    /// Every parameter with the task's value, else its default.
    #[must_use]
    pub fn parameter_values<'a>(&'a self, given: &'a BTreeMap<String, String>) -> BTreeMap<&'a str, &'a str> {
        self.front.parameter_values(given)
    }

    /// Its default sampling.
    #[must_use]
    pub fn sampling(&self) -> &Sampling {
        &self.front.sampling
    }

    /// The most bytes of system text and examples together.
    #[must_use]
    pub fn prompt_bytes(&self) -> usize {
        self.front.budget.prompt_bytes
    }

    /// Its few-shot examples, in order.
    #[must_use]
    pub fn examples(&self) -> &[Example] {
        &self.front.examples
    }

    /// Its templates.
    #[must_use]
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// The format of its answers; none for free text.
    #[must_use]
    pub fn output_schema(&self) -> Option<&OutputSchema> {
        self.output_schema.as_ref()
    }
}

/// A decimal from 0 to 2 in its one spelling.
#[must_use]
pub fn is_temperature(text: &str) -> bool {
    decimal::to_f64(text).is_some_and(|value| (0.0..=2.0).contains(&value)) && !text.starts_with('-')
}

/// `[a-z][a-z0-9-]{0,62}`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.as_bytes()[0].is_ascii_lowercase() && text.bytes().all(fits)
}

fn is_identifier(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (1..=63).contains(&text.len()) && text.as_bytes()[0].is_ascii_lowercase() && text.bytes().all(fits)
}

/// Everything that shapes a prompt. Documents that may hold fractions go in as text in their one spelling.
fn hash(front: &Front, sources: &Sources<'_>, schema: Option<&OutputSchema>) -> Result<Hash, canonical::Error> {
    let examples: Vec<Value> = front.examples.iter().map(Example::canonical).collect::<Result<_, _>>()?;
    let document = json!({
        "name": front.name,
        "version": front.version,
        "role": front.role,
        "tools": front.tools,
        "parameters": front.parameters.iter().map(|(name, one)| (name.clone(), json!({"default": one.default}))).collect::<serde_json::Map<_, _>>(),
        "sampling": {"temperature": front.sampling.temperature, "max_output_tokens": front.sampling.max_output_tokens},
        "prompt_bytes": front.budget.prompt_bytes,
        "examples": examples,
        "system": sources.system,
        "task": sources.task,
        "output_schema": schema.map(OutputSchema::text),
    });
    Hash::of_value(domain::PROMPT_RECIPE, &document)
}

#[cfg(test)]
mod tests;
