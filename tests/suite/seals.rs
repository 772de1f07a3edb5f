//! What outsiders can check: descriptors, chains, commitments and seals, with nothing but public keys and public crates.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use mar_descriptor::{Commitment, Hash, Head, Outcome, RunSeal, Statement, VerifyingKeys, chain};
use mar_proto::session::{Event, EventLeaf, ModelConstraints, Run, RunState, Task, event_leaf::Body};
use mar_proto::types::HaltingPolicy;
use mar_testkit::rehearsal::{Rehearsal, Script};
use mar_tests::{Deployment, Options, Shape, Stores, oracle, task};

use crate::reading::body;

both_ways! {
    a_finished_run_is_sealed_over_its_events
}

async fn a_finished_run_is_sealed_over_its_events(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let run = client.run(task::with_sources("When is the lighthouse lit?")).await?.run;
    let events = client.events(&run.name).await?;
    verify(&system, &run, &events)?;

    // A run that ended otherwise is sealed as well, before an agent exists and after.
    let none = HaltingPolicy { max_steps: Some(1), ..HaltingPolicy::default() };
    let halted = client.run(task::limited(task::with_sources("When is it lit?"), none)).await?.run;
    let events = client.events(&halted.name).await?;
    verify(&system, &halted, &events)?;
    ensure!(halted.seal.clone().unwrap_or_default().outcome == "HALTED", "{:?}", halted.seal);

    // What is changed is found.
    let mut forged = events.clone();
    let leaf = forged[2].leaf.to_vec();
    forged[2].leaf = leaf.iter().map(|byte| byte ^ 1).collect::<Vec<_>>().into();
    assert!(verify(&system, &halted, &forged).is_err());
    let mut forged = halted.clone();
    forged.seal.as_mut().context("no seal")?.outcome = "SUCCEEDED".into();
    assert!(verify(&system, &forged, &events).is_err());
    Ok(())
}

/// Recomputes everything that a run is bound to.
fn verify(system: &Deployment, run: &Run, events: &[Event]) -> anyhow::Result<()> {
    verify_seal(system, run, events)?;
    for event in events {
        verify_commitments(event, &oracle::shown(event)?)?;
    }
    verify_descriptor(system, run, events)
}

/// Recomputes what leaves, seal and public key alone prove, with payloads or without.
pub(crate) fn verify_seal(system: &Deployment, run: &Run, events: &[Event]) -> anyhow::Result<()> {
    let head = verify_chain(events)?;
    let leaves: Vec<EventLeaf> = events.iter().map(oracle::shown).collect::<Result<_, _>>()?;
    for (event, leaf) in events.iter().zip(&leaves) {
        ensure!(event.body.as_ref() == Some(leaf), "event {} shows something else than its leaf", event.seq);
    }
    let seal = run.seal.clone().context("no seal")?;
    let recomputed = RunSeal {
        descriptor_hash: run.descriptor_hash.parse().ok(),
        input_commitment: commitment(&leaves[0], "task")?,
        session_commitment: commitment(&leaves[0], "session_json")?,
        outcome: serde_json::from_value::<Outcome>(seal.outcome.clone().into())?,
        head,
    };
    ensure!(recomputed.hash()?.to_string() == seal.hash, "the seal is over something else");
    ensure!((&seal.head[..], seal.head_seq) == (&head.hash.as_bytes()[..], head.seq), "the seal names another head");
    let signature = seal.signature.context("the seal is not signed")?;
    let statement = Statement {
        payload_type: mar_descriptor::run_seal::PAYLOAD_TYPE.into(),
        payload: recomputed.canonical()?,
        signatures: vec![mar_descriptor::Signature { key_id: signature.key_id, sig: signature.sig.to_vec() }],
    };
    let read = RunSeal::verify(&statement, &keys(system, "session.pub.pem")?)?;
    ensure!(read == recomputed, "another seal was signed");
    Ok(())
}

fn verify_chain(events: &[Event]) -> anyhow::Result<Head> {
    let mut head = Head::genesis(Hash::ZERO);
    let seqs: Vec<i64> = events.iter().map(|event| event.seq).collect();
    ensure!(seqs.windows(2).all(|pair| pair[0] + 1 == pair[1]), "numbers with gaps: {seqs:?}");
    for event in events {
        ensure!(event.prev_hash == head.hash.as_bytes()[..], "event {} follows another", event.seq);
        ensure!(event.hash == chain::event_hash(&head.hash, &event.leaf).as_bytes()[..], "event {} differs", event.seq);
        head = head.next(&event.leaf);
        ensure!(head.seq == event.seq, "event {} is numbered {}", head.seq, event.seq);
    }
    Ok(head)
}

/// Every payload has its commitment, and every commitment its payload.
fn verify_commitments(event: &Event, leaf: &EventLeaf) -> anyhow::Result<()> {
    let payloads = event.content.as_ref().map(mar_session::log::payloads).unwrap_or_default();
    let shown: Vec<&str> = payloads.iter().map(|(field, _)| *field).collect();
    let committed: Vec<&str> = leaf.commitments.iter().map(|one| one.field.as_str()).collect();
    ensure!(shown == committed, "event {} shows {shown:?} and commits to {committed:?}", event.seq);
    ensure!(leaf.commitments.iter().all(|one| one.hmac.len() == 32), "a commitment is no HMAC-SHA-256");
    for (field, payload) in payloads.iter().filter(|(_, payload)| payload.len() > 8) {
        let inside = event.leaf.windows(payload.len()).any(|window| window == payload.as_slice());
        ensure!(!inside, "the leaf {} holds the payload {field}", event.seq);
    }
    Ok(())
}

