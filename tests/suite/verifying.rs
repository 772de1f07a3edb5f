//! Rows that are changed behind the runtime's back, by somebody who may write to the database as they please: VerifyRun
//! names what was changed.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use mar_descriptor::{Hash, Head, SessionSeal, Signature, Statement, session_seal};
use mar_proto::session::{
    EndSessionRequest, EventContent, GetSessionRequest, Run, Session, VerifyFaultKind as Kind, VerifyPlace as Place,
    VerifyRunRequest, VerifyRunResponse,
};
use mar_tests::{Client, Deployment, Options, Stores, task};
use prost::Message as _;
use uuid::Uuid;

use rows::Rows;

pub mod rows;

both_ways! {
    an_untouched_run_verifies
    a_changed_row_is_named
    a_removed_event_is_missed
    a_swapped_seal_is_found
    a_row_that_cannot_be_read_is_named_and_the_others_are_looked_at
    the_role_that_writes_changes_nothing_that_was_written
    an_open_run_verifies_as_far_as_it_goes
    an_ended_session_is_sealed_over_its_runs
}

const QUESTION: &str = "When is the lighthouse lit?";

/// A sealed run, and a way to its rows.
struct Sealed {
    client: Client,
    rows: Rows,
    run: Run,
    id: Uuid,
}

impl Sealed {
    async fn new(system: &Deployment) -> anyhow::Result<Self> {
        let mut client = system.client().await?;
        let rows = Rows::open(&system.store_url()).await?;
        let run = client.run(task::with_sources(QUESTION)).await?.run;
        let id = id_of(&run.name)?;
        Ok(Self { client, rows, run, id })
    }

    async fn verify(&mut self) -> anyhow::Result<VerifyRunResponse> {
        verify(&mut self.client, &self.run.name).await
    }

    fn last(&self) -> i64 {
        self.run.next_seq - 1
    }

    /// Changes a column of an event, has the run verified, and puts it back.
    async fn with_changed(
        &mut self,
        seq: i64,
        column: &str,
        change: impl Fn(&mut Vec<u8>),
    ) -> anyhow::Result<VerifyRunResponse> {
        let before = self.rows.event(self.id, seq, column).await?;
        let mut changed = before.clone();
        change(&mut changed);
        ensure!(changed != before, "nothing was changed");
        self.rows.set_event(self.id, seq, column, &changed).await?;
        let found = self.verify().await?;
        self.rows.set_event(self.id, seq, column, &before).await?;
        Ok(found)
    }
}

async fn verify(client: &mut Client, name: &str) -> anyhow::Result<VerifyRunResponse> {
    let found = client.grpc.verify_run(VerifyRunRequest { name: name.into() }).await?.into_inner();
    ensure!(found.valid == found.faults.is_empty(), "{found:?}");
    Ok(found)
}

fn id_of(name: &str) -> anyhow::Result<Uuid> {
    Ok(name.rsplit('/').next().context("no id")?.parse()?)
}

fn named(found: &VerifyRunResponse) -> BTreeSet<(Place, i64, Kind)> {
    found.faults.iter().map(|fault| (fault.place(), fault.seq, fault.kind())).collect()
}

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
}

async fn an_untouched_run_verifies(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut sealed = Sealed::new(&system).await?;
    let found = sealed.verify().await?;
    assert_eq!(found.faults, []);
    assert!(found.sealed && found.unchecked.is_empty(), "{found:?}");
    assert_eq!((found.events, &found.head), (sealed.run.next_seq, &sealed.run.seal.clone().unwrap_or_default().head));
    // However a run has ended.
    let limits = mar_proto::types::HaltingPolicy { max_steps: Some(1), ..Default::default() };
    let unknown = mar_proto::session::Task {
        model: Some(mar_proto::session::ModelConstraints { models: vec!["models/none".into()], ..Default::default() }),
        ..task::question("Who?")
    };
    for (task, outcome) in [(task::limited(task::with_sources("When?"), limits), "HALTED"), (unknown, "FAILED")] {
        let run = sealed.client.run(task).await?.run;
        assert_eq!(run.seal.unwrap_or_default().outcome, outcome);
        let found = verify(&mut sealed.client, &run.name).await?;
        assert!(found.valid && found.sealed, "{outcome}: {found:?}");
    }
    Ok(())
}

