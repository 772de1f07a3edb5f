//! The recipes that the service knows: those in the binary, and those of a folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

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
    pub fn embedded() -> Result<Self, Error> {
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
    /// A folder or file that cannot be read, a recipe that is refused, or two recipes for one type of task.
    pub fn with_folder(mut self, folder: &Path) -> Result<Self, Error> {
        let refused =
            |label: &Path, error: &io::Error| Error { recipe: label.display().to_string(), what: error.to_string() };
        let entries = fs::read_dir(folder).map_err(|error| refused(folder, &error))?;
        let mut folders = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| refused(folder, &error))?.path();
            if path.is_dir() {
                folders.push(path);
            }
        }
        folders.sort();
        for path in folders {
            self.add(read(&path)?);
        }
        self.one_recipe_per_type()?;
        Ok(self)
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

    /// The names of all recipes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.recipes.keys().map(String::as_str)
    }

    fn one_recipe_per_type(&self) -> Result<(), Error> {
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for recipe in self.recipes.values() {
            for kind in recipe.task_types() {
                if let Some(other) = owners.insert(kind, recipe.name()) {
                    let what = format!("the task type `{kind}` belongs to the recipe {other} already");
                    return Err(Error { recipe: recipe.name().to_owned(), what });
                }
            }
        }
        Ok(())
    }
}

fn read(folder: &Path) -> Result<Recipe, Error> {
    let label = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let file = |name: &str| {
        fs::read_to_string(folder.join(name))
            .map_err(|error| Error { recipe: label.clone(), what: format!("{name}: {error}") })
    };
    let schema = if folder.join("output.schema.json").exists() { Some(file("output.schema.json")?) } else { None };
    let sources = (file("recipe.toml")?, file("system.jinja")?, file("task.jinja")?);
    Recipe::parse(
        &label,
        &Sources { front: &sources.0, system: &sources.1, task: &sources.2, output_schema: schema.as_deref() },
    )
}
