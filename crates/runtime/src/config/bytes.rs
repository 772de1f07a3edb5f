//! Sizes in bytes.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A number of bytes, written as `"16MiB"`, `"500 kB"` or a plain number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// So many KiB.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// So many MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory.
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) =
            UNITS[..3].iter().find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit)).unwrap_or(&("B", 1));
        write!(out, "{}{name}", self.0 / unit)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || format!("\"{text}\" is not a size such as \"16MiB\"");
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (count, unit) = text.split_at(digits);
        let count: u64 = count.parse().map_err(|_| refused())?;
        let unit = match unit.trim() {
            "" => 1,
            name => UNITS.iter().find(|(unit, _)| *unit == name).map(|(_, bytes)| *bytes).ok_or_else(refused)?,
        };
        count.checked_mul(unit).map(Self).ok_or_else(refused)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Size;
        impl Visitor<'_> for Size {
            type Value = ByteSize;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a size such as \"16MiB\"")
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(count))
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<ByteSize, E> {
                count.try_into().map(ByteSize).map_err(|_| E::custom("must not be negative"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_any(Size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [("16MiB", 16 << 20), ("500 kB", 500_000), ("7", 7), ("0B", 0), ("4160KiB", 4160 << 10)] {
            assert_eq!(text.parse::<ByteSize>().unwrap().bytes(), bytes, "{text}");
        }
        assert_eq!(ByteSize(4160 << 10).to_string(), "4160KiB");
        assert_eq!(ByteSize(1_000).to_string(), "1000B");
        for text in ["", "MiB", "-1", "1.5MiB", "9 furlongs", "99999999999GiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
