use cedar_policy::Policy;
use serde_json::{Map, Value};

use crate::request::Point;

/// The first point without a decider that a rule names: by its action, in the scope or in a condition, or by the type
/// of principal or resource that occurs there alone. A rule that leaves the action open names none.
pub(super) fn point(policy: &Policy) -> Option<Point> {
    // A rule that has no JSON form does not get this far: it has been parsed from text.
    named(&policy.to_json().ok()?)
}

fn named(value: &Value) -> Option<Point> {
    match value {
        Value::Array(items) => items.iter().find_map(named),
        Value::Object(fields) => of(fields).or_else(|| fields.values().find_map(named)),
        _ => None,
    }
}

fn of(fields: &Map<String, Value>) -> Option<Point> {
    let text = |key: &str| fields.get(key).and_then(Value::as_str);
    match (text("entity_type").or(text("type"))?, text("id")) {
        ("Action", Some(id)) => Point::ALL.into_iter().find(|point| !point.is_decided() && point.as_str() == id),
        ("Caller", _) => Some(Point::StartSession),
        ("Answer", _) => Some(Point::GiveAnswer),
        _ => None,
    }
}
