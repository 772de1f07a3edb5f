//! Shortens the long strings of JSON while it passes, so that what is left of a message that is too large to be held is a
//! message still: its other members, and the first part of each long string.
//!
//! Strings of up to 4 KiB pass whole. Longer ones share 8 MiB a message, first come, first served, which is more than any
//! result may have in the end; where one is cut, a mark tells how many bytes are missing.

/// Bytes of each string that pass in any case.
const SHORT: usize = 4 << 10;
/// Bytes of all strings of a message beyond that.
const LONG: usize = 8 << 20;
/// Stands before and after the number of missing bytes. It is no character, and JSON may hold it as it is.
const MARK: char = '\u{10fffe}';

/// The state between two pieces of a text.
#[derive(Debug)]
pub(super) struct Clip {
    place: Place,
    /// Bytes of long strings that may still pass.
    room: usize,
    /// What `room` is at the beginning of a message.
    long: usize,
    /// Whether each line is a message of its own.
    lines: bool,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Outside,
    Inside(Inside),
    /// Behind the cut: how many bytes were left out, and whether the last one was a backslash.
    Skipping {
        skipped: usize,
        escaped: bool,
    },
}

/// Within a string, before its cut.
#[derive(Debug, Clone, Copy, Default)]
struct Inside {
    passed: usize,
    escape: Escape,
    /// The last character was the first half of a pair of escapes, which cannot stand alone.
    half: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// After the backslash.
    Begun,
    /// In the digits of `\uXXXX`: how many have come, and the value of the first two.
    Digits(u8, u8),
}

impl Clip {
    /// For JSON that comes in lines, each of which is a message.
    pub(super) const fn of_lines() -> Self {
        Self::with_room(LONG, true)
    }

    /// For one message.
    pub(super) const fn of_message() -> Self {
        Self::with_room(LONG, false)
    }

    const fn with_room(long: usize, lines: bool) -> Self {
        Self { place: Place::Outside, room: long, long, lines }
    }

    /// Takes in the next piece and appends what is kept of it.
    pub(super) fn pass(&mut self, piece: &[u8], kept: &mut Vec<u8>) {
        let mut rest = piece;
        while !rest.is_empty() {
            rest = &rest[self.pass_plain(rest, kept)..];
            let [byte, after @ ..] = rest else { return };
            rest = after;
            match &mut self.place {
                // No string holds a line's end: one that seems to is no JSON.
                _ if self.lines && *byte == b'\n' => {
                    kept.push(*byte);
                    *self = Self::with_room(self.long, true);
                }
                Place::Outside => {
                    kept.push(*byte);
                    if *byte == b'"' {
                        self.place = Place::Inside(Inside::default());
                    }
                }
                Place::Inside(inside) => {
                    let ends = *byte == b'"' && inside.escape == Escape::None;
                    if !ends && inside.passed >= SHORT && self.room == 0 && inside.may_end_before(*byte) {
                        kept.extend_from_slice(MARK.encode_utf8(&mut [0; 4]).as_bytes());
                        self.place = Place::Skipping { skipped: 1, escaped: *byte == b'\\' };
                        continue;
                    }
                    kept.push(*byte);
                    if ends {
                        self.place = Place::Outside;
                        continue;
                    }
                    if inside.passed >= SHORT {
                        self.room = self.room.saturating_sub(1);
                    }
                    inside.take(*byte);
                }
                Place::Skipping { skipped, escaped } => {
                    if *byte == b'"' && !*escaped {
                        kept.extend_from_slice(format!("{skipped}{MARK}\"").as_bytes());
                        self.place = Place::Outside;
                        continue;
                    }
                    *skipped += 1;
                    *escaped = *byte == b'\\' && !*escaped;
                }
            }
        }
    }
}

impl Clip {
    /// Takes in what is plain text within a string, as far as it needs no look at each byte; how much that is.
    fn pass_plain(&mut self, rest: &[u8], kept: &mut Vec<u8>) -> usize {
        let plain = || memchr::memchr3(b'"', b'\\', b'\n', rest).unwrap_or(rest.len());
        match &mut self.place {
            Place::Inside(inside) if inside.escape == Escape::None && !inside.half => {
                let short = SHORT.saturating_sub(inside.passed);
                let passes = plain().min(short + self.room);
                kept.extend_from_slice(&rest[..passes]);
                inside.passed += passes;
                self.room -= passes.saturating_sub(short);
                passes
            }
            Place::Skipping { skipped, escaped: false } => {
                let left_out = plain();
                *skipped += left_out;
                left_out
            }
            _ => 0,
        }
    }
}

