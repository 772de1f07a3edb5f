//! The canonical form of JSON documents: RFC 8785 (JCS) behind a strict parser.

mod foreign;
mod strict;

use serde_json::{Number, Value};

pub use foreign::foreign;
pub use strict::parse;

/// The largest integer, by absolute value, that every JSON implementation reads exactly: 2^53 − 1.
pub const MAX_INTEGER: i64 = (1 << 53) - 1;
/// How many arrays and objects may be open at once.
pub const MAX_DEPTH: usize = 64;
/// The largest document, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// Why bytes or a value have no canonical form. Paths are JSON pointers (RFC 6901), empty for the document itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More than [`MAX_BYTES`].
    #[error("document of {bytes} bytes is larger than {MAX_BYTES}")]
    Size {
        /// The document's size.
        bytes: usize,
    },
    /// Not JSON (RFC 8259) in UTF-8.
    #[error("document is not JSON")]
    Syntax(#[source] serde_json::Error),
    /// A key occurs twice in one object.
    #[error("duplicate key at `{path}`")]
    DuplicateKey {
        /// Where the second one stands.
        path: String,
    },
    /// A number that is not an integer within ±[`MAX_INTEGER`] in plain digits. Fractions travel as decimal strings.
    #[error("number at `{path}` is not a whole number within ±(2^53-1) in plain digits")]
    Number {
        /// Where it stands.
        path: String,
    },
    /// More than [`MAX_DEPTH`] arrays and objects are open at once.
    #[error("nesting at `{path}` is deeper than {MAX_DEPTH}")]
    Depth {
        /// Where the limit is crossed.
        path: String,
    },
    /// The document is acceptable and spelled otherwise than its canonical form.
    #[error("document is not in canonical form")]
    NotCanonical,
}

impl Error {
    /// A stable name for the reason, as the golden vectors use it.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Size { .. } => "SIZE",
            Self::Syntax(_) => "SYNTAX",
            Self::DuplicateKey { .. } => "DUPLICATE_KEY",
            Self::Number { .. } => "NUMBER",
            Self::Depth { .. } => "DEPTH",
            Self::NotCanonical => "NOT_CANONICAL",
        }
    }
}

/// The canonical form of a value: the same checks as [`parse`], then RFC 8785.
///
/// # Errors
/// When the value holds a number, nesting or size that [`parse`] refuses.
pub fn to_canonical(value: &Value) -> Result<Vec<u8>, Error> {
    check(value, &mut Vec::new())?;
    let bytes = serde_json_canonicalizer::to_vec(value).map_err(Error::Syntax)?;
    within_size(bytes.len())?;
    Ok(bytes)
}

/// Parses bytes that must be their own canonical form, byte for byte.
///
/// # Errors
/// Like [`parse`], and [`Error::NotCanonical`] for any other spelling.
pub fn parse_canonical(bytes: &[u8]) -> Result<Value, Error> {
    let value = parse(bytes)?;
    if to_canonical(&value)? == bytes { Ok(value) } else { Err(Error::NotCanonical) }
}

fn check(value: &Value, path: &mut Vec<String>) -> Result<(), Error> {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
        Value::Number(number) if is_exact(number) => Ok(()),
        Value::Number(_) => Err(Error::Number { path: pointer(path) }),
        Value::Array(_) | Value::Object(_) if path.len() >= MAX_DEPTH => Err(Error::Depth { path: pointer(path) }),
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(index, item)| check_at(item, path, index.to_string()))
        }
        Value::Object(fields) => fields.iter().try_for_each(|(key, item)| check_at(item, path, key.clone())),
    }
}

fn check_at(value: &Value, path: &mut Vec<String>, token: String) -> Result<(), Error> {
    path.push(token);
    check(value, path)?;
    path.pop();
    Ok(())
}

fn is_exact(number: &Number) -> bool {
    number.as_i64().is_some_and(|n| (-MAX_INTEGER..=MAX_INTEGER).contains(&n))
}

/// Whether a lenient parser gave up on nesting rather than on what is no JSON. serde_json stops at 128 open arrays and
/// objects, beyond [`MAX_DEPTH`], and calls both an error of syntax.
#[must_use]
pub fn is_too_deep(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("recursion limit exceeded")
}

fn within_size(bytes: usize) -> Result<(), Error> {
    if bytes > MAX_BYTES { Err(Error::Size { bytes }) } else { Ok(()) }
}

