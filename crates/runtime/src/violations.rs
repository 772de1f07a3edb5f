//! Collects everything that is wrong with a request or a configuration, so that the caller learns it at once.

use std::fmt;
use std::path::PathBuf;

use mar_proto::types::ErrorReason;
use tonic::{Code, Status};

use crate::status::Fault;

/// One thing that is wrong: where, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field, such as `task.parts[2].text`, or of the key, such as `runtime.auth.mode`.
    pub field: String,
    /// What it must be. Never repeats a value that could be secret.
    pub description: String,
}

/// A growing list of violations with a current path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    prefix: String,
    found: Vec<Violation>,
}

impl Violations {
    /// An empty list at the root path.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty list whose paths start with `prefix`.
    pub fn at(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), found: Vec::new() }
    }

    /// Records that `field`, relative to the current path, is wrong. An empty `field` means the current path itself.
    pub fn field(&mut self, field: &str, description: impl Into<String>) -> &mut Self {
        let field = join(&self.prefix, field);
        self.found.push(Violation { field, description: description.into() });
        self
    }

    /// Records the violation unless `holds`.
    pub fn require(&mut self, holds: bool, field: &str, description: impl Into<String>) -> &mut Self {
        if !holds {
            self.field(field, description);
        }
        self
    }

    /// Runs `check` with `field` added to the current path.
    pub fn within<R>(&mut self, field: &str, check: impl FnOnce(&mut Self) -> R) -> R {
        let outer = std::mem::take(&mut self.prefix);
        self.prefix = join(&outer, field);
        let result = check(self);
        self.prefix = outer;
        result
    }

    /// Runs `check` with `field[index]` added to the current path.
    pub fn item<R>(&mut self, field: &str, index: usize, check: impl FnOnce(&mut Self) -> R) -> R {
        self.within(&format!("{field}[{index}]"), check)
    }

    /// Keeps the value of `result`, or records its error under `field`.
    pub fn take<T, E: fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.field(field, error.to_string());
                None
            }
        }
    }

    /// Hands `take` the text of each file that a setting lists, and records those that cannot be read or taken.
    pub fn files<T, E: fmt::Display>(
        &mut self,
        field: &str,
        paths: &[PathBuf],
        mut take: impl FnMut(&str) -> Result<T, E>,
    ) {
        for (at, path) in paths.iter().enumerate() {
            let read = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"));
            let taken = read.and_then(|text| take(&text).map_err(|error| error.to_string()));
            self.take(&format!("{field}[{at}]"), taken.map_err(|error| format!("{}: {error}", path.display())));
        }
    }

    /// Adds what another list found; its paths become relative to the current one.
    pub fn extend(&mut self, other: Violations) {
        for violation in other.found {
            let field = join(&self.prefix, &violation.field);
            self.found.push(Violation { field, ..violation });
        }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// What was found, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.found.iter()
    }

    /// `value` if nothing was found, else the list.
    ///
    /// # Errors
    /// The list itself, which converts to a [`Status`] with `?`.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

fn join(prefix: &str, field: &str) -> String {
    match (prefix, field) {
        ("", field) => field.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, field) if field.starts_with('[') => format!("{prefix}{field}"),
        (prefix, field) => format!("{prefix}.{field}"),
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Violation { field, description }) in self.found.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(out, "{separator}{field}: {description}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

impl From<Violations> for Status {
    fn from(violations: Violations) -> Self {
        let message = match violations.found.as_slice() {
            [only] => format!("{}: {}", only.field, only.description),
            many => format!("the request has {} violations", many.len()),
        };
        Fault::new(Code::InvalidArgument, ErrorReason::InvalidRequest, message).violations(&violations).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_in_order_and_each_that_cannot_be_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = ["1", "none", "x", "2"].map(|name| folder.path().join(name)).into();
        for at in [0, 2, 3] {
            std::fs::write(&paths[at], paths[at].file_name().unwrap().as_encoded_bytes()).unwrap();
        }
        let (mut found, mut taken) = (Violations::at("session"), Vec::new());
        found.files("keys", &paths, |text| text.parse::<i32>().map(|number| taken.push(number)));
        assert_eq!(taken, [1, 2]);
        let wrong: Vec<_> = found.iter().map(|one| (one.field.as_str(), one.description.as_str())).collect();
        assert_eq!(wrong.iter().map(|(field, _)| *field).collect::<Vec<_>>(), ["session.keys[1]", "session.keys[2]"]);
        assert!(wrong[0].1.contains("none: cannot be read") && wrong[1].1.contains("invalid digit"), "{wrong:?}");
    }

    #[test]
    fn paths_nest_and_return() {
        let mut found = Violations::new();
        found.within("task", |found| {
            found.field("input", "must not be empty");
            found.item("parts", 2, |found| found.require(false, "text", "must be UTF-8").is_empty());
        });
        found.field("page_size", "must not be negative");
        let fields: Vec<_> = found.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["task.input", "task.parts[2].text", "page_size"]);
        assert!(Violations::new().into_result(1).is_ok());
    }

    #[test]
    fn all_violations_reach_the_status() {
        let mut found = Violations::at("run");
        found.field("a", "is wrong").field("b", "is wrong too");
        let status = Status::from(found.clone());
        assert_eq!(status.code(), Code::InvalidArgument);
        let listed = crate::status::violations(&status);
        assert_eq!(listed, found.iter().cloned().collect::<Vec<_>>());
    }
}