async fn a_changed_row_is_named(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut sealed = Sealed::new(&system).await?;
    for seq in [0, 2, sealed.last()] {
        let found = sealed.with_changed(seq, "hash", |bytes| flip(bytes)).await?;
        assert!(named(&found).contains(&(Place::Event, seq, Kind::Hash)), "{found:?}");
        let found = sealed.with_changed(seq, "leaf", |bytes| flip(bytes)).await?;
        assert!(named(&found).contains(&(Place::Event, seq, Kind::Hash)), "{found:?}");
        let others = found.faults.iter().filter(|one| one.place() == Place::Event && one.seq != seq).count();
        assert_eq!(others, 0, "{found:?}");
    }
    let found = sealed.with_changed(0, "prev_hash", |bytes| flip(bytes)).await?;
    assert_eq!(named(&found), [(Place::Event, 0, Kind::Link)].into(), "{found:?}");
    // The answer that callers see, reworded.
    let last = sealed.last();
    let reworded = |bytes: &mut Vec<u8>| {
        let mut content = EventContent::decode(&bytes[..]).unwrap();
        content.answer.as_mut().unwrap().json = "{\"lit\":\"never\"}".into();
        *bytes = content.encode_to_vec();
    };
    let found = sealed.with_changed(last, "content", reworded).await?;
    assert!(named(&found).contains(&(Place::Event, last, Kind::Commitment)), "{found:?}");
    assert!(named(&found).contains(&(Place::Run, -1, Kind::Mismatch)), "{found:?}");
    // The same in the row that GetRun reads, with the log left as it is.
    let before = sealed.rows.summary(sealed.id).await?;
    let mut run = Run::decode(&before[..])?;
    run.answer.as_mut().context("no answer")?.json = "{\"lit\":\"never\"}".into();
    sealed.rows.set_summary(sealed.id, &run.encode_to_vec()).await?;
    assert_eq!(named(&sealed.verify().await?), [(Place::Run, -1, Kind::Mismatch)].into());
    sealed.rows.set_summary(sealed.id, &before).await?;
    // A payload that nobody erased is missed.
    sealed.rows.clear_payload(sealed.id, last).await?;
    let found = sealed.verify().await?;
    assert_eq!((named(&found), found.events_without_payload), ([(Place::Event, last, Kind::Missing)].into(), 1));
    // The session's own log.
    sealed.rows.change_log(sealed.id, "run sealed", &[7; 32]).await?;
    let found = sealed.verify().await?;
    let beside = found.faults.iter().filter(|fault| fault.place() != Place::Event);
    let kinds: BTreeSet<_> = beside.map(|fault| (fault.place(), fault.kind())).collect();
    assert_eq!(kinds, [(Place::SessionLog, Kind::Mismatch), (Place::SessionLog, Kind::Hash)].into(), "{found:?}");
    Ok(())
}

async fn a_removed_event_is_missed(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut sealed = Sealed::new(&system).await?;
    let last = sealed.last();
    sealed.rows.move_event(sealed.id, last, last + 9).await?;
    let found = sealed.verify().await?;
    assert!(named(&found).contains(&(Place::Event, last, Kind::Missing)), "{found:?}");
    assert!(named(&found).contains(&(Place::Event, last + 9, Kind::Foreign)), "{found:?}");
    sealed.rows.remove_event(sealed.id, last + 9).await?;
    let found = sealed.verify().await?;
    assert!(named(&found).contains(&(Place::Event, last, Kind::Missing)), "{found:?}");
    sealed.rows.remove_event(sealed.id, 3).await?;
    let found = sealed.verify().await?;
    for seq in [3, last] {
        assert!(named(&found).contains(&(Place::Event, seq, Kind::Missing)), "{seq}: {found:?}");
    }
    for seq in 0..last {
        sealed.rows.remove_event(sealed.id, seq).await?;
    }
    let found = sealed.verify().await?;
    assert!(named(&found).contains(&(Place::Event, 0, Kind::Missing)), "{found:?}");
    Ok(())
}

