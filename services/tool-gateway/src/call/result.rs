//! What policies know of a result, and what stands in the place of one that they withhold.

use std::collections::BTreeSet;

use mar_alignment::{Decision, ResultFacts};
use mar_proto::types::part;

use crate::outcome::{Answer, note};

const INVISIBLE: &str = "invisible_characters";

/// Looks at an answer after it was cut, which bounds the work; its size is that from before.
pub(super) fn facts(answer: &Answer) -> ResultFacts {
    let mut findings = BTreeSet::new();
    if texts(answer).any(|text| text.chars().any(is_invisible)) {
        findings.insert(INVISIBLE.to_owned());
    }
    ResultFacts { bytes: u64::try_from(answer.size).unwrap_or(u64::MAX), is_error: answer.is_error, findings }
}

/// How the note that stands in a result's place begins and ends.
pub(super) const WITHHELD: (&str, &str) = ("POLICY_DENIED: ", " (the call was made; its result is withheld)");

/// The denial that the agent sees instead of the content.
pub(super) fn withheld(answer: &Answer, decision: &Decision) -> Answer {
    let message = decision.message.as_deref().unwrap_or("the policy does not allow this result");
    let text = format!("{}{message}{}", WITHHELD.0, WITHHELD.1);
    Answer { parts: vec![note(text)], is_error: true, size: answer.size, ..Answer::default() }
}

fn texts(answer: &Answer) -> impl Iterator<Item = &str> {
    let parts = answer.parts.iter().filter_map(|part| match &part.content {
        Some(part::Content::Text(text)) => Some(text.as_str()),
        _ => None,
    });
    parts.chain(answer.passages.iter().map(|passage| passage.title.as_str()))
}

/// Characters that show nothing and can carry text past a reader: zero-width space and operators, bidirectional overrides
/// and isolates, the byte order mark, tags. Joiners and direction marks are not among them: scripts and emoji need them.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{200B}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}' | '\u{E0000}'..='\u{E007F}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::tool_text;

    #[test]
    fn invisible_characters_are_found_and_visible_ones_are_not() {
        let found = |text: &str| {
            let parts = vec![tool_text("plain"), tool_text(text)];
            facts(&Answer { parts, size: 7, ..Answer::default() }).findings.contains(INVISIBLE)
        };
        for hidden in ["a\u{200B}b", "\u{202E}x", "\u{2066}", "\u{FEFF}", "x\u{E0041}\u{E007F}"] {
            assert!(found(hidden), "{hidden:?}");
        }
        for shown in ["", "grüße", "👩\u{200D}💻", "می\u{200C}خواهم", "a\u{00AD}b", "\t\n "] {
            assert!(!found(shown), "{shown:?}");
        }
    }
}
