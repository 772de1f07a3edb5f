//! Values in the place of keys that a table needs and does not have, so that what else is wrong with it is found.

use figment::Error;
use figment::error::Kind;
use figment::value::{Dict, Value};
use serde::de::DeserializeOwned;

use super::table::describe;

/// A key that is not there, and the values that are read in its place.
pub(super) struct StandIn {
    /// Where it would be.
    pub(super) path: Vec<String>,
    /// One or more; every variant where it is one of several.
    pub(super) values: Vec<Value>,
}

impl StandIn {
    /// Values with which `tables` is read as far as `path` goes; none where no value helps.
    pub(super) fn find<T: DeserializeOwned>(tables: &Value, path: &[String]) -> Option<Self> {
        let mut variants = Vec::new();
        for group in candidates() {
            let mut values: Vec<_> =
                group.into_iter().filter(|value| fits::<T>(tables, path, value, &mut variants)).collect();
            if values.is_empty() && !variants.is_empty() {
                let all = std::mem::take(&mut variants).into_iter().map(Value::from);
                values = all.filter(|value| fits::<T>(tables, path, value, &mut Vec::new())).collect();
            }
            if !values.is_empty() {
                return Some(Self { path: path.to_vec(), values });
            }
        }
        None
    }
}

/// What keys may be, in groups of one form. Two values of each: a rule that both break does not rest on the value.
fn candidates() -> [Vec<Value>; 7] {
    let texts = |all: [&str; 2]| all.map(Value::from).to_vec();
    [
        texts(["a", "b"]),
        vec![Value::from(1), Value::from(2)],
        vec![Value::from(false), Value::from(true)],
        vec![Value::from(Dict::new())],
        vec![Value::from(Vec::<Value>::new())],
        texts(["1s", "2s"]),
        texts(["127.0.0.1:1", "127.0.0.1:2"]),
    ]
}

/// Whether `value` at `path` is read. Where it would be the name of a variant, all names go into `variants`.
fn fits<T: DeserializeOwned>(tables: &Value, path: &[String], value: &Value, variants: &mut Vec<&'static str>) -> bool {
    let mut tables = tables.clone();
    if !put(&mut tables, path, value.clone()) {
        return false;
    }
    let Err(Error { kind, path: mut at, .. }) = tables.deserialize::<T>() else { return true };
    if let Kind::UnknownVariant(_, known) = &kind
        && at == path
    {
        variants.extend(*known);
    }
    let (_, missing) = describe(&kind, &mut at);
    // What a table needs in its turn, or something that is wrong elsewhere.
    if at.starts_with(path) { missing && at != path } else { !path.starts_with(&at) }
}

/// Puts a value where a key is missing in a table that is there. Answers whether there is one.
pub(super) fn put(tables: &mut Value, path: &[String], value: Value) -> bool {
    let [first, rest @ ..] = path else { return false };
    match tables {
        Value::Dict(_, dict) if rest.is_empty() => {
            dict.insert(first.clone(), value);
            true
        }
        Value::Dict(_, dict) => dict.get_mut(first).is_some_and(|inner| put(inner, rest, value)),
        Value::Array(_, items) => {
            let inner = first.parse::<usize>().ok().and_then(|index| items.get_mut(index));
            inner.is_some_and(|inner| put(inner, rest, value))
        }
        _ => false,
    }
}
