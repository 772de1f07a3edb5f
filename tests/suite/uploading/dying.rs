//! Uploads whose process dies: what was taken in is whole, or nobody sees it and it goes.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_proto::session::*;
use mar_session::crash::Point;
use mar_testkit::wait;
use mar_tests::{Client, Deployment, Options};
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::{ECHO, about, blob, header, id, pieces, put, read, refused, words};
use crate::verifying::rows::Rows;

both_ways! {
    an_upload_that_dies_with_its_process_is_whole_or_not_there
    an_upload_that_is_killed_is_not_there
    what_a_task_names_stays_when_its_admission_dies
}

const PATIENCE: Duration = Duration::from_secs(60);

/// More than a message holds: 17 whole pieces, and a last one.
fn long() -> Vec<u8> {
    words((17 << 18) + 5).into_bytes()
}

/// The name that the blob has, or will have.
fn name_of(header: &BlobHeader) -> String {
    format!("{}/blobs/{}", header.parent, hex::encode(&header.sha256))
}

/// A run of this session reads it.
async fn is_read(system: &Deployment, client: &mut Client, session: &str, name: &str) -> anyhow::Result<()> {
    let followed = client.run_in(session, about("What is this?", vec![blob("image/png", name)])).await?;
    ensure!(followed.text() == "Read.", "{:?}", followed.run);
    let request = system.rehearsal.requests().pop().context("the model was not asked")?;
    ensure!(request.body.to_string().len() > long().len(), "the model was not told");
    Ok(())
}

/// Waits until nothing is left of a session's uploads but so many that are whole.
async fn only(rows: &Rows, session: &str, whole: i64, pieces: i64) -> anyhow::Result<()> {
    rows.make_uploads_due(id(session)?).await?;
    let left = || async {
        let uploads = rows.uploads(id(session).unwrap_or_default()).await.unwrap_or(-1);
        (uploads, rows.upload_pieces().await.unwrap_or(-1)) == (whole, pieces)
    };
    wait::until(PATIENCE, left).await.context("what died stays")?;
    Ok(())
}

async fn an_upload_that_dies_with_its_process_is_whole_or_not_there(options: Options) -> anyhow::Result<()> {
    let mut system = Deployment::start(options.script(ECHO).catalogue(super::seeing())).await?;
    let rows = Rows::open(&system.store_url()).await?;
    let bytes = long();
    for (point, nth) in
        Point::OF_UPLOADS.iter().map(|point| (point, 1)).chain([(&Point::UploadPiece, 9), (&Point::UploadPiece, 18)])
    {
        let wish = format!("{point}@{nth}");
        system.kill(0).await?;
        system.restart_with(0, vec![("MAR_CRASH_AT", wish.clone())]).await?;
        let mut client = system.client().await?;
        let session = client.session().await?;
        let header = header(&session, "image/png", &bytes);
        let cut = put(&client, header.clone(), &bytes).await;
        ensure!(cut.is_err(), "{wish} is not passed: {cut:?}");
        system.wait_for_crash().await.with_context(|| wish.clone())?;
        ensure!(rows.uploads(id(&session)?).await? == 1, "{wish}");
        system.restart(0).await?;
        let mut client = system.client().await?;
        let name = name_of(&header);
        let done = *point == Point::UploadWhole;
        if done {
            ensure!(read(&client, &name, 0).await? == bytes, "{wish}");
            ensure!(put(&client, header.clone(), &[]).await? == name, "{wish}: the answer needs no bytes");
        } else {
            ensure!(refused(read(&client, &name, 0).await).0 == Code::NotFound, "{wish}: half a blob is read");
            let naming = about("What is this?", vec![blob("image/png", &name)]);
            let refusal = client.start(&session, naming).await.err().context("a run names half a blob")?;
            ensure!(
                refusal.downcast_ref::<tonic::Status>().is_some_and(|status| status.code() == Code::InvalidArgument)
            );
            // Whoever has the same request id, and only its beginning, has shown nothing.
            let short = refused(put(&client, header.clone(), &bytes[..1 << 20]).await);
            ensure!(short.0 == Code::InvalidArgument, "{wish}: {short:?}");
            ensure!(put(&client, header.clone(), &bytes).await? == name, "{wish}");
        }
        is_read(&system, &mut client, &session, &name).await.with_context(|| wish.clone())?;
        only(&rows, &session, 1, 18).await.with_context(|| wish.clone())?;
        ensure!(read(&client, &name, 0).await? == bytes, "{wish}");
        let ending = EndSessionRequest { name: session.clone(), ..Default::default() };
        client.grpc.end_session(ending).await?;
        client.grpc.erase_session(EraseSessionRequest { name: session.clone(), ..Default::default() }).await?;
        ensure!((rows.uploads(id(&session)?).await?, rows.upload_pieces().await?) == (0, 0), "{wish}");
    }
    Ok(())
}

