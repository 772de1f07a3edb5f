//! Numbers within their bounds, and values that differ.

use serde_json::{Value, json};

/// Which numbers a schema allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Integer,
    Real,
}

/// The number nearest to zero that the bounds allow.
pub(super) fn number(schema: &Value, kind: Number) -> Value {
    let bound = |key: &str| schema[key].as_f64();
    let integer = kind == Number::Integer;
    let unit = if integer { 1.0 } else { 0.5 };
    let step = bound("multipleOf").filter(|step| *step > 0.0);
    let lowest = bound("minimum").or_else(|| bound("exclusiveMinimum"));
    let highest = bound("maximum").or_else(|| bound("exclusiveMaximum"));
    let mut made = match (lowest, highest) {
        (Some(low), _) if low > 0.0 => low,
        (low, Some(high)) if high < 0.0 => low.unwrap_or(high),
        _ => 0.0,
    };
    if let Some(step) = step {
        made = (made / step).ceil() * step;
    } else if integer {
        made = made.ceil();
    }
    if bound("exclusiveMinimum").is_some_and(|low| made <= low) {
        made += step.unwrap_or(unit);
    }
    if bound("exclusiveMaximum").is_some_and(|high| made >= high) {
        let middle = lowest.zip(highest).map(|(low, high)| f64::midpoint(low, high));
        made = if integer || step.is_some() { made - step.unwrap_or(unit) } else { middle.unwrap_or(made - unit) };
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and far inside the range")]
    if made.fract() == 0.0 && made.abs() < 9.0e15 { json!(made as i64) } else { json!(made) }
}

/// Makes an item differ from those before it, for `uniqueItems`, where strings, numbers and enums allow it.
pub(super) fn distinct(item: Value, before: &[Value], schema: &Value) -> Value {
    if !before.contains(&item) {
        return item;
    }
    let values = schema["enum"].as_array().into_iter().flatten();
    if let Some(other) = values.into_iter().find(|value| !before.contains(value)) {
        return other.clone();
    }
    let count = before.len();
    match item {
        Value::String(text) => Value::String(format!("{text}{count}")),
        Value::Number(number) => number.as_i64().map_or(Value::Number(number), |whole| {
            let step = schema["multipleOf"].as_i64().unwrap_or(1);
            json!(whole.saturating_add(step.saturating_mul(i64::try_from(count).unwrap_or(i64::MAX))))
        }),
        Value::Bool(state) => Value::Bool(!state),
        other => other,
    }
}
