//! A call's arguments: one JSON object, no key twice.

use std::fmt;

use mar_descriptor::canonical;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The largest arguments, in bytes of JSON text.
pub const MAX_BYTES: usize = 1 << 20;

/// Reads arguments. Nothing at all is the empty object, as models write it for tools without parameters.
///
/// # Errors
/// What is wrong, without the text itself.
pub fn parse(text: &str) -> Result<Value, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("the arguments are larger than {MAX_BYTES} bytes"));
    }
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value)).map_err(|error| {
        let what = match error.is_data() {
            true => "a key occurs twice in one object",
            false if canonical::is_too_deep(&error) => "they are nested too deep",
            false => "they are not JSON",
        };
        format!("the arguments are refused at line {}, column {}: {what}", error.line(), error.column())
    })?;
    if value.is_object() { Ok(value) } else { Err("the arguments are not a JSON object".to_owned()) }
}

#[derive(Clone, Copy)]
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if fields.contains_key(&key) {
                return Err(de::Error::custom("duplicate key"));
            }
            let value = access.next_value_seed(self)?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_without_doubles_is_read() {
        assert_eq!(parse("").unwrap(), serde_json::json!({}));
        let text = r#"{"a": [1, 2.5, -3, {"b": null}], "c": "é", "n": 18446744073709551615}"#;
        assert_eq!(parse(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn anything_else_is_refused_without_its_text() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500));
        for (text, why) in [
            (r#"{"secret": 1, "secret": 2}"#, "twice"),
            (r#"{"a": {"secret": 1, "secret": 2}}"#, "twice"),
            ("[1]", "object"),
            ("secret", "not JSON"),
            ("{} {}", "not JSON"),
            (&deep, "nested too deep"),
            (&" ".repeat(MAX_BYTES + 1), "larger"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{error}");
        }
    }
}
