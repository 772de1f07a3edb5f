//! What `mar up` says when it is ready.

use std::path::Path;
use std::time::Duration;

use mar_runtime::auth::config::Mode;
use mar_tool_gateway::config::Kind;

use super::Host;
use super::models::Models;
use crate::out::{Ink, clean};
use crate::table::span;

/// The facts that it tells.
#[derive(Debug)]
pub struct Banner<'a> {
    /// What is served.
    pub host: &'a Host,
    /// Keys and data.
    pub data: &'a Path,
    /// What can be reached.
    pub models: &'a Models,
    /// From the start of the command.
    pub took: Duration,
}

impl Banner<'_> {
    /// The lines. The first ends with the URL, which scripts may read.
    pub fn lines(&self, ink: Ink) -> Vec<String> {
        let scheme = if self.host.configs.runtime().tls.serves() { "https" } else { "http" };
        let url = format!("{scheme}://{}", self.host.address);
        let mut lines = vec![format!(
            "{} {} {}",
            ink.good("mar is up on"),
            ink.bold(&url),
            ink.dim(&format!("({})", span(self.took)))
        )];
        let fact = |name: &str, text: String| format!("  {}  {}", ink.dim(&format!("{name:<9}")), clean(&text));
        lines.push(String::new());
        lines.push(fact("services", "session, agent-generator, router and tool-gateway, all on this port".into()));
        lines.push(fact("data", self.data_line()));
        lines.push(fact("callers", self.callers()));
        let mut models = self.model_lines().into_iter();
        lines.extend(models.next().map(|first| fact("models", first)));
        lines.extend(models.map(|more| fact("", more)));
        let mut tools = self.tool_lines().into_iter();
        lines.extend(tools.next().map(|first| fact("tools", first)));
        lines.extend(tools.map(|more| fact("", more)));
        lines.push(String::new());
        lines.push(ink.bold("Try"));
        lines.extend(self.suggestions().into_iter().map(|text| format!("  {}", ink.name(&text))));
        lines.push(String::new());
        lines.push(ink.dim("Ctrl-C stops it."));
        lines
    }

    fn data_line(&self) -> String {
        let store = |url: &str| if url.starts_with("sqlite:") { "SQLite" } else { "Postgres" };
        let session = &self.host.configs.session.service;
        let counters = if session.counters.url == "memory:" { "counters in process" } else { "counters in Redis" };
        format!("{} ({}, {counters})", self.data.display(), store(&session.store.url))
    }

    fn callers(&self) -> String {
        let auth = &self.host.configs.runtime().auth;
        match auth.mode {
            Mode::Dev => "tenant dev without a key (this machine only)".to_owned(),
            Mode::ApiKeys => format!("{} API keys", auth.api_keys.len()),
        }
    }

    fn model_lines(&self) -> Vec<String> {
        let models = self.models;
        let mut lines = Vec::new();
        if let Some(url) = &models.openai {
            lines.push(format!("openai: key from OPENAI_API_KEY, {url}"));
        }
        if let Some(local) = &models.local {
            let few: Vec<_> = local.models.iter().take(4).map(String::as_str).collect();
            let more = if local.models.len() > few.len() { ", …" } else { "" };
            lines.push(format!("local: {} at {} ({}{more})", local.kind, local.url, few.join(", ")));
        }
        if let Some(url) = &models.rehearsal {
            lines.push(format!("rehearsal: {url} (scripted, not a model)"));
        }
        if lines.is_empty() {
            lines.push("none: OPENAI_API_KEY is not set, and ports 11434, 8000 and 8080 do not answer".to_owned());
            lines.push("set the key, name a server with --model-url, or play without one with --rehearse".to_owned());
        }
        lines
    }

    fn tool_lines(&self) -> Vec<String> {
        let upstreams = &self.host.configs.tool_gateway.upstreams;
        if upstreams.is_empty() {
            return vec!["none (offer a folder to search with --docs FOLDER)".to_owned()];
        }
        let line = |(name, upstream): (&String, &mar_tool_gateway::UpstreamConfig)| match upstream.kind {
            Kind::Search => {
                let folder = upstream.folder.as_deref().unwrap_or(Path::new("")).display();
                format!("{name}: search over {folder}")
            }
            Kind::McpStdio => format!("{name}: MCP, {}", upstream.command.as_deref().unwrap_or_default()),
            Kind::McpHttp => format!("{name}: MCP, {}", upstream.url.as_deref().unwrap_or_default()),
        };
        upstreams.iter().map(line).collect()
    }

    fn suggestions(&self) -> Vec<String> {
        let address = self.host.address.to_string();
        let elsewhere = address != crate::endpoint::DEFAULT;
        let secured = self.host.configs.runtime().tls.serves();
        let endpoint = match (secured, elsewhere) {
            // Which certificates a caller has is not known here.
            (true, _) => format!(" --endpoint https://{address} --ca …"),
            (false, true) => format!(" --endpoint {address}"),
            (false, false) => String::new(),
        };
        let search =
            self.host.configs.tool_gateway.upstreams.iter().find(|(_, upstream)| upstream.kind == Kind::Search);
        let tools = search.map(|(name, _)| format!(" --tools '{name}.*'")).unwrap_or_default();
        let mut lines = Vec::new();
        if self.models.any() {
            let model = self.models.wanted().map(|model| format!(" --model {model}")).unwrap_or_default();
            lines.push(format!("mar run \"What is this about?\"{tools}{model}{endpoint}"));
        }
        lines.push(format!("mar models list{endpoint}"));
        lines.push(format!("mar tools list{endpoint}"));
        if !secured {
            lines.push(format!("grpcurl -plaintext {address} list"));
        }
        lines
    }
}
