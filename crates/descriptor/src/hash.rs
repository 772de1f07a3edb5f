//! Domain-separated SHA-256 digests.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{canonical, digest::written_out};

/// Domain lines: what kind of thing a digest is over, so that no digest of one kind is ever one of another kind.
pub mod domain {
    /// A whole agent descriptor.
    pub const DESCRIPTOR: &str = "mcp-agent-runtime/descriptor/v1";
    /// The descriptor's `model` section.
    pub const SECTION_MODEL: &str = "mcp-agent-runtime/descriptor/v1/model";
    /// The descriptor's `prompt` section.
    pub const SECTION_PROMPT: &str = "mcp-agent-runtime/descriptor/v1/prompt";
    /// The descriptor's `agent` section.
    pub const SECTION_AGENT: &str = "mcp-agent-runtime/descriptor/v1/agent";
    /// The descriptor's `policy` section.
    pub const SECTION_POLICY: &str = "mcp-agent-runtime/descriptor/v1/policy";
    /// The descriptor's `halting` section.
    pub const SECTION_HALTING: &str = "mcp-agent-runtime/descriptor/v1/halting";
    /// The descriptor's `metadata` section.
    pub const SECTION_METADATA: &str = "mcp-agent-runtime/descriptor/v1/metadata";
    /// An event of a run's chain.
    pub const EVENT: &str = "mcp-agent-runtime/event/v1";
    /// The seal of a finished run.
    pub const RUN_SEAL: &str = "mcp-agent-runtime/run-seal/v1";
    /// Hashes of a session's run seals, one after the other.
    pub const RUN_SEALS: &str = "mcp-agent-runtime/run-seals/v1";
    /// The seal of an ended session.
    pub const SESSION_SEAL: &str = "mcp-agent-runtime/session-seal/v1";
    /// A model spec without its prices.
    pub const MODEL_SPEC: &str = "mcp-agent-runtime/model-spec/v1";
    /// A routing policy.
    pub const ROUTING_POLICY: &str = "mcp-agent-runtime/routing-policy/v1";
    /// A prompt recipe.
    pub const PROMPT_RECIPE: &str = "mcp-agent-runtime/prompt-recipe/v1";
    /// What a model is told in a role besides the agent's own.
    pub const ROLE_PROMPT: &str = "mcp-agent-runtime/role-prompt/v1";
    /// One few-shot example.
    pub const EXAMPLE: &str = "mcp-agent-runtime/example/v1";
    /// A tool's definition: name, description and schemas.
    pub const TOOL_DEFINITION: &str = "mcp-agent-runtime/tool-definition/v1";
    /// The text of one alignment policy layer.
    pub const ALIGNMENT_POLICY: &str = "mcp-agent-runtime/alignment-policy/v1";
    /// The arguments of one tool call.
    pub const TOOL_ARGUMENTS: &str = "mcp-agent-runtime/tool-arguments/v1";
}

const PREFIX: &str = "sha256:";

/// A SHA-256 digest; its text form is `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash([u8; 32]);

impl Hash {
    /// All zero bytes: the genesis of a chain that has no parent.
    pub const ZERO: Self = Self([0; 32]);

    /// SHA-256 over the domain line, a line feed and `bytes`.
    #[must_use]
    pub fn of(domain: &str, bytes: &[u8]) -> Self {
        Self::of_parts(domain, &[bytes])
    }

    /// SHA-256 over the domain line, a line feed and the parts one after the other. The caller sees to it that the
    /// parts cannot be split in two ways (fixed sizes before the last).
    #[must_use]
    pub(crate) fn of_parts(domain: &str, parts: &[&[u8]]) -> Self {
        let mut digest = Sha256::new();
        digest.update(domain.as_bytes());
        digest.update(b"\n");
        for part in parts {
            digest.update(part);
        }
        Self(digest.finalize().into())
    }

    /// The digest of a document of ours: its canonical form under the domain line.
    ///
    /// # Errors
    /// When the document has no canonical form: fractions, large integers, nesting, size.
    pub fn of_value(domain: &str, value: &Value) -> Result<Self, canonical::Error> {
        Ok(Self::of(domain, &canonical::to_canonical(value)?))
    }

    /// The digest of a document that others wrote (a tool's schema, a call's arguments), which may hold fractions:
    /// its [`canonical::foreign`] form under the domain line.
    ///
    /// # Errors
    /// When the document is nested too deeply or too large.
    pub fn of_foreign(domain: &str, value: &Value) -> Result<Self, canonical::Error> {
        Ok(Self::of(domain, canonical::foreign(value)?.as_bytes()))
    }

    /// The pin of a tool: what a model is told of it, under [`domain::TOOL_DEFINITION`]. `name` is `upstream.tool`.
    ///
    /// # Errors
    /// When a schema is nested too deeply or too large.
    pub fn of_tool_definition(
        name: &str,
        description: &str,
        input_schema: &Value,
        output_schema: Option<&Value>,
    ) -> Result<Self, canonical::Error> {
        let told = serde_json::json!({
            "name": name, "description": description, "input_schema": input_schema, "output_schema": output_schema,
        });
        Self::of_foreign(domain::TOOL_DEFINITION, &told)
    }

    /// The digest that these bytes are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

written_out!(Hash, PREFIX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_has_one_spelling() {
        let hash = Hash::of(domain::DESCRIPTOR, b"x");
        let text = hash.to_string();
        assert_eq!(text.parse::<Hash>().unwrap(), hash);
        assert_eq!(serde_json::to_string(&hash).unwrap(), format!("\"{text}\""));
        for bad in [
            &text[7..],
            &text[..70],
            &text.to_uppercase(),
            &format!("{text}0"),
            "sha256:",
            "",
            &format!("sha256:{}", "é".repeat(32)),
        ] {
            assert!(bad.parse::<Hash>().is_err(), "{bad}");
        }
    }

    #[test]
    fn is_plain_sha256_over_domain_line_and_bytes() {
        assert_eq!(Hash::of("d", b"x").0, <[u8; 32]>::from(Sha256::digest(b"d\nx")));
    }

    #[test]
    fn domains_separate() {
        assert_ne!(Hash::of(domain::SECTION_MODEL, b"{}"), Hash::of(domain::SECTION_PROMPT, b"{}"));
    }
}