/// At no point that anybody has named: the stream stands still, and the process is killed.
async fn an_upload_that_is_killed_is_not_there(options: Options) -> anyhow::Result<()> {
    let mut system = Deployment::start(options.script(ECHO).catalogue(super::seeing())).await?;
    let rows = Rows::open(&system.store_url()).await?;
    let client = system.client().await?;
    let session = client.clone().session().await?;
    let bytes = long();
    let header = header(&session, "image/png", &bytes);
    let half = tokio_stream::iter(pieces(header.clone(), &bytes[..3 << 20])).chain(tokio_stream::pending());
    let mut hanging = client.grpc.clone();
    let cut = async move { hanging.create_blob(half).await };
    let killed = async {
        let on_its_way = || async { rows.upload_pieces().await.is_ok_and(|pieces| pieces >= 11) };
        wait::until(PATIENCE, on_its_way).await?;
        system.kill(0).await
    };
    let (cut, killed) = tokio::join!(cut, killed);
    killed?;
    ensure!(cut.is_err(), "{cut:?}");
    system.restart(0).await?;
    let mut client = system.client().await?;
    let name = name_of(&header);
    ensure!(refused(read(&client, &name, 0).await).0 == Code::NotFound, "half a blob is read");
    only(&rows, &session, 0, 0).await?;
    ensure!(put(&client, header, &bytes).await? == name);
    is_read(&system, &mut client, &session, &name).await
}

/// The process dies between what keeps a blob and the run that names it, and between the run and its answer.
async fn what_a_task_names_stays_when_its_admission_dies(options: Options) -> anyhow::Result<()> {
    let mut system = Deployment::start(options.script(ECHO).catalogue(super::seeing())).await?;
    let rows = Rows::open(&system.store_url()).await?;
    let bytes = long();
    for point in [Point::AdmitOffered, Point::AdmitCommitted] {
        system.kill(0).await?;
        system.restart_with(0, vec![("MAR_CRASH_AT", point.name().to_owned())]).await?;
        let mut client = system.client().await?;
        let session = client.session().await?;
        let name = put(&client, header(&session, "image/png", &bytes), &bytes).await?;
        let request = StartRunRequest {
            request_id: mar_tests::client::request_id(),
            session: session.clone(),
            task: Some(about("What is this?", vec![blob("image/png", &name)])),
            ..Default::default()
        };
        let cut = client.grpc.start_run(request.clone()).await;
        ensure!(cut.is_err(), "{point} is not passed");
        system.wait_for_crash().await?;
        rows.make_uploads_due(id(&session)?).await?;
        system.restart(0).await?;
        let mut client = system.client().await?;
        let run = client.grpc.start_run(request).await?.into_inner().run.context("no run")?;
        let run = client.until(&run.name, |run| run.seal.is_some()).await?;
        ensure!(run.state() == RunState::Succeeded, "{point}: {run:?}");
        ensure!(read(&client, &name, 0).await? == bytes, "{point}");
        let told = system.rehearsal.requests().pop().context("the model was not asked")?;
        ensure!(told.body.to_string().len() > bytes.len(), "{point}: the model was not told");
    }
    Ok(())
}
