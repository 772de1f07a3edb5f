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

/// A piece of a text up to a `;` that is outside strings and comments; the last one is what follows the last `;`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Statement {
    pub range: Range<usize>,
    /// How deep brackets nest.
    pub nesting: usize,
    /// How many operators and keywords there are of those that can make an expression one level deeper each.
    pub operators: usize,
}

impl Statement {
    /// An upper bound of the depth of the parsed rule.
    pub(super) fn depth(&self) -> usize {
        self.nesting + self.operators
    }
}

/// Splits a text into statements by Cedar's lexical rules, without recursion: it must hold on any input, because it
/// guards the parser from texts that would exhaust the stack.
pub(super) fn statements(text: &str) -> Vec<Statement> {
    let mut scanner = Scanner::default();
    for (offset, character) in text.char_indices() {
        scanner.take(offset, character);
    }
    scanner.end_word();
    scanner.end_statement(text.len());
    scanner.done
}

#[derive(Clone, Copy, Default)]
enum Within {
    #[default]
    Code,
    Text,
    Escape,
    Comment,
}

#[derive(Default)]
struct Scanner {
    within: Within,
    previous: char,
    word: String,
    open: usize,
    statement: Statement,
    done: Vec<Statement>,
}

impl Scanner {
    fn take(&mut self, offset: usize, character: char) {
        self.within = match (self.within, character) {
            (Within::Code, '"') => {
                self.end_word();
                Within::Text
            }
            (Within::Code, '/') if self.previous == '/' => Within::Comment,
            (Within::Code, code) => {
                self.code(code);
                if code == ';' {
                    self.end_statement(offset + 1);
                }
                Within::Code
            }
            (Within::Text, '\\') => Within::Escape,
            (Within::Text, '"') | (Within::Comment, '\n' | '\r') => Within::Code,
            (Within::Escape, _) => Within::Text,
            (same, _) => same,
        };
        self.previous = character;
    }

    fn code(&mut self, character: char) {
        if character.is_ascii_alphanumeric() || character == '_' {
            self.word.push(character);
            return;
        }
        self.end_word();
        match character {
            '(' | '[' | '{' => {
                self.open += 1;
                self.statement.nesting = self.statement.nesting.max(self.open);
            }
            ')' | ']' | '}' => self.open = self.open.saturating_sub(1),
            '.' | '+' | '-' | '*' | '/' | '%' | '!' => self.statement.operators += 1,
            '&' | '|' if self.previous == character => self.statement.operators += 1,
            _ => {}
        }
    }

    fn end_word(&mut self) {
        if matches!(self.word.as_str(), "if" | "when" | "unless") {
            self.statement.operators += 1;
        }
        self.word.clear();
    }

    fn end_statement(&mut self, end: usize) {
        self.statement.range.end = end;
        let next = Statement { range: end..end, ..Statement::default() };
        self.done.push(std::mem::replace(&mut self.statement, next));
        self.open = 0;
    }
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
        let pieces: Vec<&str> = statements(text).into_iter().map(|statement| &text[statement.range]).collect();
        assert_eq!(pieces, ["a \";\\\";\";", " // b;\n c;", "\r// d;\r e;", ""]);
    }

    #[test]
    fn depth_counts_code_only() {
        let text = "permit (a) when { ((a.b && \"((((&&.+\" || // ((( &&\n !c)) }; x";
        let [first, second] = &statements(text)[..] else { panic!("two statements") };
        assert_eq!((first.nesting, first.operators), (3, 6));
        assert_eq!(first.depth(), 9);
        assert_eq!((second.nesting, second.operators), (0, 0));
    }
}
