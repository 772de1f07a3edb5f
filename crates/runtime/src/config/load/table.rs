//! Reads one table although keys of it are wrong, so that all that is wrong is found.

use figment::error::Kind;
use figment::value::{Dict, Value};
use serde::de::DeserializeOwned;

use super::stand_in::{StandIn, put};
use crate::violations::{Violation, Violations};

/// Only so many problems of a table are looked for.
const MAX_PROBLEMS: usize = 64;

/// A table of the sources, and what was taken out of it because it cannot be read.
///
/// What is wrong is recorded once, where it is. The rest is validated, but a rule is not held against what is missing
/// only because it was taken out.
pub(super) struct Draft {
    name: &'static str,
    whole: Value,
    /// Paths in `whole`.
    taken: Vec<Vec<String>>,
    /// Paths in `whole` of keys that it needs and does not have.
    missing: Vec<Vec<String>>,
}

impl Draft {
    /// Takes the table out of `tables` and reads what can be read of it. More than one reading where keys are missing: one for
    /// each value that might stand in their place. None where what is wrong leaves nothing.
    pub(super) fn read<T: DeserializeOwned>(
        tables: &mut Dict,
        name: &'static str,
        found: &mut Violations,
    ) -> (Vec<T>, Self) {
        let whole = tables.remove(name).unwrap_or_else(|| Value::from(Dict::new()));
        let mut rest = whole.clone();
        let mut draft = Self { name, whole, taken: Vec::new(), missing: Vec::new() };
        let mut made = Vec::new();
        for _ in 0..MAX_PROBLEMS {
            let Err(error) = rest.deserialize::<T>() else { break };
            // The first error is enough: the next round finds the others.
            let mut path = error.path.clone();
            let (text, missing) = describe(&error.kind, &mut path);
            let place = draft.place(&path);
            let told = draft.taken.contains(&place) || draft.missing.iter().any(|one| place.starts_with(one));
            if !(missing && told) {
                found.within(name, |found| found.field(&place.join("."), text).is_empty());
            }
            if missing {
                if let Some(stand_in) = StandIn::find::<T>(&rest, &path) {
                    put(&mut rest, &path, stand_in.values[0].clone());
                    draft.missing.push(place);
                    made.push(stand_in);
                    continue;
                }
                // Without it, the table around it cannot be read.
                path.pop();
            }
            let depth = remove(&mut rest, &path);
            if depth == 0 {
                break;
            }
            draft.taken.push(draft.place(&path[..depth]));
        }
        (readings(&rest, &made), draft)
    }

    /// Records what `check` finds in every reading, except what follows only from what was taken out or stands in.
    pub(super) fn judge<T>(&self, readings: &[T], found: &mut Violations, check: impl Fn(&T, &mut Violations)) {
        let judged = readings.iter().map(|reading| {
            let mut judged = Violations::new();
            check(reading, &mut judged);
            judged
        });
        let mut judged: Vec<_> = judged.collect();
        let Some(last) = judged.pop() else { return };
        let always = |one: &Violation| judged.iter().all(|other| other.iter().any(|found| found == one));
        for one in last.iter().filter(|one| always(one) && !self.follows(&one.field)) {
            found.field(&one.field, one.description.clone());
        }
    }

    /// Whether a rule about `field` may be broken only because something was taken out: the value itself or a part of the
    /// list or table that it is in, or what the value names.
    fn follows(&self, field: &str) -> bool {
        let field = field.strip_prefix(self.name).unwrap_or(field).trim_start_matches('.');
        let path: Vec<String> = field.replace('[', ".").replace(']', "").split('.').map(str::to_owned).collect();
        // What a rule says of a table it may say for the key that is missing in it.
        if self.missing.iter().any(|missing| missing.starts_with(&path) || path.starts_with(missing)) {
            return true;
        }
        let named = at(&self.whole, &path).and_then(Value::as_str);
        self.taken.iter().any(|taken| {
            let Some((last, around)) = taken.split_last() else { return false };
            // Items after one that was taken out have other numbers.
            let whole_list = matches!(at(&self.whole, around), Some(Value::Array(..)));
            let table = matches!(at(&self.whole, taken), Some(Value::Dict(..)));
            path.starts_with(if whole_list { around } else { taken }) || table && named == Some(last.as_str())
        })
    }

