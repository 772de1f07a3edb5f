//! The prompt pipeline: named steps that build a draft up, each of which says what it did.

use std::collections::BTreeMap;

use mar_descriptor::Hash;
use mar_proto::types::{Message, Origin, Part, Role, part::Content};

use crate::order::Brief;
use crate::recipe::{Frame, Pick, TemplateError};
use crate::schema::OutputSchema;

mod budget;
mod examples;
mod output_format;
mod recipe;
mod template;
mod tools;

/// A tool that the agent may call, as far as a prompt speaks of it.
#[derive(Clone, Copy, Debug)]
pub struct OfferedTool<'a> {
    /// `upstream.tool`.
    pub name: &'a str,
    /// What the model calls it.
    pub alias: &'a str,
    /// JSON Schema of its arguments, as text; empty where it is not known.
    pub input_schema: &'a str,
}

impl OfferedTool<'_> {
    /// The tool's name within its upstream.
    #[must_use]
    pub fn short_name(&self) -> &str {
        self.name.split_once('.').map_or(self.name, |(_, tool)| tool)
    }
}

/// One named stage of the pipeline.
pub trait PromptOptimizerStep: Sync {
    /// Its name, which is sealed with the prompt.
    fn name(&self) -> &'static str;

    /// Changes the draft and says in one sentence what it did.
    ///
    /// # Errors
    /// A template that does not render.
    fn apply(&self, draft: &mut Draft<'_>) -> Result<String, TemplateError>;
}

/// The steps, in order.
const STEPS: [&dyn PromptOptimizerStep; 6] = [
    &recipe::RecipeStep,
    &tools::ToolsStep,
    &output_format::OutputFormatStep,
    &template::TemplateStep,
    &examples::ExamplesStep,
    &budget::BudgetStep,
];

/// A prompt in the making.
#[derive(Debug)]
pub struct Draft<'a> {
    brief: &'a Brief,
    pick: &'a Pick,
    offered: &'a [OfferedTool<'a>],
    parameters: BTreeMap<&'a str, &'a str>,
    bound: BTreeMap<&'a str, OfferedTool<'a>>,
    schema: Option<&'a OutputSchema>,
    system: String,
    frame: Frame,
    examples: Vec<Shown>,
}

/// An example as it is shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The conversation.
    pub messages: Vec<Message>,
    /// The hash of what is shown.
    pub hash: Hash,
    /// Its size in bytes.
    pub bytes: usize,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepReport {
    /// The step's name.
    pub name: &'static str,
    /// What it did, in one sentence.
    pub effect: String,
    /// Size of the prompt after it, in bytes.
    pub prompt_bytes: usize,
}

/// A finished prompt.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The system text.
    pub system: String,
    /// Hashes of the examples, in their order.
    pub examples: Vec<Hash>,
    /// The whole: system, examples and task.
    pub messages: Vec<Message>,
    /// The schema of the answer, in its one spelling; none for free text.
    pub output_schema: Option<String>,
    /// What each step did.
    pub steps: Vec<StepReport>,
}

impl Prompt {
    /// Its size, with the task's input.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.steps.last().map_or(0, |step| step.prompt_bytes)
    }
}

/// Runs the pipeline.
///
/// # Errors
/// A template that does not render.
pub fn render(brief: &Brief, pick: &Pick, offered: &[OfferedTool<'_>]) -> Result<Prompt, TemplateError> {
    let mut draft = Draft {
        brief,
        pick,
        offered,
        parameters: BTreeMap::new(),
        bound: BTreeMap::new(),
        schema: None,
        system: String::new(),
        frame: Frame::default(),
        examples: Vec::new(),
    };
    let mut steps = Vec::with_capacity(STEPS.len());
    for step in STEPS {
        let effect = step.apply(&mut draft)?;
        steps.push(StepReport { name: step.name(), effect, prompt_bytes: draft.bytes() });
    }
    Ok(draft.finish(steps))
}

impl Draft<'_> {
    fn bytes(&self) -> usize {
        self.static_bytes() + self.frame.before.len() + self.frame.after.len() + input_bytes(&self.brief.input)
    }

    /// Without the task.
    fn static_bytes(&self) -> usize {
        self.system.len() + self.examples.iter().map(|example| example.bytes).sum::<usize>()
    }

    fn finish(self, steps: Vec<StepReport>) -> Prompt {
        let mut messages = vec![message(Role::System, vec![text(self.system.clone(), Origin::Platform)])];
        messages.extend(self.examples.iter().flat_map(|example| example.messages.clone()));
        messages.push(message(Role::User, task_parts(self.frame, self.brief)));
        Prompt {
            system: self.system,
            examples: self.examples.iter().map(|example| example.hash).collect(),
            messages,
            output_schema: self.schema.map(|schema| schema.text().to_owned()),
            steps,
        }
    }
}

/// The input's own parts in their order, with the template's words around them.
fn task_parts(frame: Frame, brief: &Brief) -> Vec<Part> {
    // Where a task gives values, the words around its input are partly its own.
    let origin = if brief.parameters.is_empty() { Origin::Platform } else { Origin::Caller };
    let around = |words: String| (!words.trim().is_empty()).then(|| text(words, origin));
    around(frame.before).into_iter().chain(brief.input.iter().cloned()).chain(around(frame.after)).collect()
}

fn input_bytes(input: &[Part]) -> usize {
    input.iter().map(crate::media::part_bytes).sum()
}

fn message(role: Role, parts: Vec<Part>) -> Message {
    Message { role: role.into(), parts }
}

fn text(words: String, origin: Origin) -> Part {
    part(Content::Text(words), origin)
}

fn part(content: Content, origin: Origin) -> Part {
    Part { content: Some(content), origin: origin.into(), tainted: false }
}

#[cfg(test)]
mod tests;