impl Inside {
    /// Whether the string is whole up to `next`: no character, escape or pair of escapes is cut in two there.
    const fn may_end_before(&self, next: u8) -> bool {
        let continues = next & 0b1100_0000 == 0b1000_0000;
        matches!(self.escape, Escape::None) && !self.half && !continues
    }

    const fn take(&mut self, byte: u8) {
        self.passed += 1;
        self.escape = match self.escape {
            Escape::None if byte == b'\\' => Escape::Begun,
            Escape::Begun if byte == b'u' => Escape::Digits(0, 0),
            Escape::Begun => {
                self.half = false;
                Escape::None
            }
            Escape::Digits(count @ 0..=1, value) => Escape::Digits(count + 1, value << 4 | hex(byte)),
            Escape::Digits(2, value) => Escape::Digits(3, value),
            Escape::Digits(_, value) => {
                self.half = value >= 0xd8 && value <= 0xdb;
                Escape::None
            }
            Escape::None => {
                self.half = false;
                Escape::None
            }
        };
    }
}

const fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

/// A text without its marks, and how many bytes they say are missing.
pub(super) fn unmark(text: String) -> (String, usize) {
    if !text.contains(MARK) {
        return (text, 0);
    }
    let (mut whole, mut missing) = (String::with_capacity(text.len()), 0_usize);
    for (at, piece) in text.split(MARK).enumerate() {
        match piece.parse::<usize>() {
            Ok(number) if at % 2 == 1 => missing = missing.saturating_add(number),
            _ => whole.push_str(piece),
        }
    }
    (whole, missing)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Far less than outside of tests.
    const FEW: usize = 10_000;

    /// Passes a text in pieces of a size.
    fn clipped(text: &str, size: usize) -> Vec<u8> {
        let (mut clip, mut kept) = (Clip::with_room(FEW, false), Vec::new());
        text.as_bytes().chunks(size).for_each(|piece| clip.pass(piece, &mut kept));
        kept
    }

    fn string(value: &Value) -> (String, usize) {
        unmark(value.as_str().unwrap().to_owned())
    }

    #[test]
    fn what_is_small_passes_as_it_is() {
        let text = json!({"a": ["b\"\\\u{1f600}", 1.5, null], "é": {"x": "y".repeat(FEW)}}).to_string();
        for size in [1, 3, 1_000] {
            assert_eq!(clipped(&text, size), text.as_bytes());
        }
    }

    #[test]
    fn a_long_string_is_cut_and_the_rest_stays() {
        let long = FEW + SHORT + 1_000;
        let text = json!({"text": "x".repeat(long), "after": true, "more": "z".repeat(5_000)}).to_string();
        let kept: Value = serde_json::from_slice(&clipped(&text, 4_096)).unwrap();
        let (text, missing) = string(&kept["text"]);
        assert_eq!((text.len(), missing), (FEW + SHORT, 1_000));
        assert_eq!(kept["after"], true);
        assert_eq!(string(&kept["more"]), ("z".repeat(SHORT), 5_000 - SHORT));
    }

    #[test]
    fn no_cut_goes_through_a_character() {
        for unit in ["é", "😀", "\\n", "\\\\", "\\\"", "\\u00e9", "\\ud83d\\ude00", "a\\uD83D\\uDE00"] {
            for shift in 0..13 {
                let string_of_units = format!("{}{}", "x".repeat(shift), unit.repeat((FEW + SHORT) / unit.len() + 20));
                let text = format!("{{\"text\":\"{string_of_units}\",\"id\":7}}");
                let kept: Value = serde_json::from_slice(&clipped(&text, 101)).unwrap();
                assert_eq!(kept["id"], 7, "{unit} {shift}");
                let whole: Value = serde_json::from_str(&text).unwrap();
                let (cut, missing) = string(&kept["text"]);
                assert!(missing > 0 && whole["text"].as_str().unwrap().starts_with(&cut), "{unit} {shift}");
            }
        }
    }

    #[test]
    fn each_line_begins_anew() {
        let line = format!("{}\n", json!({"text": "x".repeat(FEW + SHORT + 1)}));
        let (mut clip, mut kept) = (Clip::with_room(FEW, true), Vec::new());
        clip.pass(format!("no JSON \"\n{line}{line}").as_bytes(), &mut kept);
        let lines: Vec<&[u8]> = kept.split(|byte| *byte == b'\n').collect();
        assert_eq!(lines[0], b"no JSON \"");
        for line in &lines[1..3] {
            let value: Value = serde_json::from_slice(line).unwrap();
            assert_eq!(string(&value["text"]).1, 1);
        }
    }
}
