use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mar_runtime::config::{ByteSize, SecretError, SecretRef, Span, Validate};
use mar_runtime::violations::Violations;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::DoubtConfig;

const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
const MAX_RESULT: ByteSize = ByteSize::mib(4);

/// What an upstream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An MCP server that the gateway starts and speaks to over stdio.
    McpStdio,
    /// An MCP server over streamable HTTP.
    McpHttp,
    /// Full text search over a folder of documents.
    Search,
}

/// `[tool_gateway.upstreams.<name>]`: one table for all kinds; a key that does not belong to the kind is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// What it is.
    pub kind: Kind,

    /// `mcp_stdio`: the program to start; found on `PATH` when it holds no slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// `mcp_stdio`: its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// `mcp_stdio`: its environment, besides `PATH`, `HOME`, `LANG` and `TMPDIR`; nothing else is passed on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Setting>,
    /// `mcp_stdio`: its working directory; the gateway's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,

    /// `mcp_http`: the endpoint, `http://` or `https://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `mcp_http`: headers of every request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Setting>,
    /// `mcp_http`: whether private, loopback and link-local addresses may be called; no by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_private: Option<bool>,

    /// `search`: the folder whose documents are searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// `search`: which files are read, `["md", "markdown", "txt", "html", "htm"]` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Vec<String>>,
    /// `search`: larger files are left out, 1 MiB by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_file_bytes: Option<ByteSize>,
    /// `search`: how often the folder is looked at for changes, 2 s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescan: Option<Span>,

    /// The longest that one call may take, 30 s by default, at most 1 h.
    #[serde(default = "thirty_seconds", with = "humantime_serde_compat")]
    pub timeout: Duration,
    /// The longest that starting and listing may take, 30 s by default, at most 1 h.
    #[serde(default = "thirty_seconds", with = "humantime_serde_compat")]
    pub start_timeout: Duration,
    /// Results are cut at this size, 64 KiB by default, 1 KiB to 4 MiB.
    #[serde(default = "result_bytes")]
    pub max_result_bytes: ByteSize,
    /// Calls at one time, 8 by default, 1 to 1,000.
    #[serde(default = "concurrency")]
    pub max_concurrency: usize,
    /// Calls that wait for their turn, 64 by default; further ones are refused at once.
    #[serde(default = "queue")]
    pub max_queue: usize,
    /// The operator's word that repeating a call with its key has the effect of one call. Default no; `search` yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    /// The operator's word that no call changes anything. Default no; `search` yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// The operator's word that the content is not written by strangers, so that it does not taint. Default no;
    /// `search` yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted: Option<bool>,
    /// How far its tools are trusted: `UNVERIFIED` by default, `ALIGNED` for `search`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_tier: Option<mar_alignment::TrustTier>,
    /// The pauses between attempts to start it.
    #[serde(default)]
    pub restart: Restart,
    /// What differs for single tools, by their name without the upstream's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, ToolConfig>,
}

/// `[tool_gateway.upstreams.<name>.tools.<tool>]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToolConfig {
    /// Like the upstream's key, for this tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    /// Like the upstream's key, for this tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// How a call is resolved of which nobody knows whether it took effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<DoubtConfig>,
}

/// `[tool_gateway.upstreams.<name>.restart]`. The pause doubles from `min` to `max` with each failure, ± a quarter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Restart {
    /// The first pause, 500 ms by default.
    pub min: Span,
    /// The longest pause, 30 s by default.
    pub max: Span,
}

impl Default for Restart {
    fn default() -> Self {
        Self { min: Span(Duration::from_millis(500)), max: Span(Duration::from_secs(30)) }
    }
}

/// A value in the configuration, or where a secret one is: `"text"`, `{ env = "NAME" }` or `{ file = "path" }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    /// The value itself.
    Text(String),
    /// Where it is.
    Secret(SecretRef),
}

impl Setting {
    /// Reads the value.
    ///
    /// # Errors
    /// The secret is not there or empty.
    pub fn resolve(&self) -> Result<SecretString, SecretError> {
        match self {
            Self::Text(text) => Ok(text.clone().into()),
            Self::Secret(secret) => secret.resolve(),
        }
    }
}

