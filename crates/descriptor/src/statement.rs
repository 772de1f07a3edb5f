//! Signed bytes: DSSE (Dead Simple Signing Envelope, protocol version 1).

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use serde::{Deserialize, Serialize};

use crate::{
    canonical::MAX_BYTES,
    error::Error,
    key::{SigningKey, VerifyingKeys},
};

/// The most signatures that an envelope may carry.
pub const MAX_SIGNATURES: usize = 16;
/// The largest envelope text that is read, in bytes: the largest document in Base64, and room for signatures.
pub const MAX_ENVELOPE_BYTES: usize = 2 * MAX_BYTES;

/// One signature and who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The id of the signing key. A hint for finding the key, not a claim to be believed.
    pub key_id: String,
    /// 64 bytes of Ed25519 signature.
    pub sig: Vec<u8>,
}

/// Bytes of a stated kind with the signatures over both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The media type of the payload; it is signed along.
    pub payload_type: String,
    /// The signed bytes, verbatim.
    pub payload: Vec<u8>,
    /// The signatures; one by a known key is enough.
    pub signatures: Vec<Signature>,
}

impl Statement {
    /// Adds a signature by another key, as during a rotation.
    pub fn sign(&mut self, key: &SigningKey) {
        let sig = key.sign(&pae(&self.payload_type, &self.payload)).to_vec();
        self.signatures.push(Signature { key_id: key.key_id().to_owned(), sig });
    }

    /// The standard DSSE envelope in JSON.
    ///
    /// # Errors
    /// [`Error::Envelope`] when it cannot be written.
    pub fn to_json(&self) -> Result<String, Error> {
        let envelope = Envelope {
            payload: STANDARD.encode(&self.payload),
            payload_type: self.payload_type.clone(),
            signatures: self
                .signatures
                .iter()
                .map(|s| EnvelopeSignature { keyid: s.key_id.clone(), sig: STANDARD.encode(&s.sig) })
                .collect(),
        };
        serde_json::to_string(&envelope).map_err(|e| Error::Envelope(e.to_string()))
    }

    /// Reads a DSSE envelope in JSON. Base64 may be of the standard or the URL-safe alphabet, and unknown fields are
    /// ignored, as the protocol asks. Nothing is verified.
    ///
    /// # Errors
    /// [`Error::Envelope`] when the text is malformed or too large, or has no or too many signatures.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_ENVELOPE_BYTES {
            return Err(Error::Envelope(format!("{} bytes are more than {MAX_ENVELOPE_BYTES}", text.len())));
        }
        let envelope: Envelope = serde_json::from_str(text).map_err(|e| Error::Envelope(e.to_string()))?;
        if !(1..=MAX_SIGNATURES).contains(&envelope.signatures.len()) {
            return Err(Error::Envelope(format!(
                "{} signatures, expected 1 to {MAX_SIGNATURES}",
                envelope.signatures.len()
            )));
        }
        let signatures = envelope
            .signatures
            .into_iter()
            .map(|s| Ok(Signature { key_id: s.keyid, sig: from_base64(&s.sig)? }))
            .collect::<Result<_, Error>>()?;
        Ok(Self { payload_type: envelope.payload_type, payload: from_base64(&envelope.payload)?, signatures })
    }
}

/// Signs bytes of a stated kind.
#[must_use]
pub fn sign_statement(payload_type: &str, payload: &[u8], key: &SigningKey) -> Statement {
    let mut statement =
        Statement { payload_type: payload_type.to_owned(), payload: payload.to_vec(), signatures: Vec::new() };
    statement.sign(key);
    statement
}

/// Verifies that a known key signed these bytes as this kind of payload, and returns the ids of the keys that did.
///
/// # Errors
/// [`Error::PayloadType`], [`Error::UnknownKey`] when no signing key is known, [`Error::BadSignature`] when none of the
/// known ones fits.
pub fn verify_statement(statement: &Statement, payload_type: &str, keys: &VerifyingKeys) -> Result<Vec<String>, Error> {
    if statement.payload_type != payload_type {
        return Err(Error::PayloadType { expected: payload_type.to_owned(), actual: statement.payload_type.clone() });
    }
    verify_signatures(payload_type, &statement.payload, &statement.signatures, keys)
}

