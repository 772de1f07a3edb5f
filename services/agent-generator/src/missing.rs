//! What a request names and nobody has, told together: whoever mends one name should not learn of the next only then.

use std::fmt;

use mar_proto::types::ErrorReason;
use mar_runtime::status::Fault;
use tonic::{Code, Status};

/// Names that do not exist, by the type of their resource, in the order in which they are told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missing(Vec<(&'static str, Vec<String>)>);

impl Missing {
    /// One resource, named as `recipes/plain` is.
    #[must_use]
    pub fn one(kind: &'static str, name: impl Into<String>) -> Self {
        let mut missing = Self::default();
        missing.add(kind, [name.into()]);
        missing
    }

    /// Adds resources of a type that was not added before; without a name it changes nothing.
    pub fn add(&mut self, kind: &'static str, names: impl IntoIterator<Item = String>) {
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

    fn names(&self) -> Vec<&str> {
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

impl From<Missing> for Status {
    fn from(missing: Missing) -> Self {
        let names = missing.names();
        // Of a run that fails on it only the text is kept, so that it has to name them all.
        let fault = Fault::new(Code::NotFound, ErrorReason::NotFound, missing.to_string());
        let fault = match missing.0.first() {
            Some((kind, of_kind)) => fault.resource(*kind, of_kind.first().cloned().unwrap_or_default()),
            None => fault,
        };
        if names.len() < 2 {
            return fault.into();
        }
        let all = fault.metadata("missing", names.join(","));
        missing.0.iter().fold(all, |fault, (_, names)| fault.metadata(collection(names), names.join(","))).into()
    }
}

/// The part of resource names that says what they are: `tools` of `tools/docs.search`.
fn collection(names: &[String]) -> &str {
    names.first().and_then(|name| name.split_once('/')).map_or("other", |(collection, _)| collection)
}

#[cfg(test)]
mod tests {
    use mar_runtime::status::metadata;

    use super::*;

    #[test]
    fn one_name_needs_no_list() {
        let told = Status::from(Missing::one("x.Recipe", "recipes/gone"));
        assert_eq!(told.message(), "x.Recipe recipes/gone not found");
        assert_eq!(told.message(), Status::from(Fault::not_found("x.Recipe", "recipes/gone")).message());
        assert!(metadata(&told).is_empty());
    }

    #[test]
    fn several_types_are_told_with_a_key_each() {
        let mut missing = Missing::one("x.Recipe", "recipes/gone");
        missing.add("x.Model", []);
        missing.add("x.Tool", ["tools/a.b".to_owned(), "tools/c.*".to_owned()]);
        assert_eq!(missing.count(), 3);
        let told = Status::from(missing);
        assert_eq!(told.message(), "recipes/gone, tools/a.b, tools/c.* not found");
        let keys = metadata(&told);
        assert_eq!((keys["recipes"].as_str(), keys["tools"].as_str()), ("recipes/gone", "tools/a.b,tools/c.*"));
        assert_eq!((keys["missing"].as_str(), keys.len()), ("recipes/gone,tools/a.b,tools/c.*", 3));
    }
}
