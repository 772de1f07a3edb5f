use std::ops::Range;

/// Line and column of a byte offset, both from 1, the column in characters.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = text.get(..end).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// Splits a text after each `;` that is outside strings and comments. The last piece is what follows the last one.
/// Only used to find further faults in a text that does not parse as a whole.
pub(super) fn statements(text: &str) -> Vec<Range<usize>> {
    enum Within {
        Code,
        Text,
        Escape,
        Comment,
    }
    let mut within = Within::Code;
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut previous = '\0';
    for (offset, character) in text.char_indices() {
        within = match (within, character) {
            (Within::Code, '"') => Within::Text,
            (Within::Code, '/') if previous == '/' => Within::Comment,
            (Within::Code, ';') => {
                pieces.push(start..offset + 1);
                start = offset + 1;
                Within::Code
            }
            (Within::Text, '\\') => Within::Escape,
            (Within::Text, '"') | (Within::Comment, '\n' | '\r') => Within::Code,
            (Within::Escape, _) => Within::Text,
            (same, _) => same,
        };
        previous = character;
    }
    pieces.push(start..text.len());
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters() {
        let text = "ab\nçde\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 3), (2, 1));
        assert_eq!(position(text, 4), (2, 1));
        assert_eq!(position(text, 5), (2, 2));
        assert_eq!(position(text, 999), (3, 1));
    }

    #[test]
    fn statements_ignore_strings_and_comments() {
        let text = "a \";\\\";\"; // b;\n c;\r// d;\r e;";
        let pieces: Vec<&str> = statements(text)
            .into_iter()
            .map(|range| &text[range])
            .collect();
        assert_eq!(pieces, ["a \";\\\";\";", " // b;\n c;", "\r// d;\r e;", ""]);
    }
}
