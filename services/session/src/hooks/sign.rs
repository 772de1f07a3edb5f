//! Signatures on notices: HMAC-SHA256 over id, time and body, in the form of the Standard Webhooks specification.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

const LEAST: usize = 16;

/// What notices are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Key")
    }
}

impl Key {
    /// `whsec_` and Base64, or the bytes themselves.
    ///
    /// # Errors
    /// Not Base64 behind `whsec_`, or fewer than 16 bytes.
    pub fn parse(secret: &str) -> Result<Self, &'static str> {
        let bytes = match secret.strip_prefix("whsec_") {
            Some(text) => STANDARD.decode(text).map_err(|_| "must be Base64 behind whsec_")?,
            None => secret.as_bytes().to_vec(),
        };
        if bytes.len() < LEAST { Err("must have at least 16 bytes") } else { Ok(Self(bytes)) }
    }

    /// The signature as it is sent: `v1,` and Base64.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification's libraries.
    #[test]
    fn it_signs_as_the_specification_does() {
        let key = Key::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn everything_counts() {
        let key = Key::parse("sixteen bytes and more").unwrap();
        let other = Key::parse("sixteen bytes and less").unwrap();
        let first = key.sign("a", 1, b"body");
        for signature in [
            key.sign("b", 1, b"body"),
            key.sign("a", 2, b"body"),
            key.sign("a", 1, b"bodY"),
            other.sign("a", 1, b"body"),
        ] {
            assert_ne!(signature, first);
        }
        assert!(
            Key::parse("too short").is_err() && Key::parse("whsec_!").is_err() && Key::parse("whsec_QUJD").is_err()
        );
        assert!(!format!("{key:?}").contains("sixteen"));
    }
}
