//! Text that people decide on, shown so that nothing of it hides.

/// Deeper levels are not indented further.
const DEEPEST: usize = 24;

/// JSON text with each member on a line of its own. Every character stays but the whitespace between tokens: no number is
/// rounded, and no name that occurs twice is dropped. What is no JSON stays in one piece.
pub(super) fn indented(json: &str) -> String {
    if serde_json::from_str::<serde::de::IgnoredAny>(json).is_err() {
        return visible(json);
    }
    let mut text = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    let mut chars = json.chars().peekable();
    while let Some(char) = chars.next() {
        if in_string {
            push(&mut text, char);
            in_string = escaped || char != '"';
            escaped = !escaped && char == '\\';
            continue;
        }
        match char {
            ' ' | '\t' | '\n' | '\r' => {}
            '"' => {
                in_string = true;
                text.push('"');
            }
            '{' | '[' => {
                text.push(char);
                while chars.next_if(|next| matches!(next, ' ' | '\t' | '\n' | '\r')).is_some() {}
                if let Some(close) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(close);
                } else {
                    depth += 1;
                    line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut text, depth);
                text.push(char);
            }
            ',' => {
                text.push(',');
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            other => push(&mut text, other),
        }
    }
    text
}

fn line(text: &mut String, depth: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", depth.min(DEEPEST)));
}

/// Text in which every character can be seen: those that control a terminal, turn the direction of reading, or have no
/// width are written as JSON escapes.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    text.chars().for_each(|char| push(&mut shown, char));
    shown
}

fn push(text: &mut String, char: char) {
    if hides(char) {
        let mut units = [0; 2];
        for unit in char.encode_utf16(&mut units) {
            text.push_str(&format!("\\u{unit:04x}"));
        }
    } else {
        text.push(char);
    }
}

fn hides(char: char) -> bool {
    char.is_control()
        || matches!(char,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_on_lines_and_nothing_is_lost() {
        let json = r#"{"to":"a","to":"b, {c}","n":[1e400, 12345678901234567890.10],"e":{ },"f":[],"q":"\"}"}"#;
        let text = indented(json);
        assert_eq!(
            text,
            "{\n  \"to\": \"a\",\n  \"to\": \"b, {c}\",\n  \"n\": [\n    1e400,\n    12345678901234567890.10\n  ],\n  \
             \"e\": {},\n  \"f\": [],\n  \"q\": \"\\\"}\"\n}"
        );
        assert_eq!(indented("{}"), "{}");
    }

    #[test]
    fn what_is_no_json_is_shown_as_it_is() {
        assert_eq!(indented("rm -rf\u{1b}[2J"), "rm -rf\\u001b[2J");
        assert_eq!(indented("]]}"), "]]}");
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(indented(&deep).len() < 20_000 * (2 + 2 * DEEPEST), "indentation does not grow without end");
    }

    #[test]
    fn nothing_hides() {
        assert_eq!(visible("a\u{202e}b\u{200b}c\r\n\u{e0041}é"), "a\\u202eb\\u200bc\\u000d\\u000a\\udb40\\udc41é");
        assert_eq!(indented("{\"a\":\"x\u{202e}y\"}"), "{\n  \"a\": \"x\\u202ey\"\n}");
    }
}
