//! Reads the answer's text out of a constrained turn while it is still being written.

use super::constrained::ACTION;

/// Follows a text such as `{"action":"answer","answer":"…"}`.
#[derive(Debug)]
pub struct AnswerScan {
    key: String,
    /// Where the next piece of the answer's string begins, once it has begun.
    at: Option<usize>,
    said: usize,
    over: bool,
}

impl AnswerScan {
    /// Looks for the action and key `key`.
    pub fn new(key: &str) -> Self {
        Self { key: key.to_owned(), at: None, said: 0, over: false }
    }

    /// What the turn's text, which only ever grows, says of the answer beyond what was said before.
    pub fn more(&mut self, turn: &str) -> String {
        let mut said = String::new();
        if self.over {
            return said;
        }
        if self.at.is_none() {
            match opening(turn, &self.key) {
                Opening::At(at) => self.at = Some(at),
                Opening::Open => {}
                Opening::Other => self.over = true,
            }
        }
        let Some(mut at) = self.at else {
            return said;
        };
        while let Some((text, next)) = character(&turn[at..]) {
            match text {
                Some(text) => said.push(text),
                None => {
                    self.over = true;
                    break;
                }
            }
            at += next;
        }
        self.at = Some(at);
        self.said += said.len();
        said
    }

    /// How much has been said so far, in bytes.
    pub fn said(&self) -> usize {
        self.said
    }
}

enum Opening {
    At(usize),
    Open,
    Other,
}

/// Where the answer's string begins.
fn opening(turn: &str, key: &str) -> Opening {
    let action = format!("\"{ACTION}\"");
    let name = format!("\"{key}\"");
    let expected = ["{", &action, ":", &name, ",", &name, ":", "\""];
    let mut rest = turn;
    for token in expected {
        rest = rest.trim_start();
        match rest.strip_prefix(token) {
            Some(after) => rest = after,
            None if token.starts_with(rest) => return Opening::Open,
            None => return Opening::Other,
        }
    }
    Opening::At(turn.len() - rest.len())
}

/// The next character of a JSON string and its length in the text; no character at the string's end; none while it is
/// incomplete.
fn character(text: &str) -> Option<(Option<char>, usize)> {
    let first = text.chars().next()?;
    if first == '"' {
        return Some((None, 1));
    }
    if first != '\\' {
        return Some((Some(first), first.len_utf8()));
    }
    let simple = |char| Some((Some(char), 2));
    match text.chars().nth(1)? {
        'n' => simple('\n'),
        't' => simple('\t'),
        'r' => simple('\r'),
        'b' => simple('\u{8}'),
        'f' => simple('\u{c}'),
        'u' => escaped(text),
        other => simple(other),
    }
}

fn escaped(text: &str) -> Option<(Option<char>, usize)> {
    let unit = |from: usize| u16::from_str_radix(text.get(from..from + 4)?, 16).ok();
    let high = unit(2)?;
    let mut units = vec![high];
    if (0xd800..0xdc00).contains(&high) {
        units.push(unit(8)?);
    }
    let length = units.len() * 6;
    let char = char::decode_utf16(units).next()?.unwrap_or(char::REPLACEMENT_CHARACTER);
    Some((Some(char), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(turn: &str, step: usize) -> String {
        let mut scan = AnswerScan::new("answer");
        let mut said = String::new();
        for end in (0..=turn.len()).step_by(step).chain([turn.len()]) {
            said.push_str(&scan.more(&turn[..turn.floor_char_boundary(end)]));
        }
        said
    }

    #[test]
    fn any_pace_says_the_same() {
        let answer = "a \"quoted\"\n\tb é 😀 \\ end";
        let plain = serde_json::json!(answer).to_string();
        let escaped = plain.replace('é', "\\u00e9").replace('😀', "\\ud83d\\ude00");
        for text in [plain, escaped] {
            let turn = format!("{{ \"action\" : \"answer\",\n\"answer\": {text} }}");
            for step in 1..20 {
                assert_eq!(scan(&turn, step), answer, "{turn} by {step}");
            }
        }
    }

    #[test]
    fn other_turns_say_nothing() {
        for turn in [
            r#"{"action":"search","answer":"x"}"#,
            r#"{"answer":"x","action":"answer"}"#,
            r#"{"action":"answer","answer":{"a":"x"}}"#,
            "free text",
        ] {
            assert_eq!(scan(turn, 1), "", "{turn}");
        }
    }
}