async fn a_swapped_seal_is_found(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut sealed = Sealed::new(&system).await?;
    let other = sealed.client.run(task::with_sources("When does the harbour flood?")).await?.run;
    let mut run = Run::decode(&sealed.rows.summary(sealed.id).await?[..])?;
    // A good seal with a good signature, of another run.
    run.seal = other.seal;
    sealed.rows.set_summary(sealed.id, &run.encode_to_vec()).await?;
    let found = sealed.verify().await?;
    assert!(named(&found).contains(&(Place::Seal, -1, Kind::Mismatch)), "{found:?}");
    assert!(found.faults.iter().any(|fault| fault.message.contains("head")), "{found:?}");
    // Its own with a signature of somebody else's.
    let key = mar_descriptor::SigningKey::from_seed(&[3; 32]);
    run.seal = sealed.run.seal.clone();
    let signature = run.seal.as_mut().and_then(|seal| seal.signature.as_mut()).context("no signature")?;
    signature.key_id = key.key_id().into();
    sealed.rows.set_summary(sealed.id, &run.encode_to_vec()).await?;
    assert_eq!(named(&sealed.verify().await?), [(Place::Seal, -1, Kind::Signature)].into());
    run.seal = None;
    sealed.rows.set_summary(sealed.id, &run.encode_to_vec()).await?;
    assert_eq!(named(&sealed.verify().await?), [(Place::Seal, -1, Kind::Missing)].into());
    Ok(())
}

async fn a_row_that_cannot_be_read_is_named_and_the_others_are_looked_at(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut sealed = Sealed::new(&system).await?;
    sealed.rows.break_hash(sealed.id, 2).await?;
    let leaf = sealed.rows.event(sealed.id, 4, "leaf").await?;
    let mut changed = leaf.clone();
    flip(&mut changed);
    sealed.rows.set_event(sealed.id, 4, "leaf", &changed).await?;
    let found = sealed.verify().await?;
    assert!(named(&found).contains(&(Place::Event, 2, Kind::Unreadable)), "{found:?}");
    assert!(named(&found).contains(&(Place::Event, 4, Kind::Hash)), "{found:?}");
    assert_eq!(found.events, sealed.run.next_seq);
    let other = found.faults.iter().find(|fault| fault.place() != Place::Event || ![2, 4].contains(&fault.seq));
    assert_eq!(other, None);
    Ok(())
}

async fn the_role_that_writes_changes_nothing_that_was_written(options: Options) -> anyhow::Result<()> {
    let expected = if options.stores == Stores::Servers { 6 } else { 0 };
    let system = Deployment::start(options).await?;
    let mut sealed = Sealed::new(&system).await?;
    let codes = sealed.rows.refusals("dev", sealed.id).await?;
    assert_eq!(codes, vec!["42501"; expected]);
    assert!(sealed.verify().await?.valid);
    Ok(())
}

