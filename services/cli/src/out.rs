//! Everything that `mar` says goes through [`Out`].

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde_json::Value;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Standard output for results, standard error for everything on the way there.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    /// How results are painted.
    pub result: Ink,
    /// How remarks are painted.
    pub remark: Ink,
    /// Whether standard error is a terminal that can be redrawn.
    pub live: bool,
    result_terminal: bool,
}

impl Out {
    /// The process's own streams.
    pub fn new(choice: ColorChoice) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value: std::ffi::OsString| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let ink = |terminal: bool| match choice {
            ColorChoice::Always => Ink(true),
            ColorChoice::Never => Ink(false),
            ColorChoice::Auto => Ink(terminal && !dumb && !set("NO_COLOR")),
        };
        let (out, err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self { result: ink(out), remark: ink(err), live: err && !dumb, result_terminal: out }
    }

    /// A line of the result. A reader that has gone away is not an error.
    pub fn line(&self, text: impl Display) {
        let _ = writeln!(io::stdout().lock(), "{text}");
    }

    /// A line beside the result.
    pub fn note(&self, text: impl Display) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// The whole result as one JSON value: in one line in a pipe, indented on a terminal.
    pub fn json(&self, value: &Value) {
        let text = if self.result_terminal { format!("{value:#}") } else { value.to_string() };
        self.line(text);
    }

    /// Lines, each ended.
    pub fn lines(&self, lines: impl IntoIterator<Item = impl Display>) {
        for line in lines {
            self.line(line);
        }
    }

    /// Passes everything on that was printed.
    pub fn flush(&self) {
        let _ = io::stdout().lock().flush();
    }
}

/// Paints, or leaves text as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ink(pub bool);

impl Ink {
    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// What matters.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What matters less.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// What went well.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// What went wrong.
    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// What to look at.
    pub fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Names and commands.
    pub fn name(self, text: &str) -> String {
        self.paint("36", text)
    }
}

/// Text from elsewhere, made safe to show: control characters, which could rewrite a terminal, become `\u{fffd}`. Line
/// breaks and tabs stay.
pub fn clean(text: &str) -> String {
    let safe = |char: char| if char.is_control() && !matches!(char, '\n' | '\t') { '\u{fffd}' } else { char };
    text.chars().map(safe).collect()
}

/// [`clean`] in one line of at most `max` characters.
pub fn one_line(text: &str, max: usize) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = clean(&words);
    if text.chars().count() <= max {
        return text;
    }
    let mut cut: String = text.chars().take(max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_drive_a_terminal() {
        assert_eq!(clean("a\x1b[2Jb\nc\td\r"), "a\u{fffd}[2Jb\nc\td\u{fffd}");
        assert_eq!(one_line("a  b\n\nc\x07", 80), "a b c\u{fffd}");
        assert_eq!(one_line("abcdef", 4), "abc…");
    }

    #[test]
    fn ink_paints_or_does_not() {
        assert_eq!(Ink(false).bold("x"), "x");
        assert_eq!(Ink(true).bold("x"), "\x1b[1mx\x1b[0m");
    }
}
