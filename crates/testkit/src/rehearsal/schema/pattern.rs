//! A short text that a regular expression matches.

use regex_syntax::hir::{Class, Hir, HirKind};

/// Longer texts are not made, in bytes.
const LIMIT: usize = 1 << 16;

/// A short match of `expression`; none when it cannot be read or needs more than plain regular syntax.
pub(super) fn shortest(expression: &str) -> Option<String> {
    let hir = regex_syntax::parse(expression).ok()?;
    let mut out = Vec::new();
    write(&hir, &mut out)?;
    String::from_utf8(out).ok()
}

fn write(hir: &Hir, out: &mut Vec<u8>) -> Option<()> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => out.extend_from_slice(&literal.0),
        HirKind::Class(class) => push(readable(class)?, out),
        HirKind::Capture(group) => write(&group.sub, out)?,
        HirKind::Concat(parts) => {
            for part in parts {
                write(part, out)?;
            }
        }
        HirKind::Alternation(branches) => write(branches.first()?, out)?,
        HirKind::Repetition(repetition) => {
            for _ in 0..repetition.min {
                let before = out.len();
                write(&repetition.sub, out)?;
                if out.len() == before {
                    break;
                }
            }
        }
    }
    (out.len() <= LIMIT).then_some(())
}

fn push(c: char, out: &mut Vec<u8>) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// A letter or digit of the class where it has one.
fn readable(class: &Class) -> Option<char> {
    let ranges: Vec<(char, char)> = match class {
        Class::Unicode(class) => class.ranges().iter().map(|range| (range.start(), range.end())).collect(),
        Class::Bytes(class) => {
            class.ranges().iter().map(|range| (char::from(range.start()), char::from(range.end()))).collect()
        }
    };
    let holds = |c: char| ranges.iter().any(|(start, end)| (*start..=*end).contains(&c));
    ['a', '1', 'A', 'x'].into_iter().find(|c| holds(*c)).or_else(|| ranges.first().map(|(start, _)| *start))
}
