//! A standby in the place of the Postgres that was.

use std::time::Duration;

use mar_session::store::{
    Promotion, Store,
    postgres::{PostgresConfig, PostgresStore},
};
use mar_testkit::{
    door::Door,
    postgres::{Postgres, standby},
};

use crate::rows::OWNER;

const PATIENCE: Duration = Duration::from_secs(2);

async fn look(store: &PostgresStore) -> Option<Promotion> {
    store.promotion().await.unwrap()
}

/// A promotion as the store sees it that knew the primary, whose standby had heard the last of it, or not.
async fn promoted(hears_all: bool) -> Option<Promotion> {
    let primary =
        standby::small().into_iter().fold(Postgres::builder(), |wanted, (name, value)| wanted.setting(name, value));
    let primary = primary.start().unwrap();
    let door = Door::open(primary.port()).await.unwrap();
    let url = primary.url().replace(&format!(":{}/", primary.port()), &format!(":{}/", door.port()));
    let store = PostgresStore::connect(&PostgresConfig::new(url.into())).await.unwrap();
    let standby = primary.standby().unwrap();
    assert_eq!([look(&store).await, look(&store).await], [None, None], "the same server");
    if !hears_all {
        standby.stop_following().unwrap();
    }
    store.beat(OWNER, PATIENCE).await.unwrap();
    assert_eq!(look(&store).await, None, "the same server");
    if hears_all {
        primary.wait_for_standbys().unwrap();
        // It returns when the standby has it, and everything before.
        store.beat(OWNER, PATIENCE).await.unwrap();
    }
    primary.crash().unwrap();
    standby.promote().unwrap();
    door.lead_to(standby.port());
    let seen = look(&store).await;
    assert_eq!(look(&store).await, None, "it is told once");
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_standby_had_not_heard_is_missing() {
    let promotion = promoted(false).await.unwrap();
    assert_eq!(promotion.timeline, 2);
    assert!(promotion.missing_bytes.unwrap() > 0, "{promotion:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_a_standby_had_heard_nothing_is_missing() {
    assert_eq!(promoted(true).await, Some(Promotion { timeline: 2, missing_bytes: Some(0) }));
}