mod humantime_serde_compat {
    pub(super) use mar_runtime::config::duration::{deserialize, serialize};
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

fn result_bytes() -> ByteSize {
    ByteSize::kib(64)
}

fn concurrency() -> usize {
    8
}

fn queue() -> usize {
    64
}

impl UpstreamConfig {
    /// An upstream of this kind with every default.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            command: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: None,
            url: None,
            headers: BTreeMap::new(),
            allow_private: None,
            folder: None,
            extensions: None,
            max_file_bytes: None,
            rescan: None,
            timeout: thirty_seconds(),
            start_timeout: thirty_seconds(),
            max_result_bytes: result_bytes(),
            max_concurrency: concurrency(),
            max_queue: queue(),
            idempotent: None,
            read_only: None,
            trusted: None,
            trust_tier: None,
            restart: Restart::default(),
            tools: BTreeMap::new(),
        }
    }

    /// Whether the operator declares `tool` idempotent.
    pub fn is_idempotent(&self, tool: &str) -> bool {
        let own = self.tools.get(tool).and_then(|tool| tool.idempotent);
        own.or(self.idempotent).unwrap_or(self.is_built_in())
    }

    /// Whether the operator declares that `tool` changes nothing.
    pub fn is_read_only(&self, tool: &str) -> bool {
        let own = self.tools.get(tool).and_then(|tool| tool.read_only);
        own.or(self.read_only).unwrap_or(self.is_built_in())
    }

    /// Whether its content does not taint.
    pub fn is_trusted(&self) -> bool {
        self.trusted.unwrap_or(self.is_built_in())
    }

    /// How far its tools are trusted.
    pub fn trust_tier(&self) -> mar_alignment::TrustTier {
        let default =
            if self.is_built_in() { mar_alignment::TrustTier::Aligned } else { mar_alignment::TrustTier::Unverified };
        self.trust_tier.unwrap_or(default)
    }

    fn is_built_in(&self) -> bool {
        self.kind == Kind::Search
    }

    /// The keys that are set and belong to one kind only.
    fn keys_of_kinds(&self) -> [(Kind, &'static str, bool); 11] {
        [
            (Kind::McpStdio, "command", self.command.is_some()),
            (Kind::McpStdio, "args", !self.args.is_empty()),
            (Kind::McpStdio, "env", !self.env.is_empty()),
            (Kind::McpStdio, "cwd", self.cwd.is_some()),
            (Kind::McpHttp, "url", self.url.is_some()),
            (Kind::McpHttp, "headers", !self.headers.is_empty()),
            (Kind::McpHttp, "allow_private", self.allow_private.is_some()),
            (Kind::Search, "folder", self.folder.is_some()),
            (Kind::Search, "extensions", self.extensions.is_some()),
            (Kind::Search, "max_file_bytes", self.max_file_bytes.is_some()),
            (Kind::Search, "rescan", self.rescan.is_some()),
        ]
    }

    fn validate_kind(&self, violations: &mut Violations) {
        for (kind, key, set) in self.keys_of_kinds() {
            violations.require(!set || kind == self.kind, key, "does not belong to this kind of upstream");
        }
        match self.kind {
            Kind::McpStdio => {
                let named = self.command.as_deref().is_some_and(|command| !command.is_empty());
                violations.require(named, "command", "must name a program");
            }
            Kind::McpHttp => {
                let fits = self.url.as_deref().and_then(|url| reqwest::Url::parse(url).ok()).is_some_and(|url| {
                    matches!(url.scheme(), "http" | "https") && url.has_host() && url.password().is_none()
                });
                violations.require(fits, "url", "must be an http or https URL without a password");
                violations.within("headers", |found| self.validate_headers(found));
            }
            Kind::Search => {
                violations.require(self.folder.is_some(), "folder", "must name a folder");
                let rescan = self.rescan.is_none_or(|span| span.0 >= Duration::from_millis(50));
                violations.require(rescan, "rescan", "must be at least 50ms");
            }
        }
    }

    fn validate_headers(&self, violations: &mut Violations) {
        for (name, value) in &self.headers {
            let fits = name.parse::<http::HeaderName>().is_ok();
            violations.require(fits, name, "is not the name of a header");
            if let Setting::Text(text) = value {
                let fits = text.parse::<http::HeaderValue>().is_ok();
                violations.require(fits, name, "is not the value of a header");
            }
        }
    }
}

impl Validate for UpstreamConfig {
    fn validate(&self, violations: &mut Violations) {
        self.validate_kind(violations);
        for (key, span) in [("timeout", self.timeout), ("start_timeout", self.start_timeout)] {
            violations.require(!span.is_zero() && span <= MAX_TIMEOUT, key, "must be more than 0 and at most 1h");
        }
        let size = (ByteSize::kib(1)..=MAX_RESULT).contains(&self.max_result_bytes);
        violations.require(size, "max_result_bytes", "must be 1KiB to 4MiB");
        let slots = (1..=1_000).contains(&self.max_concurrency);
        violations.require(slots, "max_concurrency", "must be 1 to 1000");
        violations.require(self.max_queue <= 100_000, "max_queue", "must be at most 100000");
        let pauses = !self.restart.min.0.is_zero() && self.restart.min <= self.restart.max;
        violations.require(pauses, "restart.min", "must be more than 0 and at most restart.max");
        violations.require(self.restart.max.0 <= MAX_TIMEOUT, "restart.max", "must be at most 1h");
        violations.within("tools", |found| self.validate_doubts(found));
    }
}
