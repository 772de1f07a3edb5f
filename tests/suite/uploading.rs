//! Inputs that are streamed in: whole, checked, named by tasks, and read again.

use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mar_proto::session::create_blob_request::Piece;
use mar_proto::session::*;
use mar_proto::types::{HaltingPolicy, Media, Part, media::Source, part::Content};
use mar_runtime::auth::api_key;
use mar_runtime::clock::SystemIds;
use mar_testkit::wait;
use mar_tests::catalogue::Model;
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, task};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::verifying::rows::Rows;

mod dying;

both_ways! {
    what_is_streamed_in_is_read_by_the_model
    bad_uploads_leave_nothing
    uploads_of_the_same_bytes_are_one
    a_task_names_what_is_there
    a_blob_is_read_from_anywhere
    another_tenant_has_no_part_in_it
    what_no_task_names_goes_and_what_is_erased_goes
    an_upload_is_told_that_its_session_has_ended
    more_than_a_message_holds_reaches_the_model
}

const ECHO: &str = "[[rule]]\nreply = { text = 'Read.' }\n";

pub(crate) fn header(session: &str, media_type: &str, bytes: &[u8]) -> BlobHeader {
    BlobHeader {
        request_id: request_id(),
        parent: session.into(),
        media_type: media_type.into(),
        size_bytes: bytes.len() as i64,
        sha256: Sha256::digest(bytes).to_vec().into(),
    }
}

fn pieces(header: BlobHeader, bytes: &[u8]) -> Vec<CreateBlobRequest> {
    let chunk = |chunk: &[u8]| CreateBlobRequest { piece: Some(Piece::Chunk(chunk.to_vec().into())) };
    let first = CreateBlobRequest { piece: Some(Piece::Header(header)) };
    std::iter::once(first).chain(bytes.chunks(64 << 10).map(chunk)).collect()
}

pub(crate) async fn put(client: &Client, header: BlobHeader, bytes: &[u8]) -> Result<String, Status> {
    let stream = tokio_stream::iter(pieces(header, bytes));
    Ok(client.grpc.clone().create_blob(stream).await?.into_inner().name)
}

