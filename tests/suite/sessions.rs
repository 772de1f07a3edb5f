//! Sessions and what changes them.

use anyhow::Context as _;
use mar_proto::session::{EndSessionRequest, Session, SessionState, UpdateSessionRequest};
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options};
use prost_types::FieldMask;
use tonic::Status;
use tonic_types::StatusExt as _;

both_ways! {
    a_change_counts_once_and_only_on_what_was_read
    an_end_carries_a_request_id_too
}

fn purpose(session: &Session, etag: &str, purpose: &str) -> UpdateSessionRequest {
    UpdateSessionRequest {
        request_id: request_id(),
        session: Some(Session {
            name: session.name.clone(),
            etag: etag.into(),
            purpose: purpose.into(),
            ..Session::default()
        }),
        update_mask: Some(FieldMask { paths: vec!["purpose".into()] }),
    }
}

async fn update(client: &mut Client, request: &UpdateSessionRequest) -> Result<Session, Status> {
    Ok(client.grpc.update_session(request.clone()).await?.into_inner().session.unwrap_or_default())
}

fn reason(refused: Result<Session, Status>) -> anyhow::Result<String> {
    let status = refused.err().context("it was let through")?;
    Ok(status.get_details_error_info().context("a refusal without a reason")?.reason)
}

async fn a_change_counts_once_and_only_on_what_was_read(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let name = client.session().await?;
    let read = |client: &Client| {
        let (mut grpc, name) = (client.grpc.clone(), name.clone());
        async move {
            let request = mar_proto::session::GetSessionRequest { name };
            anyhow::Ok(grpc.get_session(request).await?.into_inner().session.context("no session")?)
        }
    };
    let first = read(&client).await?;

    let change = purpose(&first, &first.etag, "one");
    let changed = update(&mut client, &change).await?;
    assert_ne!(changed.etag, first.etag);
    // A repetition finds its own change, though the etag that it brings is old by now.
    assert_eq!(update(&mut client, &change).await?, changed);
    // Another request on the old state is refused, also when it asks for what is there already.
    for wanted in ["two", "one"] {
        assert_eq!(reason(update(&mut client, &purpose(&first, &first.etag, wanted)).await)?, "ETAG_MISMATCH");
    }
    assert_eq!(read(&client).await?, changed);
    let other = UpdateSessionRequest { session: purpose(&first, "", "three").session, ..change.clone() };
    assert_eq!(reason(update(&mut client, &other).await)?, "REQUEST_ID_REUSED");

    // Of two that have read the same one wins.
    let (left, right) = (purpose(&changed, &changed.etag, "left"), purpose(&changed, &changed.etag, "right"));
    let mut again = client.clone();
    let (left, right) = tokio::join!(update(&mut client, &left), update(&mut again, &right));
    let lost = if left.is_ok() { right } else { left };
    assert_eq!(reason(lost)?, "ETAG_MISMATCH");

    // After the end nothing changes, and what was changed before is still told.
    client.grpc.end_session(EndSessionRequest { name: name.clone(), ..Default::default() }).await?;
    assert_eq!(update(&mut client, &change).await?.state(), SessionState::Ended);
    assert_eq!(reason(update(&mut client, &purpose(&first, "", "late")).await)?, "SESSION_ENDED");
    Ok(())
}

async fn an_end_carries_a_request_id_too(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let (first, second) = (client.session().await?, client.session().await?);
    let end = |name: &str, id: &str| EndSessionRequest { name: name.to_owned(), request_id: id.to_owned() };
    let why = |status: Option<Status>| {
        let status = status.context("it was let through")?;
        anyhow::Ok(status.get_details_error_info().context("no reason")?.reason)
    };
    let refused = client.grpc.end_session(end(&first, "not printable: \u{e9}")).await.err();
    assert_eq!(why(refused)?, "INVALID_REQUEST");
    client.grpc.end_session(end(&first, "end-1")).await?;
    client.grpc.end_session(end(&first, "end-1")).await?;
    assert_eq!(why(client.grpc.end_session(end(&second, "end-1")).await.err())?, "REQUEST_ID_REUSED");
    assert_eq!(why(client.grpc.end_session(end(&second, &"x".repeat(129))).await.err())?, "INVALID_REQUEST");
    Ok(())
}
