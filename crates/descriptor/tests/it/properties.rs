//! What holds for every document, not only for the samples.

use mar_descriptor::{
    Descriptor, SealedDescriptor,
    canonical::{self, MAX_INTEGER},
};
use proptest::{prelude::*, sample::Index};
use serde_json::{Map, Value};

use crate::samples::{full, unicode};

fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-MAX_INTEGER..=MAX_INTEGER).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Writes a document with keys in an order that `turn` picks, spaces, and every character that `escape` picks as `\u`.
fn respell(value: &Value, turn: usize, escape: bool) -> String {
    let string = |text: &str| {
        if escape {
            let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            format!("\"{units}\"")
        } else {
            Value::from(text).to_string()
        }
    };
    match value {
        Value::String(text) => string(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| respell(item, turn, escape)).collect();
            format!("[ {} ]", items.join(" ,\n"))
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields
                .iter()
                .map(|(key, item)| format!("{}\t: {}", string(key), respell(item, turn, escape)))
                .collect();
            if !fields.is_empty() {
                let by = turn % fields.len();
                fields.rotate_left(by);
            }
            if turn % 2 == 1 {
                fields.reverse();
            }
            format!("{{\r\n{} }}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// Every place in the sections that holds a value of its own.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, item)| {
            leaves(item, &format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), found)
        }),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| leaves(item, &format!("{path}/{index}"), found))
        }
        _ if path == "/schema" => {}
        _ => found.push(path.to_owned()),
    }
}

/// Another value of the same type.
fn change(value: &mut Value) {
    *value = match value.take() {
        Value::Bool(flag) => Value::from(!flag),
        Value::Number(number) => Value::from(number.as_i64().unwrap() ^ 1),
        Value::String(text) if text.starts_with("sha256:") => {
            let last = if text.ends_with('0') { "1" } else { "0" };
            Value::from(format!("{}{last}", &text[..text.len() - 1]))
        }
        Value::String(text) => Value::from(text + "x"),
        other => panic!("not a leaf: {other}"),
    };
}

/// Changes one place and says which sections' hashes changed with it.
fn sections_changed_by(descriptor: &Descriptor, path: &str) -> Vec<&'static str> {
    let mut document = serde_json::to_value(descriptor).unwrap();
    change(document.pointer_mut(path).unwrap());
    let changed: Descriptor = serde_json::from_value(document).unwrap();
    assert_ne!(changed.hash().unwrap(), descriptor.hash().unwrap(), "{path}");
    Descriptor::diff(descriptor, &changed).unwrap()
}

fn places(descriptor: &Descriptor) -> Vec<String> {
    let mut paths = Vec::new();
    leaves(&serde_json::to_value(descriptor).unwrap(), "", &mut paths);
    // The default role in the sample leaves its options out; there is no value to change there.
    paths.retain(|path| !serde_json::to_value(descriptor).unwrap().pointer(path).unwrap().is_null());
    paths
}

#[test]
fn each_field_changes_its_own_section_alone() {
    let descriptor = full();
    let paths = places(&descriptor);
    assert!(paths.len() > 60, "{}", paths.len());
    for path in paths {
        let section = path.split('/').nth(1).unwrap();
        assert_eq!(sections_changed_by(&descriptor, &path), [section], "{path}");
    }
}

proptest! {
    #[test]
    fn canonical_form_is_stable(value in document()) {
        let bytes = canonical::to_canonical(&value).unwrap();
        let parsed = canonical::parse_canonical(&bytes).unwrap();
        prop_assert_eq!(canonical::to_canonical(&parsed).unwrap(), bytes);
        prop_assert_eq!(parsed, value);
    }

    #[test]
    fn spelling_is_irrelevant(value in document(), turn in 0_usize..12, escape: bool) {
        let parsed = canonical::parse(respell(&value, turn, escape).as_bytes()).unwrap();
        prop_assert_eq!(canonical::to_canonical(&parsed).unwrap(), canonical::to_canonical(&value).unwrap());
    }

    /// Two writers, one of them ours, agree wherever both apply.
    #[test]
    fn foreign_form_agrees_with_the_canonical_form(value in document()) {
        prop_assert_eq!(canonical::foreign(&value).unwrap().into_bytes(), canonical::to_canonical(&value).unwrap());
    }

    #[test]
    fn foreign_form_agrees_with_rfc_8785_on_fractions(number in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
        let value = Value::from(number);
        prop_assert_eq!(canonical::foreign(&value).unwrap(), serde_json_canonicalizer::to_string(&value).unwrap());
    }

    #[test]
    fn a_repeated_key_is_always_refused(fields in prop::collection::btree_map("[a-z]{1,3}", document(), 1..5), which: Index, tail in document()) {
        let keys: Vec<_> = fields.keys().cloned().collect();
        let again = which.get(&keys).clone();
        let object = Value::Object(fields.into_iter().collect::<Map<_, _>>()).to_string();
        let text = format!("{},{}:{tail}}}", &object[..object.len() - 1], Value::from(again));
        prop_assert_eq!(canonical::parse(text.as_bytes()).unwrap_err().reason(), "DUPLICATE_KEY");
    }

    #[test]
    fn any_change_changes_exactly_its_section(
        purpose: String, system: String, labels in prop::collection::btree_map(any::<String>(), any::<String>(), 0..4),
        steps in 0..MAX_INTEGER, which: Index, odd: bool,
    ) {
        let mut descriptor = if odd { unicode() } else { full() };
        (descriptor.metadata.purpose, descriptor.prompt.system) = (purpose, system);
        descriptor.metadata.labels.extend(labels);
        descriptor.halting.max_steps = steps;
        let paths = places(&descriptor);
        let path = which.get(&paths);
        prop_assert_eq!(sections_changed_by(&descriptor, path), [path.split('/').nth(1).unwrap()]);
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic(bytes: Vec<u8>, text: String, at: Index, byte: u8) {
        let _ = canonical::parse(&bytes);
        let _ = Descriptor::parse(&bytes);
        let _ = SealedDescriptor::from_envelope(&text);
        let mut document = full().canonical().unwrap();
        let at = at.index(document.len());
        document[at] = byte;
        if let Ok(descriptor) = Descriptor::parse(&document) {
            prop_assert_eq!(descriptor.canonical().unwrap(), document);
        }
    }
}