pub(crate) async fn read(client: &Client, name: &str, offset: i64) -> Result<Vec<u8>, Status> {
    let request = ReadBlobRequest { name: name.into(), offset, idle_timeout: None };
    let mut stream = client.grpc.clone().read_blob(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        let chunk = piece?.chunk;
        assert!(chunk.len() <= 64 << 10);
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

pub(crate) fn blob(media_type: &str, name: &str) -> Part {
    let media = Media { media_type: media_type.into(), source: Some(Source::Blob(name.into())), size_bytes: 0 };
    Part { content: Some(Content::Media(media)), ..Part::default() }
}

fn about(words: &str, parts: Vec<Part>) -> Task {
    let mut task = task::question(words);
    task.input.extend(parts);
    let room = HaltingPolicy { max_input_tokens: Some(100_000_000), ..HaltingPolicy::default() };
    task::limited(task, HaltingPolicy { max_cost_nano_usd: Some(1_000_000_000_000), ..room })
}

fn why(status: &Status) -> (Code, String, Vec<String>) {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    (status.code(), reason, violations.into_iter().map(|one| one.field).collect())
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>) -> (Code, String, Vec<String>) {
    why(&outcome.unwrap_err())
}

fn invalid(fields: &[&str]) -> (Code, String, Vec<String>) {
    (Code::InvalidArgument, "INVALID_REQUEST".to_owned(), fields.iter().map(|&field| field.to_owned()).collect())
}

fn id(name: &str) -> anyhow::Result<Uuid> {
    Ok(name.trim_start_matches("sessions/").parse()?)
}

/// Words that compress badly, so many bytes of them.
fn words(bytes: usize) -> String {
    let mut text: String = (0..).map(|n: u64| format!("{} ", n.wrapping_mul(0x9e37_79b9))).take(bytes / 8).collect();
    text.truncate(bytes);
    text
}

async fn what_is_streamed_in_is_read_by_the_model(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(ECHO)).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    // More than a message holds, and with characters across every seam.
    let long = format!("Begin. {} né fin.", words(100_000));
    let name = put(&client, header(&session, "text/plain", long.as_bytes()), long.as_bytes()).await?;
    assert_eq!(name, format!("{session}/blobs/{}", hex::encode(Sha256::digest(&long))));
    let followed = client.run_in(&session, about("What is this?", vec![blob("text/plain", &name)])).await?;
    assert_eq!(followed.text(), "Read.");
    let request = system.rehearsal.requests().pop().context("the model was not asked")?;
    let told = request.body["messages"].to_string();
    assert!(told.contains("né fin.") && told.contains("What is this?"), "{told}");
    // What was named is recorded with its size, and counted before it was sent.
    let named = followed.run.task.as_ref().context("no task")?.input[1].clone();
    let Some(Content::Media(media)) = named.content else { anyhow::bail!("{named:?}") };
    assert_eq!((media.media_type.as_str(), media.size_bytes), ("text/plain", long.len() as i64));
    let started = followed.events().into_iter().find_map(|event| match event.body.as_ref()?.body.as_ref()? {
        event_leaf::Body::GenerationStarted(started) => started.reservation,
        _ => None,
    });
    assert!(started.context("nothing started")?.input_tokens >= long.len() as i64);
    let verified = client.grpc.verify_run(VerifyRunRequest { name: followed.run.name }).await?.into_inner();
    assert!(verified.valid && verified.sealed, "{verified:?}");
    Ok(())
}

async fn bad_uploads_leave_nothing(options: Options) -> anyhow::Result<()> {
    let limits = "[session.blobs]\npatience = '1s'\nmax_session_size = '66MiB'\n";
    let system = Deployment::start(options.extra(limits)).await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let session = client.session().await?;
    let bytes = words(300_000).into_bytes();
    let good = || header(&session, "text/plain", &bytes);

    let large = BlobHeader { size_bytes: 100 << 20, ..good() };
    assert_eq!(refused(put(&client, large, &bytes).await), invalid(&["header.size_bytes"]));
    let wrong = BlobHeader {
        request_id: String::new(),
        parent: "sessions/none".into(),
        media_type: "text".into(),
        size_bytes: 0,
        sha256: vec![1; 31].into(),
    };
    let fields = ["header.request_id", "header.parent", "header.media_type", "header.size_bytes", "header.sha256"];
    assert_eq!(refused(put(&client, wrong, &bytes).await), invalid(&fields));
    let other = BlobHeader { sha256: vec![7; 32].into(), ..good() };
    assert_eq!(refused(put(&client, other, &bytes).await), invalid(&["header.sha256"]));
    assert_eq!(refused(put(&client, good(), &bytes[..200_000]).await), invalid(&["header.size_bytes"]));
    assert_eq!(refused(put(&client, good(), &[]).await), invalid(&["header.size_bytes"]));
    assert_eq!(refused(put(&client, good(), &[&bytes[..], b"!"].concat()).await), invalid(&["chunk"]));
    let binary = [0xff; 100];
    assert_eq!(refused(put(&client, header(&session, "text/plain", &binary), &binary).await), invalid(&["chunk"]));

    let send = |stream: Vec<CreateBlobRequest>| {
        let mut grpc = client.grpc.clone();
        async move { refused(grpc.create_blob(tokio_stream::iter(stream)).await) }
    };
    assert_eq!(send(Vec::new()).await, invalid(&["header"]));
    assert_eq!(send(pieces(good(), &bytes).split_off(1)).await, invalid(&["header"]));
    let first = CreateBlobRequest { piece: Some(Piece::Header(good())) };
    assert_eq!(send(vec![first.clone(), first.clone()]).await, invalid(&["chunk"]));
    let empty = CreateBlobRequest { piece: Some(Piece::Chunk(Default::default())) };
    assert_eq!(send(vec![first.clone(), empty]).await, invalid(&["chunk"]));
    let long = CreateBlobRequest { piece: Some(Piece::Chunk(bytes[..70_000].to_vec().into())) };
    assert_eq!(send(vec![first.clone(), long]).await, invalid(&["chunk"]));

    // One that hangs is given up; one whose caller goes away, too.
    let hanging = tokio_stream::iter(pieces(good(), &bytes[..270_000])).chain(tokio_stream::pending());
    let (code, reason, _) = refused(client.grpc.clone().create_blob(hanging).await);
    assert_eq!((code, reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    let mut short = Request::new(tokio_stream::iter(pieces(good(), &bytes[..270_000])).chain(tokio_stream::pending()));
    short.set_timeout(Duration::from_millis(500));
    assert!(client.grpc.clone().create_blob(short).await.is_err());

    // A session that is not there, or that is full.
    let nowhere = format!("sessions/{}", Uuid::from_u128(5));
    assert_eq!(refused(put(&client, header(&nowhere, "text/plain", &bytes), &bytes).await).0, Code::NotFound);
    let claim = BlobHeader { size_bytes: 64 << 20, sha256: vec![1; 32].into(), ..good() };
    let claiming = tokio_stream::iter(pieces(claim, &[])).chain(tokio_stream::pending());
    let mut grpc = client.grpc.clone();
    let holding = async move { grpc.create_blob(claiming).await };
    let asking = async {
        let three = words(3 << 20).into_bytes();
        let gone = || async { rows.uploads(id(&session)?).await };
        wait::until(Duration::from_secs(30), || async { gone().await.is_ok_and(|count| count > 0) }).await?;
        let refusal = refused(put(&client, header(&session, "text/plain", &three), &three).await);
        anyhow::Ok(refusal)
    };
    let (held, full) = tokio::join!(holding, asking);
    assert_eq!(refused(held).0, Code::DeadlineExceeded);
    let (code, reason, _) = full?;
    assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "SESSION_FULL"));

    // Nothing of all that stays.
    let session_id = id(&session)?;
    let empty = || async { rows.uploads(session_id).await.is_ok_and(|count| count == 0) };
    wait::until(Duration::from_secs(30), empty).await.context("pieces stay")?;
    assert_eq!(rows.upload_pieces().await?, 0);
    put(&client, good(), &bytes).await?;
    client.grpc.end_session(EndSessionRequest { name: session.clone(), ..Default::default() }).await?;
    assert_eq!(refused(put(&client, good(), &bytes).await).1, "SESSION_ENDED");
    Ok(())
}

async fn uploads_of_the_same_bytes_are_one(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let session = client.session().await?;
    let bytes = words(600_000).into_bytes();
    let mut uploads = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (client, header, bytes) = (client.clone(), header(&session, "text/plain", &bytes), bytes.clone());
        uploads.spawn(async move { put(&client, header, &bytes).await });
    }
    let names: Result<Vec<String>, Status> = uploads.join_all().await.into_iter().collect();
    let names = names?;
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    let session_id = id(&session)?;
    let one = || async { rows.uploads(session_id).await.is_ok_and(|count| count == 1) };
    wait::until(Duration::from_secs(30), one).await.context("what lost stays")?;

    // A request that is repeated needs no bytes; with another body, or another media type, it is refused.
    let first = header(&session, "text/plain", &bytes);
    put(&client, first.clone(), &bytes).await?;
    assert_eq!(put(&client, first.clone(), &[]).await?, names[0]);
    let other = BlobHeader { media_type: "text/html".into(), ..first };
    assert_eq!(refused(put(&client, other, &bytes).await).1, "REQUEST_ID_REUSED");
    let html = header(&session, "text/html", &bytes);
    assert_eq!(refused(put(&client, html, &bytes).await), invalid(&["header.media_type"]));
    // Whoever only knows the digest has not shown the bytes.
    let fresh = header(&session, "text/plain", &bytes);
    assert_eq!(refused(put(&client, fresh, &bytes[..100]).await), invalid(&["header.size_bytes"]));
    Ok(())
}

