//! Which tools of the catalogue a task asks for.

use std::fmt;
use std::str::FromStr;

/// The longest name of a tool, in bytes.
pub const MAX_NAME_BYTES: usize = 200;

/// Picks tools by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// `*`: every tool.
    Every,
    /// `upstream.*`: all tools of an upstream.
    Upstream(String),
    /// `upstream.tool`: this one, which has to be there.
    Tool(String),
}

impl Selector {
    /// Whether it picks the tool `upstream.tool`.
    #[must_use]
    pub fn picks(&self, name: &str) -> bool {
        match self {
            Self::Every => true,
            Self::Upstream(upstream) => name.split_once('.').is_some_and(|(of, _)| of == upstream),
            Self::Tool(tool) => tool == name,
        }
    }

    /// The name of the one tool that it insists on.
    #[must_use]
    pub fn named(&self) -> Option<&str> {
        match self {
            Self::Tool(tool) => Some(tool),
            Self::Every | Self::Upstream(_) => None,
        }
    }
}

/// The text is no selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be `upstream.tool`, `upstream.*` or `*`")]
pub struct Malformed;

impl FromStr for Selector {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text == "*" {
            return Ok(Self::Every);
        }
        let (upstream, tool) = text.split_once('.').ok_or(Malformed)?;
        if !is_upstream(upstream) || text.len() > MAX_NAME_BYTES {
            return Err(Malformed);
        }
        match tool {
            "*" => Ok(Self::Upstream(upstream.to_owned())),
            "" => Err(Malformed),
            tool if tool.chars().any(|c| c == '*' || c.is_whitespace() || c.is_control()) => Err(Malformed),
            _ => Ok(Self::Tool(text.to_owned())),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every => f.write_str("*"),
            Self::Upstream(upstream) => write!(f, "{upstream}.*"),
            Self::Tool(tool) => f.write_str(tool),
        }
    }
}

/// `[a-z][a-z0-9-]{0,31}`.
fn is_upstream(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 32
        && bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms() {
        for good in ["*", "docs.*", "docs.search", "a-1.b.c"] {
            assert_eq!(good.parse::<Selector>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "docs",
            ".x",
            "docs.",
            "Docs.x",
            "1a.x",
            "docs.a*",
            "docs.a b",
            "*.x",
            &format!("{}.x", "a".repeat(33)),
        ] {
            assert_eq!(bad.parse::<Selector>(), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn the_first_dot_splits() {
        let upstream: Selector = "a.*".parse().unwrap();
        assert!(upstream.picks("a.b.c") && !upstream.picks("ab.c"));
        assert!(Selector::Every.picks("x.y"));
        assert_eq!("a.b.c".parse::<Selector>().unwrap().named(), Some("a.b.c"));
    }
}
