//! What a request names and nobody has, told together: whoever mends one name should not learn of the next only then.

use std::fmt;

use mar_runtime::status::Resource;

/// Names that do not exist, by the type of their resource, in the order in which they are told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missing(Vec<(Resource, Vec<String>)>);

impl Missing {
    /// One resource, named as `recipes/plain` is.
    #[must_use]
    pub fn one(kind: Resource, name: impl Into<String>) -> Self {
        let mut missing = Self::default();
        missing.add(kind, [name.into()]);
        missing
    }

    /// Adds resources of a type that was not added before; without a name it changes nothing.
    pub fn add(&mut self, kind: Resource, names: impl IntoIterator<Item = String>) {
        let names: Vec<String> = names.into_iter().collect();
        if !names.is_empty() {
            self.0.push((kind, names));
        }
    }

    /// Adds what another found.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many names there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|(_, names)| names.len()).sum()
    }

    /// The names of each type of resource.
    pub fn groups(&self) -> impl Iterator<Item = (Resource, &[String])> {
        self.0.iter().map(|(kind, names)| (*kind, names.as_slice()))
    }

    /// All names.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().flat_map(|(_, names)| names).map(String::as_str).collect()
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names of several types say themselves what they are: `recipes/…`, `tools/…`.
        if let [(kind, _)] = self.0.as_slice() {
            write!(out, "{kind} ")?;
        }
        write!(out, "{} not found", self.names().join(", "))
    }
}