async fn a_task_names_what_is_there(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(ECHO)).await?;
    let mut client = system.client().await?;
    let (session, elsewhere) = (client.session().await?, client.session().await?);
    let name = put(&client, header(&session, "text/plain", b"words"), b"words").await?;
    let foreign = put(&client, header(&elsewhere, "text/plain", b"other"), b"other").await?;
    let absent = format!("{session}/blobs/{}", "00".repeat(32));
    let parts = vec![
        blob("text/plain", &absent),
        blob("text/plain", &foreign),
        blob("image/png", &name),
        blob("text/plain", &name),
    ];
    let request = |task: Task, request_id: &str| StartRunRequest {
        request_id: request_id.into(),
        session: session.clone(),
        task: Some(task),
        ..Default::default()
    };
    let start = request(about("See.", parts), "bad");
    let fields = ["task.input[1].media.blob", "task.input[2].media.blob", "task.input[3].media.media_type"];
    assert_eq!(refused(client.grpc.start_run(start).await), invalid(&fields));
    let huge = words(17 << 20);
    let huge = put(&client, header(&session, "text/plain", huge.as_bytes()), huge.as_bytes()).await?;
    let start = request(about("See.", vec![blob("text/plain", &huge)]), "huge");
    assert_eq!(refused(client.grpc.start_run(start).await), invalid(&["task.input"]));
    // A run that was admitted is found again by its request.
    let start = request(about("See.", vec![blob("text/plain", &name)]), "good");
    let first = client.grpc.start_run(start.clone()).await?.into_inner().run.context("no run")?;
    let second = client.grpc.start_run(start).await?.into_inner().run.context("no run")?;
    assert_eq!(first.name, second.name);
    let ended = client.until(&first.name, |run| run.seal.is_some()).await?;
    assert_eq!(ended.state(), RunState::Succeeded, "{ended:?}");
    Ok(())
}

