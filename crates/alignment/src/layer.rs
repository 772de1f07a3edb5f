use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const DOMAIN: &str = "mcp-agent-runtime/policy/v1";

/// Who wrote a policy, from the widest reach to the narrowest. A lower layer only narrows what the upper ones allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// The operator of the runtime. Every decision needs one policy of this layer.
    Platform,
    /// The tenant.
    Organisation,
    /// One environment, such as `prod`.
    Environment,
    /// One agent.
    Agent,
    /// One task.
    Task,
}

impl Layer {
    /// The layer's name as it is hashed, stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Organisation => "organisation",
            Self::Environment => "environment",
            Self::Agent => "agent",
            Self::Task => "task",
        }
    }
}

/// One version of a policy as it was written. This is what a descriptor seals and what travels between services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyText {
    /// The layer that it speaks for.
    pub layer: Layer,
    /// Its name: `[a-z][a-z0-9-]{0,62}`.
    pub name: String,
    /// Its version, from 1.
    pub version: i64,
    /// Cedar source, at most [`MAX_TEXT_BYTES`](crate::MAX_TEXT_BYTES) bytes.
    pub text: String,
}

impl PolicyText {
    /// `sha256:<hex>` over a domain line, the layer, name and version, a line each, and the text.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(format!("{DOMAIN}\n{}\n{}\n{}\n", self.layer.as_str(), self.name, self.version));
        hasher.update(&self.text);
        format!("sha256:{}", hex::encode(hasher.finalize()))
    }
}

/// The platform policy that applies where the operator configures none.
pub fn default_platform() -> PolicyText {
    PolicyText {
        layer: Layer::Platform,
        name: "platform-default".to_owned(),
        version: 1,
        text: include_str!("../policies/platform-default.cedar").to_owned(),
    }
}
