//! Digests as text: a prefix that says what they are, and lower-case hex.

use crate::error::Error;

/// Writes and reads a type over 32 bytes as its prefix and 64 lower-case hex digits, in JSON too.
macro_rules! written_out {
    ($digest:ident, $prefix:expr) => {
        impl std::fmt::Display for $digest {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}{}", $prefix, hex::encode(self.0))
            }
        }

        impl std::fmt::Debug for $digest {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $digest {
            type Err = crate::error::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                crate::digest::from_text($prefix, text).map(Self)
            }
        }

        impl TryFrom<&[u8]> for $digest {
            type Error = crate::error::Error;

            fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
                crate::digest::from_bytes(bytes).map(Self)
            }
        }

        impl serde::Serialize for $digest {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $digest {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(crate) use written_out;

pub(crate) fn from_bytes(bytes: &[u8]) -> Result<[u8; 32], Error> {
    <[u8; 32]>::try_from(bytes).map_err(|_| Error::Digest(format!("expected 32 bytes, got {}", bytes.len())))
}

/// Reads `<prefix><64 lower-case hex digits>`. Upper case is refused: one digest has one spelling.
pub(crate) fn from_text(prefix: &str, text: &str) -> Result<[u8; 32], Error> {
    let digits = text.strip_prefix(prefix).ok_or_else(|| Error::Digest(format!("expected the prefix `{prefix}`")))?;
    if digits.len() != 64 || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Error::Digest("expected 64 lower-case hex digits".to_owned()));
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes).map_err(|e| Error::Digest(e.to_string()))?;
    Ok(bytes)
}
