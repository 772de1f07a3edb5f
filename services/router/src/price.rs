//! Money: nano-USD, prices for a million tokens, and what a call can cost at most.

/// Nano-USD in a USD.
const NANO: i64 = 1_000_000_000;
const DECIMALS: usize = 9;
const MILLION: i128 = 1_000_000;
/// The highest price that a catalogue may state: a million USD for a million tokens.
const MAX_PRICE: i64 = 1_000_000 * NANO;

/// Prices in nano-USD for a million tokens. All zero: declared free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Input that no cache served.
    pub input: i64,
    /// Input read from the provider's cache.
    pub cached_input: i64,
    /// Output, reasoning included.
    pub output: i64,
}

/// Tokens of a call by class. Classes do not overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Input that no cache served.
    pub input: i64,
    /// Input read from the provider's cache.
    pub cached_input: i64,
    /// Visible output.
    pub output: i64,
    /// Reasoning.
    pub reasoning: i64,
}

impl Tokens {
    /// All that the provider read.
    pub fn all_input(self) -> i64 {
        self.input.saturating_add(self.cached_input)
    }

    /// All that the provider wrote.
    pub fn all_output(self) -> i64 {
        self.output.saturating_add(self.reasoning)
    }
}

impl Price {
    /// What the tokens cost, in nano-USD, rounded up.
    pub fn cost(self, tokens: Tokens) -> i64 {
        let of = |tokens: i64, price: i64| i128::from(tokens.max(0)) * i128::from(price);
        let sum = of(tokens.input, self.input)
            .saturating_add(of(tokens.cached_input, self.cached_input))
            .saturating_add(of(tokens.all_output(), self.output));
        i64::try_from(sum.saturating_add(MILLION - 1) / MILLION).unwrap_or(i64::MAX)
    }

    /// The most that a call can cost: nothing from a cache, and all of the output that it may write.
    pub fn most(self, input_tokens: i64, output_tokens: i64) -> i64 {
        self.cost(Tokens { input: input_tokens, output: output_tokens, ..Tokens::default() })
    }

    /// Three parts input and one part output: what a million tokens of a typical agent's turn cost.
    pub fn blended(self) -> i64 {
        let sum = i128::from(self.input) * 3 + i128::from(self.output);
        i64::try_from(sum / 4).unwrap_or(i64::MAX)
    }
}

/// Reads decimal USD, such as `0.15`, as nano-USD, exactly.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_usd(text: &str) -> Result<i64, &'static str> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let dotted = text.contains('.') && fraction.is_empty();
    if whole.is_empty() || dotted || !digits(whole) || !digits(fraction) {
        return Err("must be decimal USD for a million tokens, such as \"0.15\"");
    }
    if fraction.len() > DECIMALS {
        return Err("must have at most 9 decimals");
    }
    let padded = format!("{whole}{fraction:0<DECIMALS$}");
    let nano = padded.parse::<i64>().ok().filter(|nano| *nano <= MAX_PRICE);
    nano.ok_or("must be at most 1000000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_usd_is_read_exactly() {
        assert_eq!(parse_usd("0.15"), Ok(150_000_000));
        assert_eq!(parse_usd("10"), Ok(10_000_000_000));
        assert_eq!(parse_usd("0.000000001"), Ok(1));
        assert_eq!(parse_usd("0"), Ok(0));
        for bad in ["", ".5", "1.", "-1", "+1", "1e3", "0.0000000001", "1 ", "1000001", "9".repeat(40).as_str()] {
            assert!(parse_usd(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cost_rounds_up_and_never_overflows() {
        let price = Price { input: 150_000_000, cached_input: 75_000_000, output: 600_000_000 };
        let tokens = Tokens { input: 1_000, cached_input: 1_000, output: 10, reasoning: 5 };
        assert_eq!(price.cost(tokens), 150_000 + 75_000 + 9_000);
        let one = Price { input: 1, cached_input: 0, output: 0 };
        assert_eq!(one.most(1, 0), 1);
        assert_eq!(price.most(i64::MAX, i64::MAX), i64::MAX);
        assert_eq!(price.most(-5, 0), 0);
    }
}
