//! Names of agents, and both stores.

use mar_proto::agent::GetAgentRequest;
use mar_proto::types::ErrorReason;
use mar_runtime::status::Reason;
use mar_testkit::postgres::Postgres;

use crate::harness::{Harness, request, task};

#[tokio::test]
async fn names_have_one_form() {
    let mut harness = Harness::start().await;
    for name in [
        "",
        "agents/",
        "agents/abc",
        &format!("agents/sha256:{}", "0".repeat(64)),
        &format!("agents/{}", "A".repeat(64)),
        &"0".repeat(64),
    ] {
        let status = harness.client.get_agent(GetAgentRequest { name: name.into() }).await.unwrap_err();
        assert_eq!(Reason::of(&status), Some(ErrorReason::InvalidRequest), "{name}");
    }
}

#[tokio::test]
async fn postgres_serves_as_sqlite_does() {
    let database = tokio::task::spawn_blocking(|| Postgres::shared().unwrap().database().unwrap()).await.unwrap();
    let mut on_postgres = Harness::with(|setup| setup.config.store.url = database.to_string()).await;
    let mut on_sqlite = Harness::start().await;
    let one = on_postgres.client.generate_agent(request(task(&["docs.*"]))).await.unwrap().into_inner();
    let other = on_sqlite.client.generate_agent(request(task(&["docs.*"]))).await.unwrap().into_inner();
    assert_eq!(one, other);
    let get = GetAgentRequest { name: one.name };
    let from_postgres = on_postgres.client.get_agent(get.clone()).await.unwrap().into_inner();
    let from_sqlite = on_sqlite.client.get_agent(get).await.unwrap().into_inner();
    assert_eq!(from_postgres.descriptor, from_sqlite.descriptor);
}