async fn a_blob_is_read_from_anywhere(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let bytes: Vec<u8> = words(700_001).into_bytes();
    let name = put(&client, header(&session, "application/octet-stream", &bytes), &bytes).await?;
    for offset in [0, 1, 65_536, 262_143, 262_144, 524_288, 700_000, 700_001] {
        assert!(read(&client, &name, offset).await? == bytes[offset as usize..], "from {offset}");
    }
    assert_eq!(refused(read(&client, &name, 700_002).await), invalid(&["offset"]));
    assert_eq!(refused(read(&client, &name, -1).await), invalid(&["offset"]));
    assert_eq!(refused(read(&client, "sessions/x", 0).await), invalid(&["name"]));
    let absent = format!("{session}/blobs/{}", "00".repeat(32));
    assert_eq!(refused(read(&client, &absent, 0).await).0, Code::NotFound);
    Ok(())
}

async fn another_tenant_has_no_part_in_it(options: Options) -> anyhow::Result<()> {
    let mut toml = "[runtime.auth]\nmode = 'api_keys'\n".to_owned();
    let keys: Vec<String> = ["acme", "globex"]
        .iter()
        .map(|tenant| {
            let (key, sha256) = api_key::generate(tenant, &SystemIds);
            toml += &format!(
                "[[runtime.auth.api_keys]]\nid = '{tenant}'\nsha256 = '{sha256}'\ntenant = '{tenant}'\n\
                 principal = 'p'\nenvironment = 'dev'\nscopes = ['*']\n"
            );
            key
        })
        .collect();
    let system = Deployment::start(options.extra(toml)).await?;
    let mut grpc = system.client().await?.grpc;
    let by = |holder: usize| format!("Bearer {}", keys[holder]).parse::<tonic::metadata::MetadataValue<_>>();
    let (mine, theirs) = (by(0)?, by(1)?);
    let mut start = Request::new(StartSessionRequest { request_id: "s".into(), session: Some(Session::default()) });
    start.metadata_mut().insert("authorization", mine.clone());
    let session = grpc.start_session(start).await?.into_inner().session.context("no session")?.name;
    let upload = || tokio_stream::iter(pieces(header(&session, "text/plain", b"secret"), b"secret"));
    let mut request = Request::new(upload());
    request.metadata_mut().insert("authorization", mine.clone());
    let name = grpc.create_blob(request).await?.into_inner().name;
    for (credential, code) in
        [(Some(mine), None), (Some(theirs), Some(Code::NotFound)), (None, Some(Code::Unauthenticated))]
    {
        let mut asking = Request::new(ReadBlobRequest { name: name.clone(), ..Default::default() });
        let mut adding = Request::new(upload());
        if let Some(credential) = credential {
            asking.metadata_mut().insert("authorization", credential.clone());
            adding.metadata_mut().insert("authorization", credential);
        }
        assert_eq!(grpc.read_blob(asking).await.err().map(|status| status.code()), code);
        assert_eq!(grpc.create_blob(adding).await.err().map(|status| status.code()), code);
    }
    Ok(())
}

async fn what_no_task_names_goes_and_what_is_erased_goes(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(ECHO).extra("[session.blobs]\nkeep = '3s'\n")).await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let session = client.session().await?;
    let named = put(&client, header(&session, "text/plain", b"named"), b"named").await?;
    let run = client.run_in(&session, about("See.", vec![blob("text/plain", &named)])).await?.run;
    let unnamed = put(&client, header(&session, "text/plain", b"unnamed"), b"unnamed").await?;
    assert_eq!(read(&client, &unnamed, 0).await?, b"unnamed");
    let session_id = id(&session)?;
    let one = || async { rows.uploads(session_id).await.is_ok_and(|count| count == 1) };
    wait::until(Duration::from_secs(60), one).await.context("it does not expire")?;
    assert_eq!(refused(read(&client, &unnamed, 0).await).0, Code::NotFound);
    assert_eq!(read(&client, &named, 0).await?, b"named");

    client.grpc.end_session(EndSessionRequest { name: session.clone(), ..Default::default() }).await?;
    assert_eq!(read(&client, &named, 0).await?, b"named", "as long as its session's payloads");
    client.grpc.erase_session(EraseSessionRequest { name: session.clone(), ..Default::default() }).await?;
    assert_eq!(refused(read(&client, &named, 0).await).0, Code::NotFound);
    assert_eq!((rows.uploads(session_id).await?, rows.upload_pieces().await?), (0, 0));
    let verified = client.grpc.verify_run(VerifyRunRequest { name: run.name }).await?.into_inner();
    assert!(verified.valid, "{verified:?}");
    Ok(())
}

