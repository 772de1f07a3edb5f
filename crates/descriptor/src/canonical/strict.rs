//! The strict parser: what a lenient one would drop or round is an error with its place.

use std::{cell::RefCell, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{Error, MAX_DEPTH, MAX_INTEGER, pointer, within_size};

/// Parses one JSON document (RFC 8259, UTF-8, no byte order mark).
///
/// # Errors
/// Refuses duplicate keys, every number that is not a whole number within ±(2^53−1) in plain digits, nesting deeper
/// than [`MAX_DEPTH`] and more than [`super::MAX_BYTES`] bytes.
pub fn parse(bytes: &[u8]) -> Result<Value, Error> {
    within_size(bytes.len())?;
    let walk = Walk::default();
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = Node(&walk).deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    parsed.map_err(|error| walk.refusal.into_inner().unwrap_or(Error::Syntax(error)))
}

/// Where the parser stands, and why it stopped: serde's errors carry text only.
#[derive(Default)]
struct Walk {
    path: RefCell<Vec<String>>,
    refusal: RefCell<Option<Error>>,
}

impl Walk {
    fn refuse<E: de::Error>(&self, refusal: impl FnOnce(String) -> Error) -> E {
        let refusal = refusal(pointer(&self.path.borrow()));
        let error = E::custom(&refusal);
        *self.refusal.borrow_mut() = Some(refusal);
        error
    }

    fn enter<E: de::Error>(&self) -> Result<(), E> {
        if self.path.borrow().len() >= MAX_DEPTH {
            return Err(self.refuse(|path| Error::Depth { path }));
        }
        Ok(())
    }

    fn push(&self, token: String) {
        self.path.borrow_mut().push(token);
    }

    fn pop(&self) {
        self.path.borrow_mut().pop();
    }

    fn number<E: de::Error>(&self) -> E {
        self.refuse(|path| Error::Number { path })
    }
}

#[derive(Clone, Copy)]
struct Node<'w>(&'w Walk);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        if value < -MAX_INTEGER { Err(self.0.number()) } else { Ok(Value::from(value)) }
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        match i64::try_from(value) {
            Ok(value) if value <= MAX_INTEGER => Ok(Value::from(value)),
            _ => Err(self.0.number()),
        }
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Value, E> {
        Err(self.0.number())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.0.enter()?;
        let mut items = Vec::new();
        self.0.push("0".to_owned());
        while let Some(item) = access.next_element_seed(self)? {
            items.push(item);
            self.0.pop();
            self.0.push(items.len().to_string());
        }
        self.0.pop();
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.0.enter()?;
        let mut fields = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            self.0.push(key.clone());
            if fields.contains_key(&key) {
                return Err(self.0.refuse(|path| Error::DuplicateKey { path }));
            }
            let value = access.next_value_seed(self)?;
            fields.insert(key, value);
            self.0.pop();
        }
        Ok(Value::Object(fields))
    }
}