    /// Where in the sources is what stands at `path` in the rest: lists are longer there by the items that were taken out.
    fn place(&self, path: &[String]) -> Vec<String> {
        let mut place: Vec<String> = Vec::new();
        for part in path {
            let list = matches!(at(&self.whole, &place), Some(Value::Array(..)));
            let part = match part.parse::<usize>() {
                Ok(index) if list => self.index(&place, index).to_string(),
                _ => part.clone(),
            };
            place.push(part);
        }
        place
    }

    fn index(&self, list: &[String], mut index: usize) -> usize {
        let items = self.taken.iter().filter(|taken| taken.len() == list.len() + 1 && taken.starts_with(list));
        let mut gone: Vec<usize> = items.filter_map(|taken| taken.last()?.parse().ok()).collect();
        gone.sort_unstable();
        for one in gone {
            index += usize::from(one <= index);
        }
        index
    }
}

/// What is read with each of the values that stand in.
fn readings<T: DeserializeOwned>(rest: &Value, made: &[StandIn]) -> Vec<T> {
    let count = made.iter().map(|one| one.values.len()).max().unwrap_or(1);
    let reading = |nth: usize| {
        let mut tables = rest.clone();
        for StandIn { path, values } in made {
            put(&mut tables, path, values[nth % values.len()].clone());
        }
        tables.deserialize().ok()
    };
    (0..count).filter_map(reading).collect()
}

/// What is at `path`.
fn at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let [first, rest @ ..] = path else { return Some(value) };
    match value {
        Value::Dict(_, dict) => at(dict.get(first)?, rest),
        Value::Array(_, items) => at(items.get(first.parse::<usize>().ok()?)?, rest),
        _ => None,
    }
}

/// What is wrong, and whether it is that a key is missing. Completes the path where the kind knows its end.
pub(super) fn describe(kind: &Kind, path: &mut Vec<String>) -> (String, bool) {
    let mut end = |name: &str| {
        if path.last().map(String::as_str) != Some(name) {
            path.push(name.to_owned());
        }
    };
    match kind {
        Kind::UnknownField(name, known) => {
            end(name);
            (unknown_key(name, known), false)
        }
        Kind::MissingField(name) => {
            end(name);
            ("is missing".into(), true)
        }
        Kind::UnknownVariant(name, known) => {
            (format!("unknown variant: found `{name}`, expected {}", one_of(known)), false)
        }
        other => (other.to_string(), false),
    }
}

fn one_of(known: &[&str]) -> String {
    let quoted: Vec<_> = known.iter().map(|one| format!("`{one}`")).collect();
    match quoted.as_slice() {
        [] => "none".to_owned(),
        [only] => only.clone(),
        [first, second] => format!("{first} or {second}"),
        many => format!("one of {}", many.join(", ")),
    }
}

fn unknown_key(name: &str, known: &[&str]) -> String {
    let near = known.iter().map(|one| (distance(name, one), one)).min().filter(|(far, _)| *far <= 2);
    match near {
        Some((_, near)) => format!("is not a known key; did you mean {near}?"),
        None => format!("is not a known key; known are {}", known.join(", ")),
    }
}

/// The Levenshtein distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, one) in left.chars().enumerate() {
        let mut corner = row[0];
        row[0] = at + 1;
        for (to, other) in right.iter().enumerate() {
            let replaced = corner + usize::from(one != *other);
            corner = row[to + 1];
            row[to + 1] = replaced.min(corner + 1).min(row[to] + 1);
        }
    }
    row[right.len()]
}

/// Takes out what is at `path`, or the innermost of what it is in. Answers how long the path is of what was taken out; 0
/// when nothing was.
fn remove(value: &mut Value, path: &[String]) -> usize {
    let [first, rest @ ..] = path else { return 0 };
    match value {
        Value::Dict(_, dict) => {
            let inner = dict.get_mut(first).filter(|_| !rest.is_empty()).map_or(0, |inner| remove(inner, rest));
            if inner > 0 { inner + 1 } else { usize::from(dict.remove(first).is_some()) }
        }
        Value::Array(_, items) => {
            let Some(index) = first.parse::<usize>().ok().filter(|index| *index < items.len()) else { return 0 };
            let inner = remove(&mut items[index], rest);
            if inner == 0 {
                items.remove(index);
            }
            inner + 1
        }
        _ => 0,
    }
}
