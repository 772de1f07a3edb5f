//! `recipe.toml`, and the dry run of the templates that its names and parameters allow.

use std::collections::BTreeMap;

use mar_runtime::config::{from_toml, toml_fault};
use serde::{Deserialize, Serialize};

use super::{Example, Parameter, Sampling, SystemContext, TemplateError, Templates};
use super::{is_identifier, is_name, is_temperature};
use crate::selector::Selector;

const FILE: &str = "recipe.toml";

/// `recipe.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Front {
    pub(super) name: String,
    pub(super) version: i64,
    pub(super) role: String,
    #[serde(default)]
    pub(super) task_types: Vec<String>,
    #[serde(default)]
    pub(super) tools: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) parameters: BTreeMap<String, Parameter>,
    pub(super) sampling: Sampling,
    pub(super) budget: Budget,
    #[serde(default)]
    pub(super) examples: Vec<Example>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Budget {
    pub(super) prompt_bytes: usize,
}

impl Front {
    /// The table, unless it has another form; what is wrong with it goes into the list.
    pub(super) fn read(label: &str, text: &str, wrong: &mut Vec<String>) -> Option<Self> {
        let front: Self = parse(text).map_err(|faults| wrong.extend(faults)).ok()?;
        if front.name != label {
            wrong.push(format!("{FILE}: name must be `{label}`, like its folder"));
        }
        let broken = front.rules().into_iter().filter(|(holds, _)| !holds);
        wrong.extend(broken.map(|(_, what)| format!("{FILE}: {what}")));
        Some(front)
    }

    /// Every rule, and whether it holds.
    fn rules(&self) -> [(bool, &'static str); 9] {
        let temperature = self.sampling.temperature.as_deref();
        let is_tool = |name: &String| name.parse::<Selector>().is_ok_and(|one| one.named().is_some());
        [
            (is_name(&self.name), "name must match [a-z][a-z0-9-]{0,62}"),
            (self.version >= 1, "version must be at least 1"),
            (!self.role.is_empty() && self.role.len() <= 200, "role must have 1 to 200 bytes"),
            (
                self.task_types.iter().all(|kind| crate::order::is_task_type(kind)),
                "task_types must match [a-z][a-z0-9_-]{0,63}",
            ),
            (self.tools.keys().all(|slot| is_identifier(slot)), "names in [tools] must match [a-z][a-z0-9_]{0,62}"),
            (self.tools.values().all(is_tool), "values in [tools] must be `upstream.tool`"),
            (
                self.parameters.keys().all(|name| is_identifier(name)),
                "names in [parameters] must match [a-z][a-z0-9_]{0,62}",
            ),
            (temperature.is_none_or(is_temperature), "sampling.temperature must be a decimal from `0` to `2`"),
            (
                (16..=1_000_000).contains(&self.sampling.max_output_tokens),
                "sampling.max_output_tokens must be within 16 and 1000000",
            ),
        ]
    }

    /// Renders both templates with and without tools, so that a misspelt name is found before a task comes. A template
    /// that did not compile is left out: what is wrong with it is told already.
    pub(super) fn rehearse(&self, templates: &Templates, broken: &[TemplateError], wrong: &mut Vec<String>) {
        let none_given = BTreeMap::new();
        let system = |with_tools: bool| {
            let bound = self.slots().map(|(slot, name)| (slot, with_tools.then_some(name))).collect();
            let context = SystemContext {
                role: &self.role,
                purpose: "",
                tool: bound,
                tools: if with_tools { vec!["docs_search"] } else { Vec::new() },
                structured: with_tools,
                citations: with_tools,
            };
            templates.system(&context).map(|_| ())
        };
        let task = templates.task(&self.parameter_values(&none_given)).map(|_| ());
        for error in [system(false), system(true), task].into_iter().filter_map(Result::err) {
            let line = error.in_file();
            if !broken.iter().any(|one| one.template == error.template) && !wrong.contains(&line) {
                wrong.push(line);
            }
        }
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tools.iter().map(|(slot, name)| (slot.as_str(), name.as_str()))
    }

    pub(super) fn parameter_values<'a>(&'a self, given: &'a BTreeMap<String, String>) -> BTreeMap<&'a str, &'a str> {
        let value = |(name, parameter): (&'a String, &'a Parameter)| {
            (name.as_str(), given.get(name).unwrap_or(&parameter.default).as_str())
        };
        self.parameters.iter().map(value).collect()
    }
}

/// The table, or everything that is of another form, each on one line; of what is no TOML the first fault with its line.
fn parse(text: &str) -> Result<Front, Vec<String>> {
    let table: toml::Table = text.parse().map_err(|error| vec![format!("{FILE} {}", toml_fault(text, &error))])?;
    from_toml(&table.into())
        .map_err(|found| found.iter().map(|one| format!("{FILE}: {}: {}", one.field, one.description)).collect())
}