async fn an_open_run_verifies_as_far_as_it_goes(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script("[[rule]]\nreply = { agent = true, delay = '20s' }")).await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let session = client.session().await?;
    let run = client.start(&session, task::with_sources(QUESTION)).await?;
    let id = id_of(&run.name)?;
    let generating = || async { rows.events(id).await.is_ok_and(|events| events >= 3) };
    mar_testkit::wait::until(std::time::Duration::from_secs(20), generating).await?;
    let found = verify(&mut client, &run.name).await?;
    assert!(found.valid && !found.sealed && found.events >= 3, "{found:?}");
    assert!(found.unchecked.iter().any(|text| text.contains("not sealed yet")), "{found:?}");
    let leaf = rows.event(id, 1, "leaf").await?;
    let mut changed = leaf.clone();
    flip(&mut changed);
    rows.set_event(id, 1, "leaf", &changed).await?;
    let found = verify(&mut client, &run.name).await?;
    assert!(named(&found).contains(&(Place::Event, 1, Kind::Hash)), "{found:?}");
    Ok(())
}

async fn an_ended_session_is_sealed_over_its_runs(options: Options) -> anyhow::Result<()> {
    let servers = options.stores == Stores::Servers;
    let mut system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let name = client.session().await?;
    let mut seals = Vec::new();
    for question in [QUESTION, "When does the harbour flood?"] {
        let run = client.run_in(&name, task::with_sources(question)).await?.run;
        seals.push((run.name, run.seal.context("no seal")?.hash.parse::<Hash>()?));
    }
    assert_eq!(get(&mut client, &name).await?.seal, None, "an open session is sealed");
    let end = EndSessionRequest { request_id: String::new(), name: name.clone() };
    let ended = client.grpc.end_session(end.clone()).await?.into_inner().session.context("no session")?;
    let seal = ended.seal.clone().context("no session seal")?;

    // Anybody with the public key can check it.
    let hashes: Vec<Hash> = seals.iter().map(|(_, hash)| *hash).collect();
    let head = Head { seq: seal.head_seq, hash: Hash::try_from(&seal.head[..])? };
    let document = SessionSeal::over(id_of(&name)?.to_string(), &hashes, head);
    assert_eq!((seal.runs, &seal.run_seals[..]), (2, &document.run_seals.as_bytes()[..]));
    assert_eq!(document.hash()?.to_string(), seal.hash);
    let signature = seal.signature.clone().context("not signed")?;
    let statement = Statement {
        payload_type: session_seal::PAYLOAD_TYPE.into(),
        payload: document.canonical()?,
        signatures: vec![Signature { key_id: signature.key_id, sig: signature.sig.to_vec() }],
    };
    let pem = std::fs::read_to_string(system.folder().join("session.pub.pem"))?;
    let keys = mar_descriptor::VerifyingKeys::from_pems([pem.as_str()])?;
    assert_eq!(SessionSeal::verify(&statement, &keys)?, document);

    // It is what it is: after a repetition, and after the process was killed.
    assert_eq!(client.grpc.end_session(end).await?.into_inner().session, Some(ended.clone()));
    for (run, _) in &seals {
        let found = verify(&mut client, run).await?;
        assert!(found.valid && found.sealed, "{found:?}");
    }
    system.kill(0).await?;
    system.restart(0).await?;
    let mut client = system.client().await?;
    assert_eq!(get(&mut client, &name).await?, ended);

    // One that was changed in the database is found with each of the session's runs.
    let rows = Rows::open(&system.store_url()).await?;
    let mut forged = Session::decode(&rows.session_body(id_of(&name)?).await?[..])?;
    forged.seal.as_mut().context("no stored seal")?.runs = 1;
    rows.set_session_body(id_of(&name)?, &forged.encode_to_vec()).await?;
    for (run, _) in &seals {
        let found = verify(&mut client, run).await?;
        let kinds: BTreeSet<_> = found.faults.iter().map(|fault| (fault.place(), fault.kind())).collect();
        let expected = [Kind::Mismatch, Kind::Hash, Kind::Signature].map(|kind| (Place::Session, kind));
        assert_eq!(kinds, expected.into(), "servers: {servers}: {found:?}");
    }
    Ok(())
}

async fn get(client: &mut Client, name: &str) -> anyhow::Result<Session> {
    let request = GetSessionRequest { name: name.into() };
    client.grpc.get_session(request).await?.into_inner().session.context("no session")
}
