//! How well an admitted model suits: a weighted sum of terms from 0 to 1, in millionths.

use crate::catalogue::{LatencyClass, Model};
use crate::policy::{ONE, Weights};

/// The blended price, in nano-USD for a million tokens, at which the price term is one half.
const HALF_PRICE: i64 = 1_000_000_000;

/// A part of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// `quality`, `price` or `latency`.
    pub name: &'static str,
    /// From 0 to 1, in millionths.
    pub value_micros: i64,
    /// In millionths; the weights of all terms sum up to a million.
    pub weight_micros: i64,
}

/// The terms of a model's score for a task type.
pub fn terms(model: &Model, weights: Weights, task_type: &str) -> [Term; 3] {
    let term = |name, value_micros, weight_micros| Term { name, value_micros, weight_micros };
    [
        term("quality", model.quality_micros(task_type), weights.quality),
        term("price", price(model), weights.price),
        term("latency", latency(model.latency_class), weights.latency),
    ]
}

/// The weighted sum, in millionths, rounded down.
pub fn total(terms: &[Term]) -> i64 {
    let sum: i64 =
        terms.iter().map(|term| term.value_micros.saturating_mul(term.weight_micros)).fold(0, i64::saturating_add);
    sum / ONE
}

/// Falls from 1 for a free model towards 0; a price that is not known counts as endless.
fn price(model: &Model) -> i64 {
    let Some(price) = model.price else {
        return 0;
    };
    let half = i128::from(HALF_PRICE);
    let value = i128::from(ONE) * half / (half + i128::from(price.blended()));
    i64::try_from(value).unwrap_or(0)
}

fn latency(class: LatencyClass) -> i64 {
    match class {
        LatencyClass::Fast => ONE,
        LatencyClass::Medium => ONE / 2,
        LatencyClass::Slow => ONE / 10,
        LatencyClass::Unknown => 0,
    }
}
