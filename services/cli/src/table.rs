//! Rows under headings, and numbers for people.

use std::time::Duration;

use crate::out::Ink;

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// The table's lines; headings only when there are none. Cells must not hold line breaks.
pub fn table(ink: Ink, columns: &[(&str, Align)], rows: &[Vec<String>]) -> Vec<String> {
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row.get(at).map_or(0, |cell| cell.chars().count()));
        cells.chain([columns[at].0.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (at, cell) in cells.enumerate() {
            let space = " ".repeat(widths[at].saturating_sub(cell.chars().count()));
            let last = at + 1 == columns.len();
            match columns[at].1 {
                Align::Right => line.extend([space.as_str(), cell]),
                Align::Left if last => line.push_str(cell),
                Align::Left => line.extend([cell, space.as_str()]),
            }
            if !last {
                line.push_str("  ");
            }
        }
        line.trim_end().to_owned()
    };
    let head = line(&mut columns.iter().map(|(name, _)| *name));
    let rows = rows.iter().map(|row| line(&mut row.iter().take(columns.len()).map(String::as_str)));
    std::iter::once(ink.bold(&head)).chain(rows).collect()
}

/// `1234567` as `1,234,567`.
pub fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// Nano-USD as `$0.0012`: at least two decimals, and as many as the amount has.
pub fn usd(nano: i64) -> String {
    let sign = if nano < 0 { "-" } else { "" };
    let nano = nano.unsigned_abs();
    let fraction = format!("{:09}", nano % 1_000_000_000);
    let fraction = fraction.trim_end_matches('0');
    format!("{sign}${}.{fraction:0<2}", nano / 1_000_000_000)
}

/// A span in at most two units: `4.2s`, `3m 5s`, `2h 10m`, `12ms`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{}.{}s", seconds, span.subsec_millis() / 100),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86400, "d", seconds % 86400 / 3600, "h"),
    }
}

fn two(great: u64, great_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{great}{great_unit}") } else { format!("{great}{great_unit} {small}{small_unit}") }
}

/// Bytes as `1.2 KiB`.
pub fn bytes(bytes: i64) -> String {
    match bytes {
        ..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "1,000".into(), "x".into()], vec!["abc".into(), "2".into(), String::new()]];
        let lines = table(Ink(false), &[("NAME", Align::Left), ("N", Align::Right), ("REST", Align::Left)], &rows);
        assert_eq!(lines, ["NAME      N  REST", "a     1,000  x", "abc       2"]);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!((count(0), count(-1234), count(1_234_567)), ("0".into(), "-1,234".into(), "1,234,567".into()));
        assert_eq!((usd(0), usd(1_500_000_000), usd(-1_200)), ("$0.00".into(), "$1.50".into(), "-$0.0000012".into()));
        let of = |millis| span(Duration::from_millis(millis));
        assert_eq!(
            (of(12), of(4_260), of(185_000), of(86_400_000)),
            ("12ms".into(), "4.2s".into(), "3m 5s".into(), "1d".into())
        );
        assert_eq!((bytes(12), bytes(2048)), ("12 B".into(), "2.0 KiB".into()));
    }
}