fn verify_descriptor(system: &Deployment, run: &Run, events: &[Event]) -> anyhow::Result<()> {
    let sealed_event = events.iter().find_map(|event| match body(event) {
        Some(Body::AgentSealed(sealed)) => Some((sealed, event.content.as_ref()?.agent.as_ref()?.descriptor.as_ref()?)),
        _ => None,
    });
    let (in_log, sealed) = sealed_event.context("no agent was sealed")?;
    ensure!(in_log.descriptor_hash == run.descriptor_hash && sealed.hash == run.descriptor_hash, "three hashes differ");
    let given = mar_descriptor::SealedDescriptor {
        hash: sealed.hash.parse()?,
        canonical: sealed.canonical.to_vec(),
        signatures: sealed
            .signatures
            .iter()
            .map(|one| mar_descriptor::Signature { key_id: one.key_id.clone(), sig: one.sig.to_vec() })
            .collect(),
    };
    let verified = mar_descriptor::verify(&given, &keys(system, "generator.pub.pem")?)?;
    let sections: BTreeMap<String, String> = verified
        .descriptor()
        .section_hashes()?
        .into_iter()
        .map(|(name, hash)| (name.to_string(), hash.to_string()))
        .collect();
    ensure!(sections == in_log.section_hashes, "section hashes differ: {sections:?} {:?}", in_log.section_hashes);
    Ok(())
}

fn commitment(leaf: &EventLeaf, field: &str) -> anyhow::Result<Commitment> {
    let found = leaf.commitments.iter().find(|one| one.field == field).context("no such commitment")?;
    Ok(Commitment::from_bytes(<[u8; 32]>::try_from(&found.hmac[..])?))
}

fn keys(system: &Deployment, file: &str) -> anyhow::Result<VerifyingKeys> {
    let pem = std::fs::read_to_string(system.folder().join(file))?;
    Ok(VerifyingKeys::from_pems([pem.as_str()])?)
}

/// Two systems with other keys, ids, folders, stores and shapes, as on two machines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_tasks_have_equal_hashes_everywhere() -> anyhow::Result<()> {
    let (here, there) = tokio::try_join!(
        Deployment::start(Options::new(Shape::One, Stores::Embedded)),
        Deployment::start(Options::new(Shape::Four, Stores::Servers)),
    )?;
    let (mut one, mut other) = (here.client().await?, there.client().await?);
    let hash = |followed: mar_tests::Followed| followed.run.descriptor_hash;
    let first = hash(one.run(task::with_sources("When is the lighthouse lit?")).await?);
    assert!(first.starts_with("sha256:") && first.len() == 7 + 64, "{first}");
    // The input is no part of what an agent is.
    assert_eq!(hash(one.run(task::with_sources("When does the harbour flood?")).await?), first);
    assert_eq!(hash(other.run(task::with_sources("Who keeps the light?")).await?), first);
    let narrower = mar_proto::session::Task { tools: task::selectors(&["docs.search"]), ..task::with_sources("Who?") };
    let other_tools = hash(one.run(narrower.clone()).await?);
    assert_ne!(other_tools, first);
    assert_eq!(hash(other.run(narrower).await?), other_tools);
    let limits = HaltingPolicy { max_steps: Some(7), ..HaltingPolicy::default() };
    let limited = hash(one.run(task::limited(task::with_sources("Who?"), limits)).await?);
    assert!(limited != first && limited != other_tools);
    assert_eq!(hash(other.run(task::limited(task::with_sources("Who?"), limits)).await?), limited);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_dies_between_two_equal_tasks_leaves_the_hash_equal() -> anyhow::Result<()> {
    let other = Rehearsal::start(Script::default()).await?;
    let refuses = "[[rule]]\nmatch = { contains = \"[refused]\" }\nreply = { error = { status = 401 } }\n[[rule]]\nreply = { agent = true }";
    let local = format!("[router.providers.local]\nbase_url = \"{}\"\n", other.api_url());
    // Four processes have the catalogue as it is shipped, with models of two providers that need no key.
    let system = Deployment::start(Options::new(Shape::Four, Stores::Embedded).script(refuses).extra(local)).await?;
    let mut client = system.client().await?;
    let of = |models: &[&str], text| {
        let models = models.iter().map(|model| format!("models/{model}")).collect();
        let model = Some(ModelConstraints { models, ..ModelConstraints::default() });
        Task { model, ..task::question(text) }
    };
    let both = ["rehearsal", "qwen2.5-coder-1.5b"];
    let before = client.run(of(&both, "hello")).await?.run;
    ensure!(before.state() == RunState::Succeeded, "{before:#?}");

    let refused = client.run(of(&["rehearsal"], "[refused]")).await?.run;
    ensure!(refused.failure.clone().unwrap_or_default().reason == "PROVIDER_CREDENTIAL", "{refused:#?}");

    let after = client.run(of(&both, "hello")).await?;
    ensure!(after.run.state() == RunState::Succeeded, "the other provider answers: {:#?}", after.run);
    assert_eq!(after.run.descriptor_hash, before.descriptor_hash);
    let turn = after.events().into_iter().find_map(|event| match body(event) {
        Some(Body::TurnCommitted(turn)) => Some(turn.clone()),
        _ => None,
    });
    let turn = turn.context("no turn")?;
    assert_eq!((turn.model.as_str(), turn.failed_attempts.len()), ("models/qwen2.5-coder-1.5b", 0));
    // With nothing else left the task is sealed as before; what fails is the call.
    let alone = client.run(of(&["rehearsal"], "hello")).await?.run;
    assert_eq!(alone.descriptor_hash, refused.descriptor_hash);
    ensure!(alone.failure.clone().unwrap_or_default().reason == "PROVIDER_CREDENTIAL", "{alone:#?}");
    Ok(())
}
