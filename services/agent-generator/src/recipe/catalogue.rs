//! The recipes that the service knows: those in the binary, and those of a folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use mar_proto::session::Task;

use super::{Error, Recipe, Sources};

/// Where a prompt comes from.
#[derive(Clone, Debug)]
pub enum Pick {
    /// A recipe.
    Recipe(Arc<Recipe>),
    /// The platform's plain prompt, for tasks without a recipe.
    Plain(Arc<Recipe>),
}

impl Pick {
    /// The recipe, or the plain prompt in the same form.
    #[must_use]
    pub fn recipe(&self) -> &Recipe {
        match self {
            Self::Recipe(recipe) | Self::Plain(recipe) => recipe,
        }
    }

    /// The recipe's resource name; none for the plain prompt.
    #[must_use]
    pub fn named(&self) -> Option<&Recipe> {
        match self {
            Self::Recipe(recipe) => Some(recipe),
            Self::Plain(_) => None,
        }
    }
}

/// All recipes by name.
#[derive(Debug)]
pub struct Catalogue {
    recipes: BTreeMap<String, Arc<Recipe>>,
    plain: Arc<Recipe>,
}

impl Catalogue {
    /// The recipes of the binary.
    ///
    /// # Errors
    /// Never, unless the binary was built from broken recipes.
    pub fn embedded() -> Result<Self, Vec<Error>> {
        let plain = Recipe::parse(
            "plain",
            &Sources {
                front: include_str!("../../recipes/plain/recipe.toml"),
                system: include_str!("../../recipes/plain/system.jinja"),
                task: include_str!("../../recipes/plain/task.jinja"),
                output_schema: None,
            },
        )?;
        let mut catalogue = Self { recipes: BTreeMap::new(), plain: Arc::new(plain) };
        catalogue.add(Recipe::parse(
            "answer-with-sources",
            &Sources {
                front: include_str!("../../recipes/answer-with-sources/recipe.toml"),
                system: include_str!("../../recipes/answer-with-sources/system.jinja"),
                task: include_str!("../../recipes/answer-with-sources/task.jinja"),
                output_schema: Some(include_str!("../../recipes/answer-with-sources/output.schema.json")),
            },
        )?);
        Ok(catalogue)
    }

    /// Adds every recipe of a folder: a subfolder each, with `recipe.toml`, `system.jinja`, `task.jinja` and, where
    /// answers have a format, `output.schema.json`. A recipe replaces the one of the same name in the binary.
    ///
    /// # Errors
    /// A folder that cannot be read, or everything that is wrong with its recipes: files that cannot be read or are
    /// refused, and two recipes for one type of task.
    pub fn with_folder(mut self, folder: &Path) -> Result<Self, Vec<Error>> {
        let refused = |error: io::Error| vec![Error { recipe: folder.display().to_string(), what: error.to_string() }];
        let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let entries = entries.map_err(refused)?;
        let mut folders: Vec<_> = entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        folders.sort();
        let mut wrong = Vec::new();
        for path in folders {
            match read(&path) {
                Ok(recipe) => self.add(recipe),
                Err(errors) => wrong.extend(errors),
            }
        }
        wrong.extend(self.shared_types());
        if wrong.is_empty() { Ok(self) } else { Err(wrong) }
    }

    /// Adds a recipe, or replaces the one of its name.
    pub fn add(&mut self, recipe: Recipe) {
        self.recipes.insert(recipe.name().to_owned(), Arc::new(recipe));
    }

    /// The recipe of this name; without a name the platform's for the type, else the plain prompt. None when there is
    /// no recipe of the name.
    #[must_use]
    pub fn pick(&self, name: Option<&str>, task_type: &str) -> Option<Pick> {
        if let Some(name) = name {
            return self.recipes.get(name).cloned().map(Pick::Recipe);
        }
        let for_type = self.recipes.values().find(|recipe| recipe.task_types().iter().any(|kind| kind == task_type));
        Some(for_type.cloned().map_or_else(|| Pick::Plain(self.plain.clone()), Pick::Recipe))
    }

    /// The parameters that a task gives and its recipe does not know. None where it cannot be said which recipe that is:
    /// a name or type that is none breaks a rule itself, and a recipe that is not there is told of as missing.
    pub fn strange_parameters<'a>(&self, task: &'a Task) -> Vec<&'a str> {
        let named = mar_task::recipe_name(&task.recipe);
        let task_type = mar_task::task_type(task);
        let sayable = named.is_some() || (task.recipe.is_empty() && mar_task::is_type(task_type));
        let Some(pick) = self.pick(named, task_type).filter(|_| sayable) else { return Vec::new() };
        let known = pick.recipe().parameters();
        task.parameters.keys().map(String::as_str).filter(|name| !known.contains_key(*name)).collect()
    }

    /// The names of all recipes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.recipes.keys().map(String::as_str)
    }

    /// What is wrong where several recipes are for one type of task.
    fn shared_types(&self) -> Vec<Error> {
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        let mut wrong = Vec::new();
        for recipe in self.recipes.values() {
            for kind in recipe.task_types() {
                if let Some(other) = owners.insert(kind, recipe.name()) {
                    let what = format!("the task type `{kind}` belongs to the recipe {other} already");
                    wrong.push(Error { recipe: recipe.name().to_owned(), what });
                }
            }
        }
        wrong
    }
}

fn read(folder: &Path) -> Result<Recipe, Vec<Error>> {
    let label = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut wrong = Vec::new();
    let mut file = |name: &str| {
        let text = fs::read_to_string(folder.join(name));
        text.map_err(|error| wrong.push(Error { recipe: label.clone(), what: format!("{name}: {error}") })).ok()
    };
    let schema = if folder.join("output.schema.json").exists() { file("output.schema.json") } else { None };
    let (Some(front), Some(system), Some(task)) = (file("recipe.toml"), file("system.jinja"), file("task.jinja"))
    else {
        return Err(wrong);
    };
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Recipe::parse(&label, &Sources { front: &front, system: &system, task: &task, output_schema: schema.as_deref() })
}
