//! Cuts an answer to the size that the model may see.

use mar_proto::types::{Origin, media, part};

use crate::outcome::{Answer, note};

/// Cuts `answer` so that its content holds at most `limit` bytes, notes of the gateway aside. Text is cut at a character
/// boundary; other content fits whole or is dropped. A note at the end tells the model.
pub fn cap(mut answer: Answer, limit: usize) -> Answer {
    let mut room = limit;
    let mut cut = false;
    answer.parts.retain_mut(|part| {
        if part.origin() == Origin::Platform {
            return true;
        }
        match &mut part.content {
            Some(part::Content::Text(text)) if text.len() > room => {
                text.truncate(text.floor_char_boundary(room));
                room = 0;
                cut = true;
                !text.is_empty()
            }
            Some(part::Content::Text(text)) => {
                room -= text.len();
                true
            }
            Some(part::Content::Media(media)) => {
                let size = match &media.source {
                    Some(media::Source::Inline(bytes)) => bytes.len(),
                    _ => 0,
                };
                let fits = size <= room;
                room = room.saturating_sub(if fits { size } else { 0 });
                cut |= !fits;
                fits
            }
            _ => true,
        }
    });
    if cut {
        answer.truncated = true;
        // What was cut off was not received, and cannot be cited.
        let shown: String = answer.parts.iter().filter_map(words).collect();
        answer.passages.retain(|passage| names(&shown, &passage.passage_id));
        answer.parts.push(note(format!(
            "[The result of {} bytes was cut to {limit} bytes. Ask for less, or for a part of it.]",
            answer.size
        )));
    }
    answer
}

/// Whether a text names a passage, and not only one whose id begins or ends like it. An id at its very end may be cut itself.
fn names(text: &str, id: &str) -> bool {
    let of_an_id = |char: char| char.is_alphanumeric() || "-_#/".contains(char);
    text.match_indices(id).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + id.len()..].chars().next();
        !before.is_some_and(|char| of_an_id(char) || char == '.') && after.is_some_and(|char| !of_an_id(char))
    })
}

fn words(part: &mar_proto::types::Part) -> Option<&str> {
    match &part.content {
        Some(part::Content::Text(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use mar_proto::types::Passage;

    use super::*;
    use crate::outcome::tool_text;

    fn text(answer: &Answer, at: usize) -> &str {
        match &answer.parts[at].content {
            Some(part::Content::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn text_is_cut_at_a_character() {
        let answer = Answer { parts: vec![tool_text("aé"), tool_text("béé")], size: 8, ..Answer::default() };
        let cut = cap(answer.clone(), 5);
        assert_eq!((text(&cut, 0), text(&cut, 1)), ("aé", "b"));
        assert!(cut.truncated && text(&cut, 2).contains("8 bytes"));
        assert_eq!(cap(answer.clone(), 8), answer);
    }

    #[test]
    fn what_is_cut_off_was_not_received() {
        let passage = |id: &str| Passage { passage_id: id.to_owned(), ..Passage::default() };
        let answer = Answer {
            parts: vec![tool_text("[a#1] one [b#2] two")],
            passages: vec![passage("a#1"), passage("b#2")],
            size: 19,
            ..Answer::default()
        };
        assert_eq!(cap(answer.clone(), 19).passages.len(), 2);
        assert_eq!(cap(answer, 12).passages, [passage("a#1")]);
    }

    #[test]
    fn an_id_that_begins_or_ends_another_is_not_named_by_it() {
        let passage = |id: &str| Passage { passage_id: id.to_owned(), ..Passage::default() };
        let answer = Answer {
            parts: vec![tool_text("[z/a.md#12] twelve [a.md#1] one [a.md#2] two")],
            passages: vec![passage("z/a.md#12"), passage("a.md#12"), passage("a.md#1"), passage("a.md#2")],
            size: 44,
            ..Answer::default()
        };
        assert_eq!(cap(answer.clone(), 18).passages, [passage("z/a.md#12")]);
        assert_eq!(cap(answer.clone(), 26).passages, [passage("z/a.md#12")], "the last id may go on");
        assert_eq!(cap(answer, 32).passages, [passage("z/a.md#12"), passage("a.md#1")]);
    }

    #[test]
    fn what_finds_no_room_is_dropped() {
        let answer = Answer { parts: vec![tool_text("abc"), tool_text("def")], size: 6, ..Answer::default() };
        let cut = cap(answer, 3);
        assert_eq!(cut.parts.len(), 2);
        assert_eq!(text(&cut, 0), "abc");
    }
}
