//! The catalogue of tools over all upstreams (concept: ToolRegistry).

use std::collections::BTreeMap;
use std::sync::Arc;

use mar_proto::tool::{Tool, UpstreamState};
use mar_proto::types;

use crate::config::is_upstream_name;
use crate::definition::Definition;
use crate::upstream::{State, Upstream};

/// All configured upstreams by name.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    upstreams: Arc<BTreeMap<String, Arc<Upstream>>>,
}

/// Which tools are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// `*`
    All,
    /// `upstream.*`
    Upstream(String),
    /// `upstream.tool`
    Tool(String),
}

impl Pattern {
    /// Reads a pattern; none when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        let (upstream, tool) = text.split_once('.')?;
        match tool {
            _ if !is_upstream_name(upstream) || tool.is_empty() => None,
            "*" => Some(Self::Upstream(upstream.to_owned())),
            tool if tool.contains('*') => None,
            _ => Some(Self::Tool(text.to_owned())),
        }
    }

    fn picks(&self, upstream: &str, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Upstream(wanted) => wanted == upstream,
            Self::Tool(wanted) => wanted == name,
        }
    }
}

impl Registry {
    /// A registry of these upstreams.
    pub fn new(upstreams: impl IntoIterator<Item = Arc<Upstream>>) -> Self {
        let upstreams = upstreams.into_iter().map(|upstream| (upstream.name.clone(), upstream)).collect();
        Self { upstreams: Arc::new(upstreams) }
    }

    /// The upstream of `upstream.tool`, and the tool's name at it.
    pub fn find<'a>(&self, name: &'a str) -> Option<(&Arc<Upstream>, &'a str)> {
        let (upstream, tool) = name.split_once('.')?;
        Some((self.upstreams.get(upstream)?, tool))
    }

    /// One tool by `upstream.tool`.
    pub fn tool(&self, name: &str) -> Option<Tool> {
        let (upstream, tool) = self.find(name)?;
        let state = upstream.state();
        let definition = state.catalogue.as_ref()?.get(tool)?;
        Some(to_proto(upstream, &state, definition))
    }

    /// At most `size` tools after the name `after` that one of `patterns` picks (all without any), in the order of
    /// names, and whether there are more.
    pub fn list(&self, patterns: &[Pattern], after: Option<&str>, size: usize) -> (Vec<Tool>, bool) {
        let mut found = BTreeMap::new();
        for upstream in self.upstreams.values() {
            let state = upstream.state();
            for definition in state.catalogue.iter().flat_map(|catalogue| catalogue.values()) {
                let picked = patterns.is_empty()
                    || patterns.iter().any(|pattern| pattern.picks(&upstream.name, &definition.name));
                if picked && after.is_none_or(|after| definition.name.as_str() > after) {
                    found.insert(definition.name.clone(), to_proto(upstream, &state, definition));
                }
            }
        }
        let more = found.len() > size;
        (found.into_values().take(size).collect(), more)
    }

    /// The upstreams that are down.
    pub fn unavailable(&self) -> Vec<UpstreamState> {
        let down = self.upstreams.values().filter_map(|upstream| {
            let state = upstream.state();
            let detail = state.session.is_none().then_some(state.detail)?;
            Some(UpstreamState { upstream: upstream.name.clone(), detail })
        });
        down.collect()
    }
}

fn to_proto(upstream: &Upstream, state: &State, definition: &Definition) -> Tool {
    Tool {
        name: format!("tools/{}", definition.name),
        upstream: upstream.name.clone(),
        definition: Some(definition.to_proto()),
        stale: state.session.is_none(),
        upstream_kind: upstream.kind().into(),
        trust_tier: tier(upstream.config.trust_tier()).into(),
    }
}

fn tier(tier: mar_alignment::TrustTier) -> types::TrustTier {
    match tier {
        mar_alignment::TrustTier::Unverified => types::TrustTier::Unverified,
        mar_alignment::TrustTier::Experimental => types::TrustTier::Experimental,
        mar_alignment::TrustTier::Aligned => types::TrustTier::Aligned,
        mar_alignment::TrustTier::Production => types::TrustTier::Production,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read() {
        assert_eq!(Pattern::parse("*"), Some(Pattern::All));
        assert_eq!(Pattern::parse("docs.*"), Some(Pattern::Upstream("docs".into())));
        assert_eq!(Pattern::parse("docs.a.b"), Some(Pattern::Tool("docs.a.b".into())));
        for wrong in ["", "docs", "docs.", ".x", "*.x", "docs.a*", "Docs.x"] {
            assert_eq!(Pattern::parse(wrong), None, "{wrong}");
        }
    }
}
