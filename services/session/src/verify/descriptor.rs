//! The sealed descriptor of a run's agent.

use std::collections::BTreeMap;

use mar_descriptor::{Descriptor, Error, Hash, Signature, Statement, VerifyingKeys, domain, seal, verify_statement};
use mar_proto::session::{Agent, AgentSealed, VerifyFaultKind as Kind};
use mar_proto::types::SealedDescriptor;

/// What does not verify. `agent` is `None` where the event's payloads are gone, and `Some(None)` where they hold no agent.
pub(super) fn faults(
    sealed: &AgentSealed,
    agent: Option<Option<&Agent>>,
    keys: Option<&VerifyingKeys>,
) -> Vec<(Kind, String)> {
    let Some(agent) = agent else { return Vec::new() };
    let Some(descriptor) = agent.and_then(|agent| agent.descriptor.as_ref()) else {
        return vec![(Kind::Missing, "it holds no descriptor".to_owned())];
    };
    let mut faults: Vec<_> = form(sealed, descriptor).into_iter().map(|text| (Kind::Descriptor, text)).collect();
    if let Some(Err(error)) = keys.map(|keys| verify_statement(&statement(descriptor), seal::PAYLOAD_TYPE, keys)) {
        // A stored key id is anybody's text and is not repeated.
        let text = match error {
            Error::UnknownKey(_) => "its descriptor is signed by no known key",
            _ => "its descriptor's signature is not over it",
        };
        faults.push((Kind::Signature, text.to_owned()));
    }
    faults
}

/// Hash, form and sections.
fn form(sealed: &AgentSealed, descriptor: &SealedDescriptor) -> Vec<String> {
    let mut faults = Vec::new();
    let actual = Hash::of(domain::DESCRIPTOR, &descriptor.canonical).to_string();
    if descriptor.hash != actual {
        faults.push("its descriptor hashes to something else than is stated with it".to_owned());
    }
    if sealed.descriptor_hash != actual {
        faults.push("its descriptor is not the one that its leaf names".to_owned());
    }
    let parsed = match Descriptor::parse(&descriptor.canonical) {
        Ok(parsed) => parsed,
        Err(error) => {
            faults.push(format!("its descriptor: {error}"));
            return faults;
        }
    };
    if parsed.validate().is_err() {
        faults.push("its descriptor violates its rules".to_owned());
    }
    match parsed.section_hashes() {
        Ok(hashes) => {
            let hashes: BTreeMap<String, String> =
                hashes.into_iter().map(|(name, hash)| (name.to_string(), hash.to_string())).collect();
            let names = hashes.keys().chain(sealed.section_hashes.keys()).collect::<std::collections::BTreeSet<_>>();
            let differ = names.into_iter().filter(|name| hashes.get(*name) != sealed.section_hashes.get(*name));
            faults.extend(differ.map(|name| format!("section {name} of its descriptor is not the one in its leaf")));
        }
        Err(error) => faults.push(format!("its descriptor: {error}")),
    }
    faults
}

fn statement(descriptor: &SealedDescriptor) -> Statement {
    let signature = |one: &mar_proto::types::Signature| Signature { key_id: one.key_id.clone(), sig: one.sig.to_vec() };
    Statement {
        payload_type: seal::PAYLOAD_TYPE.to_owned(),
        payload: descriptor.canonical.to_vec(),
        signatures: descriptor.signatures.iter().map(signature).collect(),
    }
}
