//! Prompt recipes: system role, templates, few-shot examples, output format and defaults, versioned and hashed.

use std::collections::BTreeMap;

use mar_descriptor::{Hash, RecipeRef, canonical, decimal, domain};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::schema::OutputSchema;

mod catalogue;
mod example;
mod template;

pub use catalogue::{Catalogue, Pick};
pub use example::{Call, Example, Passage};
pub use template::{Frame, SystemContext, TemplateError, Templates};

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

/// `recipe.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Front {
    name: String,
    version: i64,
    role: String,
    #[serde(default)]
    task_types: Vec<String>,
    #[serde(default)]
    tools: BTreeMap<String, String>,
    #[serde(default)]
    parameters: BTreeMap<String, Parameter>,
    sampling: Sampling,
    budget: Budget,
    #[serde(default)]
    examples: Vec<Example>,
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

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    prompt_bytes: usize,
}

/// Why a recipe is refused.
#[derive(Debug, thiserror::Error)]
#[error("recipe {recipe}: {what}")]
pub struct Error {
    recipe: String,
    what: String,
}

impl Recipe {
    /// Parses and checks a recipe; `label` names it in errors until its own name is known.
    ///
    /// # Errors
    /// The first thing that is wrong, with the file and, for templates, the line.
    pub fn parse(label: &str, sources: &Sources<'_>) -> Result<Self, Error> {
        Self::build(label, sources).map_err(|what| Error { recipe: label.to_owned(), what })
    }

    fn build(label: &str, sources: &Sources<'_>) -> Result<Self, String> {
        let front: Front = toml::from_str(sources.front).map_err(|error| format!("recipe.toml: {error}"))?;
        if front.name != label {
            return Err(format!("recipe.toml: name must be `{label}`, like its folder"));
        }
        front.check()?;
        let output_schema = sources
            .output_schema
            .map(OutputSchema::parse)
            .transpose()
            .map_err(|what| format!("output.schema.json: {what}"))?;
        for example in &front.examples {
            example.check(output_schema.as_ref(), &front.tools)?;
        }
        let templates =
            Templates::try_new(&front.name, sources.system, sources.task).map_err(|error| error.to_string())?;
        let hash = hash(&front, sources, output_schema.as_ref()).map_err(|error| error.to_string())?;
        let recipe = Self { front, hash, templates, output_schema };
        recipe.rehearse().map_err(|error| error.to_string())?;
        Ok(recipe)
    }

    /// Renders both templates with and without tools, so that a misspelt name is found before a task comes.
    fn rehearse(&self) -> Result<(), TemplateError> {
        let none_given = BTreeMap::new();
        let parameters = self.parameter_values(&none_given);
        for with_tools in [false, true] {
            let bound = self.slots().map(|(slot, name)| (slot, with_tools.then_some(name))).collect();
            self.templates.system(&SystemContext {
                role: self.role(),
                purpose: "",
                tool: bound,
                tools: if with_tools { vec!["docs_search"] } else { Vec::new() },
                structured: with_tools,
                citations: with_tools,
            })?;
        }
        self.templates.task(&parameters).map(|_| ())
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
        self.front.tools.iter().map(|(slot, name)| (slot.as_str(), name.as_str()))
    }

    /// Its parameters.
    #[must_use]
    pub fn parameters(&self) -> &BTreeMap<String, Parameter> {
        &self.front.parameters
    }

    /// Every parameter with the task's value, else its default.
    #[must_use]
    pub fn parameter_values<'a>(&'a self, given: &'a BTreeMap<String, String>) -> BTreeMap<&'a str, &'a str> {
        let value = |(name, parameter): (&'a String, &'a Parameter)| {
            (name.as_str(), given.get(name).unwrap_or(&parameter.default).as_str())
        };
        self.front.parameters.iter().map(value).collect()
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

impl Front {
    fn check(&self) -> Result<(), String> {
        let temperature = self.sampling.temperature.as_deref();
        let checks = [
            (is_name(&self.name), "name must match [a-z][a-z0-9-]{0,62}"),
            (self.version >= 1, "version must be at least 1"),
            (!self.role.is_empty() && self.role.len() <= 200, "role must have 1 to 200 bytes"),
            (
                self.task_types.iter().all(|kind| crate::order::is_task_type(kind)),
                "task_types must match [a-z][a-z0-9_-]{0,63}",
            ),
            (self.tools.keys().all(|slot| is_identifier(slot)), "names in [tools] must match [a-z][a-z0-9_]{0,62}"),
            (
                self.tools
                    .values()
                    .all(|name| name.parse::<crate::selector::Selector>().is_ok_and(|one| one.named().is_some())),
                "values in [tools] must be `upstream.tool`",
            ),
            (
                self.parameters.keys().all(|name| is_identifier(name)),
                "names in [parameters] must match [a-z][a-z0-9_]{0,62}",
            ),
            (temperature.is_none_or(is_temperature), "sampling.temperature must be a decimal from `0` to `2`"),
            (
                (16..=1_000_000).contains(&self.sampling.max_output_tokens),
                "sampling.max_output_tokens must be within 16 and 1000000",
            ),
        ];
        match checks.into_iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(format!("recipe.toml: {what}")),
            None => Ok(()),
        }
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
