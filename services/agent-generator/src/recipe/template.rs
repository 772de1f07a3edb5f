//! A recipe's templates, rendered with bounded work.
//!
//! The task's input never enters the template engine: the task template is rendered around a mark, and the input's own
//! parts take the mark's place afterwards. So input is not interpreted, costs no fuel, and keeps the order of its parts.

use std::collections::BTreeMap;
use std::{fmt, io};

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};

/// Instructions that one rendering may take.
const FUEL: u64 = 50_000;
/// The longest text that a template may give, in bytes.
const MAX_TEXT_BYTES: usize = 256 * 1024;
const SYSTEM: &str = "system.jinja";
const TASK: &str = "task.jinja";

/// The system and the task template of a recipe.
pub struct Templates {
    recipe: String,
    environment: Environment<'static>,
}

/// What the system template sees: nothing of the task's input or parameters, since the text is sealed.
#[derive(Debug)]
pub struct SystemContext<'a> {
    /// The agent's role.
    pub role: &'a str,
    /// The session's purpose; may be empty.
    pub purpose: &'a str,
    /// By name in the recipe, the alias of the tool that is bound to it.
    pub tool: BTreeMap<&'a str, Option<&'a str>>,
    /// The aliases of all tools.
    pub tools: Vec<&'a str>,
    /// Whether the answer has a schema.
    pub structured: bool,
    /// Whether the answer carries citations.
    pub citations: bool,
}

/// What the task template says before and after the input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Before it; may be empty.
    pub before: String,
    /// After it; may be empty.
    pub after: String,
}

/// Why a template did not render.
#[derive(Debug, thiserror::Error)]
#[error("recipe {recipe}, {template} line {line}: {what}")]
pub struct TemplateError {
    /// The recipe.
    pub recipe: String,
    /// The template's file.
    pub template: &'static str,
    /// The line, from 1; 0 where it is not known.
    pub line: usize,
    /// What is wrong. Holds no values.
    pub what: String,
}

impl TemplateError {
    /// What is wrong and where, for who knows which recipe it is.
    pub(super) fn in_file(&self) -> String {
        match self.line {
            0 => format!("{}: {}", self.template, self.what),
            line => format!("{} line {line}: {}", self.template, self.what),
        }
    }
}

impl Templates {
    /// Compiles both templates, and tells the syntax errors of each. One that has any cannot be rendered.
    #[must_use]
    pub fn compile(recipe: &str, system: &str, task: &str) -> (Self, Vec<TemplateError>) {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        let mut broken = Vec::new();
        match SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
            Ok(syntax) => environment.set_syntax(syntax),
            Err(error) => broken.push(refuse(recipe, SYSTEM, &error)),
        }
        for (name, source) in [(SYSTEM, system), (TASK, task)] {
            let added = environment.add_template_owned(name, source.to_owned());
            broken.extend(added.err().map(|error| refuse(recipe, name, &error)));
        }
        (Self { recipe: recipe.to_owned(), environment }, broken)
    }

    /// The system text.
    ///
    /// # Errors
    /// An undefined name, too much work or too long a text.
    pub fn system(&self, context: &SystemContext<'_>) -> Result<String, TemplateError> {
        Ok(self.render(SYSTEM, Value::from(context))?.trim().to_owned())
    }

    /// What stands around the input.
    ///
    /// # Errors
    /// Like [`Templates::system`], and when the template has not exactly one `{{ input }}`.
    pub fn task(&self, parameters: &BTreeMap<&str, &str>) -> Result<Frame, TemplateError> {
        let mark = unused_mark(parameters);
        let values = parameters.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value)));
        let context = [("input", Value::from(mark.as_str())), ("parameters", Value::from_pairs(values))];
        let text = self.render(TASK, Value::from_pairs(context))?;
        match text.split(&mark).collect::<Vec<_>>().as_slice() {
            [before, after] => Ok(Frame { before: before.trim_start().to_owned(), after: after.trim_end().to_owned() }),
            _ => Err(TemplateError {
                recipe: self.recipe.clone(),
                template: TASK,
                line: 0,
                what: "must write `{{ input }}` exactly once, unchanged".to_owned(),
            }),
        }
    }

    fn render(&self, name: &'static str, context: Value) -> Result<String, TemplateError> {
        let refused = |error: &minijinja::Error| refuse(&self.recipe, name, error);
        let template = self.environment.get_template(name).map_err(|error| refused(&error))?;
        let mut text = Bounded(Vec::new());
        template.render_captured_to(context, &mut text).map_err(|error| refused(&error))?;
        Ok(String::from_utf8_lossy(&text.0).into_owned())
    }
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Templates").field("recipe", &self.recipe).finish_non_exhaustive()
    }
}

impl From<&SystemContext<'_>> for Value {
    fn from(context: &SystemContext<'_>) -> Self {
        let alias = |alias: &Option<&str>| alias.map_or_else(|| Self::from(()), Self::from);
        Self::from_pairs([
            ("role", Self::from(context.role)),
            ("purpose", Self::from(context.purpose)),
            ("tool", Self::from_pairs(context.tool.iter().map(|(slot, bound)| ((*slot).to_owned(), alias(bound))))),
            ("tools", context.tools.iter().map(|alias| Self::from(*alias)).collect()),
            ("structured", Self::from(context.structured)),
            ("citations", Self::from(context.citations)),
        ])
    }
}

/// A text that no parameter holds.
fn unused_mark(parameters: &BTreeMap<&str, &str>) -> String {
    let mut mark = "\u{E000}input\u{E001}".to_owned();
    while parameters.values().any(|value| value.contains(&mark)) {
        mark.insert(0, '\u{E000}');
    }
    mark
}

fn refuse(recipe: &str, template: &'static str, error: &minijinja::Error) -> TemplateError {
    let what = match error.kind() {
        ErrorKind::OutOfFuel => "takes too much work to render".to_owned(),
        ErrorKind::WriteFailure => format!("gives more than {MAX_TEXT_BYTES} bytes"),
        ErrorKind::SyntaxError => format!("syntax error: {}", error.detail().unwrap_or("malformed")),
        kind => kind.to_string(),
    };
    TemplateError { recipe: recipe.to_owned(), template, line: error.line().unwrap_or(0), what }
}

struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT_BYTES {
            return Err(io::Error::other("text is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