pub(crate) fn verify_signatures(
    payload_type: &str,
    payload: &[u8],
    signatures: &[Signature],
    keys: &VerifyingKeys,
) -> Result<Vec<String>, Error> {
    if signatures.len() > MAX_SIGNATURES {
        return Err(Error::Envelope(format!("{} signatures are more than {MAX_SIGNATURES}", signatures.len())));
    }
    let message = pae(payload_type, payload);
    let mut signers = Vec::new();
    let mut bad = None;
    for signature in signatures {
        match keys.check(&signature.key_id, &message, &signature.sig) {
            Some(true) if !signers.contains(&signature.key_id) => signers.push(signature.key_id.clone()),
            Some(false) => bad = Some(signature.key_id.clone()),
            Some(true) | None => {}
        }
    }
    match (signers.is_empty(), bad) {
        (false, _) => Ok(signers),
        (true, Some(key_id)) => Err(Error::BadSignature(key_id)),
        (true, None) => Err(Error::UnknownKey(signatures.iter().map(|s| s.key_id.clone()).collect())),
    }
}

/// The pre-authentication encoding that is signed: kind and bytes, each with its length in front.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Serialize, Deserialize)]
struct EnvelopeSignature {
    #[serde(default)]
    keyid: String,
    sig: String,
}

fn from_base64(text: &str) -> Result<Vec<u8>, Error> {
    let alphabet = if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config).decode(text).map_err(|e| Error::Envelope(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "application/example";

    #[test]
    fn pae_is_that_of_the_protocol() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn verifies_and_notices_every_change() {
        let key = SigningKey::from_seed(&[1; 32]);
        let keys = key.verifying_keys();
        let statement = sign_statement(KIND, b"payload", &key);
        assert_eq!(verify_statement(&statement, KIND, &keys).unwrap(), [key.key_id()]);

        let mut other = statement.clone();
        other.payload[0] ^= 1;
        assert!(matches!(verify_statement(&other, KIND, &keys), Err(Error::BadSignature(_))));
        for bit in 0..512 {
            let mut other = statement.clone();
            other.signatures[0].sig[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(verify_statement(&other, KIND, &keys), Err(Error::BadSignature(_))), "bit {bit}");
        }
        let mut other = statement.clone();
        other.signatures[0].sig.clear();
        assert!(matches!(verify_statement(&other, KIND, &keys), Err(Error::BadSignature(_))));
        assert!(matches!(verify_statement(&statement, "application/other", &keys), Err(Error::PayloadType { .. })));
        let mut other = statement.clone();
        "application/other".clone_into(&mut other.payload_type);
        assert!(matches!(verify_statement(&other, "application/other", &keys), Err(Error::BadSignature(_))));
        assert!(matches!(verify_statement(&statement, KIND, &VerifyingKeys::new()), Err(Error::UnknownKey(_))));
    }

    #[test]
    fn keys_rotate_without_a_gap() {
        let (old, new) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let mut both = old.verifying_keys();
        both.extend(new.verifying_keys());
        let mut statement = sign_statement(KIND, b"payload", &old);
        assert!(verify_statement(&statement, KIND, &both).is_ok());
        assert!(matches!(verify_statement(&statement, KIND, &new.verifying_keys()), Err(Error::UnknownKey(_))));
        statement.sign(&new);
        assert_eq!(verify_statement(&statement, KIND, &both).unwrap().len(), 2);
        assert_eq!(verify_statement(&statement, KIND, &new.verifying_keys()).unwrap(), [new.key_id()]);
        // A broken signature beside a good one does not spoil it: anybody can append one.
        statement.signatures[0].sig[0] ^= 1;
        assert_eq!(verify_statement(&statement, KIND, &both).unwrap(), [new.key_id()]);
    }

    #[test]
    fn envelope_round_trips_and_reads_both_alphabets() {
        let statement = sign_statement(KIND, &[0xfb, 0xef, 0xff, 1], &SigningKey::from_seed(&[1; 32]));
        let text = statement.to_json().unwrap();
        assert!(text.contains("\"payloadType\"") && text.contains("++//AQ=="));
        assert_eq!(Statement::from_json(&text).unwrap(), statement);
        let url_safe = text.replace("++//AQ==", "--__AQ").replace("\"payload\"", "\"more\":1,\"payload\"");
        assert_eq!(Statement::from_json(&url_safe).unwrap(), statement);
    }

    #[test]
    fn refuses_malformed_envelopes() {
        for bad in [
            "",
            "{}",
            r#"{"payload":"","payloadType":"x","signatures":[]}"#,
            r#"{"payload":"%","payloadType":"x","signatures":[{"sig":""}]}"#,
            r#"{"payload":"","payload":"","payloadType":"x","signatures":[{"sig":""}]}"#,
        ] {
            assert!(matches!(Statement::from_json(bad), Err(Error::Envelope(_))), "{bad}");
        }
        assert!(Statement::from_json(&" ".repeat(MAX_ENVELOPE_BYTES + 1)).is_err());
    }
}