/// The session ends and is erased under an upload: what has come of it is gone, and its time is not up.
async fn an_upload_is_told_that_its_session_has_ended(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let rows = Rows::open(&system.store_url()).await?;
    let session = client.session().await?;
    let bytes = words(600_000).into_bytes();
    let mut before = pieces(header(&session, "text/plain", &bytes), &bytes);
    let after = before.split_off(6);
    let (sender, receiver) = tokio::sync::mpsc::channel(32);
    for piece in before {
        sender.send(piece).await?;
    }
    let mut grpc = client.grpc.clone();
    let erasing = async {
        let stored = || async { rows.upload_pieces().await.is_ok_and(|count| count > 0) };
        wait::until(Duration::from_secs(30), stored).await.context("nothing is stored")?;
        client.grpc.end_session(EndSessionRequest { name: session.clone(), ..Default::default() }).await?;
        client.grpc.erase_session(EraseSessionRequest { name: session.clone(), ..Default::default() }).await?;
        for piece in after {
            // It may be refused before everything was sent.
            let _ = sender.send(piece).await;
        }
        drop(sender);
        anyhow::Ok(())
    };
    let (outcome, erased) = tokio::join!(grpc.create_blob(ReceiverStream::new(receiver)), erasing);
    erased?;
    let (code, reason, _) = refused(outcome);
    assert_eq!((code, reason.as_str()), (Code::FailedPrecondition, "SESSION_ENDED"));
    assert_eq!((rows.uploads(id(&session)?).await?, rows.upload_pieces().await?), (0, 0));
    Ok(())
}

/// A model that sees, and reads as many bytes as it is sent.
fn seeing() -> String {
    let model = Model {
        context_tokens: 16_000_000,
        max_output_tokens: 16_384,
        input_modalities: &["text", "image"],
        price: (0, 0),
        ..Model::default()
    };
    model.toml()
}

/// What the model was told last: text, or parts of several kinds.
fn heard(system: &Deployment) -> anyhow::Result<Value> {
    let request = system.rehearsal.requests().pop().context("the model was not asked")?;
    let last = request.body["messages"].as_array().and_then(|all| all.last()).context("no message")?.clone();
    Ok(last["content"].clone())
}

/// More than a message between callers and session, or between any two services but session and router, may have.
async fn more_than_a_message_holds_reaches_the_model(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script(ECHO).catalogue(seeing())).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let bytes = words(6 << 20).into_bytes();
    let name = put(&client, header(&session, "image/png", &bytes), &bytes).await?;
    // An image costs no more for its bytes: the usual limits do.
    let mut task = task::question("What do you see?");
    task.input.extend([blob("image/png", &name), blob("image/png", &name)]);
    let followed = client.run_in(&session, task).await?;
    assert_eq!(followed.text(), "Read.", "{:?}", followed.run);
    let parts = heard(&system)?;
    let urls: Vec<&str> =
        parts.as_array().into_iter().flatten().filter_map(|part| part["image_url"]["url"].as_str()).collect();
    assert_eq!(urls.len(), 2, "named twice");
    let whole = format!("data:image/png;base64,{}", BASE64.encode(&bytes));
    assert!(urls.iter().all(|url| *url == whole), "{:?}", urls.iter().map(|url| url.len()).collect::<Vec<_>>());

    let long = format!("{} né fin.", words(5 << 20));
    let name = put(&client, header(&session, "text/plain", long.as_bytes()), long.as_bytes()).await?;
    let alone = Task { without_history: true, ..about("What is this?", vec![blob("text/plain", &name)]) };
    let followed = client.run_in(&session, alone).await?;
    assert_eq!(followed.text(), "Read.", "{:?}", followed.run);
    let told = heard(&system)?;
    let told = told.as_str().context("it is more than text")?;
    assert!(told.contains(&long), "{} bytes of {}", told.len(), long.len());
    let verified = client.grpc.verify_run(VerifyRunRequest { name: followed.run.name }).await?.into_inner();
    assert!(verified.valid && verified.sealed, "{verified:?}");
    Ok(())
}
