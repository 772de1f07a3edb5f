//! One spelling for JSON that others wrote.

use serde_json::{Number, Value};

use super::{Error, MAX_BYTES, MAX_DEPTH};

/// The compact text of a document that others wrote, such as a tool's or a task's JSON Schema: RFC 8785, except that
/// integers which a double cannot hold keep all their digits instead of being rounded, so that two documents which
/// differ in one digit differ here. Fractions are allowed and spelled as RFC 8785 does.
///
/// # Errors
/// [`Error::Depth`] beyond [`MAX_DEPTH`], [`Error::Size`] beyond [`MAX_BYTES`].
pub fn foreign(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write(value, 0, &mut out)?;
    Ok(out)
}

fn write(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    if matches!(value, Value::Array(_) | Value::Object(_)) && depth >= MAX_DEPTH {
        return Err(Error::Depth { path: String::new() });
    }
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::String(text) => write_string(text, out)?,
        Value::Number(number) => write_number(number, out)?,
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                separate(index, out);
                write(item, depth + 1, out)?;
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (index, (key, item)) in fields.into_iter().enumerate() {
                separate(index, out);
                write_string(key, out)?;
                out.push(':');
                write(item, depth + 1, out)?;
            }
            out.push('}');
        }
    }
    if out.len() > MAX_BYTES { Err(Error::Size { bytes: out.len() }) } else { Ok(()) }
}

fn separate(index: usize, out: &mut String) {
    if index > 0 {
        out.push(',');
    }
}

/// serde_json escapes exactly what RFC 8785 §3.2.2.2 asks for, in the same spelling.
fn write_string(text: &str, out: &mut String) -> Result<(), Error> {
    out.push_str(&serde_json::to_string(text).map_err(Error::Syntax)?);
    Ok(())
}

fn write_number(number: &Number, out: &mut String) -> Result<(), Error> {
    if number.is_f64() {
        out.push_str(&serde_json_canonicalizer::to_string(number).map_err(Error::Syntax)?);
    } else {
        out.push_str(&number.to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn agrees_with_rfc_8785_where_that_is_exact() {
        let value =
            json!({"\u{fb33}": 0.1, "\u{1f600}": 1e21, "a": [1.0, -0.0, 1e-7, 3, "\u{7f}\u{1}\n\"\\/é"], "": null});
        assert_eq!(foreign(&value).unwrap(), serde_json_canonicalizer::to_string(&value).unwrap());
        assert!(foreign(&value).unwrap().contains("[1,0,1e-7,3,"));
    }

    #[test]
    fn keeps_large_integers_apart() {
        assert_eq!(foreign(&json!({"maximum": i64::MAX})).unwrap(), r#"{"maximum":9223372036854775807}"#);
        assert_ne!(foreign(&json!(i64::MAX)).unwrap(), foreign(&json!(i64::MAX - 1)).unwrap());
    }

    #[test]
    fn is_bounded() {
        let mut deep = json!(1);
        for _ in 0..=MAX_DEPTH {
            deep = json!([deep]);
        }
        assert_eq!(foreign(&deep).unwrap_err().reason(), "DEPTH");
        assert_eq!(foreign(&json!("x".repeat(MAX_BYTES))).unwrap_err().reason(), "SIZE");
    }
}
