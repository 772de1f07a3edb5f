//! What does not exist, as a status.

use mar_proto::types::ErrorReason;
use mar_runtime::status::Fault;
use tonic::{Code, Status};

use crate::missing::Missing;

impl From<Missing> for Status {
    fn from(missing: Missing) -> Self {
        let names = missing.names();
        // Of a run that fails on it only the text is kept, so that it has to name them all.
        let fault = Fault::new(Code::NotFound, ErrorReason::NotFound, missing.to_string());
        let fault = match missing.groups().next() {
            Some((kind, of_kind)) => fault.resource(kind, of_kind.first().cloned().unwrap_or_default()),
            None => fault,
        };
        if names.len() < 2 {
            return fault.into();
        }
        let all = fault.metadata("missing", names.join(","));
        missing.groups().fold(all, |fault, (_, names)| fault.metadata(collection(names), names.join(","))).into()
    }
}

/// The part of resource names that says what they are: `tools` of `tools/docs.search`.
fn collection(names: &[String]) -> &str {
    names.first().and_then(|name| name.split_once('/')).map_or("other", |(collection, _)| collection)
}

#[cfg(test)]
mod tests {
    use mar_runtime::status::{Resource, metadata};

    use super::*;

    #[test]
    fn one_name_needs_no_list() {
        let told = Status::from(Missing::one(Resource::Recipe, "recipes/gone"));
        assert_eq!(told.message(), "recipe recipes/gone not found");
        assert_eq!(told.message(), Status::from(Fault::not_found(Resource::Recipe, "recipes/gone")).message());
        assert!(metadata(&told).is_empty());
    }

    #[test]
    fn several_types_are_told_with_a_key_each() {
        let mut missing = Missing::one(Resource::Recipe, "recipes/gone");
        missing.add(Resource::Model, []);
        missing.add(Resource::Tool, ["tools/a.b".to_owned(), "tools/c.*".to_owned()]);
        assert_eq!(missing.count(), 3);
        let told = Status::from(missing);
        assert_eq!(told.message(), "recipes/gone, tools/a.b, tools/c.* not found");
        let keys = metadata(&told);
        assert_eq!((keys["recipes"].as_str(), keys["tools"].as_str()), ("recipes/gone", "tools/a.b,tools/c.*"));
        assert_eq!((keys["missing"].as_str(), keys.len()), ("recipes/gone,tools/a.b,tools/c.*", 3));
    }
}
