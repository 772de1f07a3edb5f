//! What the operator declares about calls whose outcome nobody knows, with the probes as the upstream describes them.

use std::collections::BTreeMap;

use mar_descriptor::Hash;
use mar_proto::types;

use super::Upstream;
use crate::config::{OnUnknown, ProbeConfig};
use crate::definition::{Declared, Definition, Described};

/// Hashes of the definitions of probes, by their names at the upstream.
pub(super) type Probes = BTreeMap<String, Hash>;

impl Upstream {
    /// The probes that are declared and offered.
    pub(super) fn probes(&self, described: &[Described]) -> Probes {
        let named = |tool: &str| {
            let mut doubts = self.config.tools.values().filter_map(|config| config.doubt.as_ref());
            doubts.any(|doubt| doubt.probe.as_ref().is_some_and(|probe| probe.tool == tool))
        };
        let mut found = Probes::new();
        for one in described.iter().filter(|one| named(&one.tool)) {
            if let Ok(definition) = Definition::try_new(&self.name, one.clone(), Declared::default()) {
                found.entry(one.tool.clone()).or_insert(definition.hash);
            }
        }
        found
    }

    /// What is declared about `tool`. A probe that the upstream does not offer is left out: nothing can be asked.
    pub(super) fn declared_doubt(&self, tool: &str, probes: &Probes) -> Option<types::Doubt> {
        let declared = self.config.doubt(tool)?;
        let probe = declared.probe.as_ref().and_then(|probe| self.declared_probe(tool, probe, probes));
        let asks = declared.on_unknown == OnUnknown::AskHuman;
        let on_unknown = if asks { types::OnUnknown::AskHuman } else { types::OnUnknown::TellModel };
        Some(types::Doubt {
            probe,
            on_unknown: on_unknown.into(),
            group: declared.group.clone().unwrap_or_default(),
            expires_after_ms: if asks { millis(declared.question()) } else { 0 },
        })
    }

    fn declared_probe(&self, tool: &str, probe: &ProbeConfig, probes: &Probes) -> Option<types::Probe> {
        let Some(hash) = probes.get(&probe.tool) else {
            tracing::warn!(upstream.name = %self.name, tool.name = tool, probe = probe.tool, "probe is not offered");
            return None;
        };
        Some(types::Probe {
            tool: format!("tools/{}.{}", self.name, probe.tool),
            definition_hash: hash.to_string(),
            key_argument: probe.key_argument.clone(),
            settles_after_ms: millis(probe.settles_after.map_or(self.config.timeout, |span| span.0)),
        })
    }
}

fn millis(span: std::time::Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
