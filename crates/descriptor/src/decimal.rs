//! Fractions as text: JSON numbers with a fraction do not survive every implementation unchanged, strings do.
//!
//! The one spelling: an optional `-`, digits without a leading zero, and optionally a point and digits that do not end in
//! zero. No exponent, no `+`, no `-0`.

const MAX_CHARS: usize = 40;

/// Whether the text is a decimal in its one spelling, of at most 40 characters.
#[must_use]
pub fn is_canonical(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = match digits.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (digits, None),
    };
    let whole_fits = is_digits(whole) && (whole == "0" || !whole.starts_with('0'));
    let fraction_fits = fraction.is_none_or(|fraction| is_digits(fraction) && !fraction.ends_with('0'));
    text.len() <= MAX_CHARS && whole_fits && fraction_fits && text != "-0"
}

/// The decimal for a double, by its shortest digits that read back as the same double; none when it is not finite or
/// needs more than 40 characters.
#[must_use]
pub fn from_f64(value: f64) -> Option<String> {
    // Adding zero turns -0 into 0.
    let text = format!("{}", value + 0.0);
    is_canonical(&text).then_some(text)
}

/// The double nearest to a decimal in its one spelling.
#[must_use]
pub fn to_f64(text: &str) -> Option<f64> {
    if is_canonical(text) { text.parse().ok() } else { None }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_one_spelling() {
        for good in ["0", "1", "0.7", "-0.5", "10", "123.456", "0.05"] {
            assert!(is_canonical(good), "{good}");
        }
        for bad in [
            "",
            "-",
            "-0",
            "+1",
            "01",
            "1.",
            ".5",
            "0.50",
            "1.0",
            "1e3",
            "NaN",
            "0,5",
            "--1",
            "1.2.3",
            "٣",
            &"1".repeat(41),
        ] {
            assert!(!is_canonical(bad), "{bad}");
        }
    }

    #[test]
    fn doubles_go_there_and_back() {
        for value in [0.0, 0.1, 0.7, 1.0, 1.5, -2.25, 1e-7, 123_456_789.125] {
            assert_eq!(to_f64(&from_f64(value).unwrap()), Some(value));
        }
        assert_eq!(from_f64(-0.0).as_deref(), Some("0"));
        assert_eq!(from_f64(1.0).as_deref(), Some("1"));
        for value in [f64::NAN, f64::INFINITY, 1e300, 1e-300] {
            assert_eq!(from_f64(value), None);
        }
    }
}