/// Writes a path as a JSON pointer (RFC 6901 §3).
fn pointer(path: &[String]) -> String {
    path.iter().map(|token| format!("/{}", token.replace('~', "~0").replace('/', "~1"))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nested(depth: usize) -> String {
        "[".repeat(depth) + &"]".repeat(depth)
    }

    fn reason(text: &str) -> &'static str {
        parse(text.as_bytes()).map_or_else(
            |e| e.reason(),
            |v| {
                if to_canonical(&v).is_ok() { "OK" } else { "DIFFERS" }
            },
        )
    }

    #[test]
    fn refuses_what_other_parsers_round_or_drop() {
        for (text, expected) in [
            (r#"{"a":1,"a":2}"#, "DUPLICATE_KEY"),
            (r#"{"a":1,"\u0061":2}"#, "DUPLICATE_KEY"),
            (r#"[{"b":{"a":1,"c":2,"a":1}}]"#, "DUPLICATE_KEY"),
            ("9007199254740991", "OK"),
            ("-9007199254740991", "OK"),
            ("9007199254740992", "NUMBER"),
            ("-9007199254740992", "NUMBER"),
            ("18446744073709551615", "NUMBER"),
            ("123456789012345678901234567890", "NUMBER"),
            ("0.5", "NUMBER"),
            ("1.0", "NUMBER"),
            ("1e3", "NUMBER"),
            ("-0", "NUMBER"),
            ("NaN", "SYNTAX"),
            ("Infinity", "SYNTAX"),
            ("1e400", "SYNTAX"),
            ("01", "SYNTAX"),
            ("[1,]", "SYNTAX"),
            ("{} {}", "SYNTAX"),
            ("", "SYNTAX"),
            ("\u{feff}{}", "SYNTAX"),
            (r#""\ud800""#, "SYNTAX"),
            ("// no\n1", "SYNTAX"),
        ] {
            assert_eq!(reason(text), expected, "{text}");
        }
        assert_eq!(parse(b"\"\xff\"").unwrap_err().reason(), "SYNTAX");
    }

    #[test]
    fn bounds_are_inclusive() {
        assert_eq!(reason(&nested(MAX_DEPTH)), "OK");
        assert_eq!(reason(&nested(MAX_DEPTH + 1)), "DEPTH");
        assert_eq!(reason(&nested(100_000)), "DEPTH");
        assert_eq!(reason(&format!("\"{}\"", "x".repeat(MAX_BYTES - 2))), "OK");
        assert_eq!(reason(&format!("\"{}\"", "x".repeat(MAX_BYTES - 1))), "SIZE");
    }

    #[test]
    fn depth_is_told_from_syntax() {
        let error = |text: &str| serde_json::from_str::<Value>(text).unwrap_err();
        assert!(is_too_deep(&error(&nested(200))));
        for text in ["[", "{}}", "recursion limit exceeded", &"[".repeat(100)] {
            assert!(!is_too_deep(&error(text)), "{text}");
        }
    }

    #[test]
    fn values_pass_the_same_checks_as_bytes() {
        assert_eq!(
            to_canonical(&json!({"a": [0.5]})).unwrap_err().to_string(),
            "number at `/a/0` is not a whole number within ±(2^53-1) in plain digits"
        );
        assert_eq!(to_canonical(&json!(u64::MAX)).unwrap_err().reason(), "NUMBER");
        let mut deep = json!(1);
        for _ in 0..=MAX_DEPTH {
            deep = json!({ "k": deep });
        }
        assert_eq!(to_canonical(&deep).unwrap_err().reason(), "DEPTH");
        // The canonical text may be larger than the text that was parsed: control characters are escaped.
        assert_eq!(to_canonical(&json!("\u{1}".repeat(MAX_BYTES / 4))).unwrap_err().reason(), "SIZE");
    }

    #[test]
    fn names_where() {
        let Err(Error::DuplicateKey { path }) = parse(br#"{"a/b":[0,{"~":1,"~":2}]}"#) else { panic!("accepted") };
        assert_eq!(path, "/a~1b/1/~0");
        let Err(Error::Number { path }) = parse(br#"{"a":{},"b":[1,[2,3.5]]}"#) else { panic!("accepted") };
        assert_eq!(path, "/b/1/1");
    }

    #[test]
    fn keys_sort_by_utf16_code_units() {
        // U+1F600 is a surrogate pair (d83d …), which sorts before U+FB33; by code point it would sort after.
        let bytes = to_canonical(&json!({"\u{fb33}": 1, "\u{1f600}": 2, "a": 3})).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), "{\"a\":3,\"\u{1f600}\":2,\"\u{fb33}\":1}");
    }

    #[test]
    fn canonical_bytes_have_one_spelling() {
        assert!(parse_canonical(br#"{"a":1,"b":[true,null]}"#).is_ok());
        for text in [r#"{"b":[true,null],"a":1}"#, r#"{"a": 1}"#, "\"\\u0061\"", "1 "] {
            assert_eq!(parse_canonical(text.as_bytes()).unwrap_err().reason(), "NOT_CANONICAL", "{text}");
        }
    }
}
