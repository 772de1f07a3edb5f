//! Turns what a user or model wrote into an FTS5 query. Nothing of it is ever read as FTS5 syntax.

const MAX_TERMS: usize = 32;
/// Terms from this many characters on also match words that start with them.
const MIN_PREFIX: usize = 4;

/// Words that say nothing about what is looked for, left out while others remain.
const STOP: [&str; 48] = [
    "a", "an", "and", "are", "as", "at", "be", "by", "can", "could", "did", "do", "does", "for", "from", "had", "has",
    "have", "how", "i", "if", "in", "into", "is", "it", "its", "me", "my", "of", "on", "or", "should", "that", "the",
    "their", "there", "they", "this", "to", "was", "what", "when", "where", "which", "who", "why", "will", "with",
];

/// An OR of the query's terms, each quoted; none when it holds no letter or digit.
pub fn to_match(query: &str) -> Option<String> {
    let spaced = space(query).to_lowercase();
    let mut terms: Vec<&str> = Vec::new();
    for term in spaced.split(|c: char| !c.is_alphanumeric()).filter(|term| !term.is_empty()) {
        if !terms.contains(&term) {
            terms.push(term);
        }
    }
    if terms.iter().any(|term| !STOP.contains(term)) {
        terms.retain(|term| !STOP.contains(term));
    }
    terms.truncate(MAX_TERMS);
    // Terms hold letters and digits only, so a quoted one cannot end its quotes.
    let parts: Vec<String> = terms
        .iter()
        .map(|term| {
            let star = if term.chars().count() >= MIN_PREFIX { "*" } else { "" };
            if star.is_empty() { format!("\"{term}\"") } else { format!("\"{term}\" OR \"{term}\"{star}") }
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join(" OR "))
}

/// Sets characters of scripts that do not put spaces between words apart, so that each can be found.
pub fn space(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unspaced(c) {
            out.push(' ');
            out.push(c);
            out.push(' ');
        } else {
            out.push(c);
        }
    }
    out
}

fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{0e00}'..='\u{0eff}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_is_text() {
        assert_eq!(to_match("\") OR 1").unwrap(), "\"1\"");
        assert_eq!(
            to_match("NEAR(a b) title:x* -y").unwrap(),
            r#""near" OR "near"* OR "b" OR "title" OR "title"* OR "x" OR "y""#
        );
        assert_eq!(to_match("\"*^(){}:+-"), None);
        assert_eq!(
            to_match("What is the halting policy?").unwrap(),
            r#""halting" OR "halting"* OR "policy" OR "policy"*"#
        );
        assert_eq!(to_match("what is the").unwrap(), r#""what" OR "what"* OR "is" OR "the""#);
    }

    #[test]
    fn scripts_without_spaces_are_split() {
        assert_eq!(to_match("検索").unwrap(), r#""検" OR "索""#);
    }
}
