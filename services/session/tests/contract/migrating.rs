//! `session migrate`, as the binary does it.

use std::process::{Command, Output};

use mar_session::{
    config::StoreConfig,
    store::{
        Store as _,
        postgres::{PostgresConfig, PostgresStore},
    },
};
use mar_testkit::postgres::Postgres;

fn migrate(settings: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_session"));
    command.arg("migrate").env_remove("MAR_CONFIG");
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_migrates_as_the_owner_and_needs_no_key() {
    let postgres = Postgres::start().unwrap();
    let url = postgres.url();
    postgres.execute("CREATE ROLE mar_session LOGIN NOINHERIT").unwrap();
    let application = url.replace("postgres@", "mar_session@");
    let settings = [format!("session.store.url=\"{application}\""), format!("session.store.migrate_url=\"{url}\"")];
    // Several at a time: one does it, the others wait.
    let answers: Vec<Output> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..3).map(|_| scope.spawn(|| migrate(&settings))).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for output in &answers {
        assert_eq!(output.status.code(), Some(0), "{}", said(output));
        assert!(said(output).contains("version 1"), "{}", said(output));
    }
    let config = PostgresConfig { auto_migrate: false, ..PostgresConfig::new(application.into()) };
    PostgresStore::connect(&config).await.unwrap().ping().await.unwrap();
}

#[test]
fn the_command_says_what_is_wrong() {
    let port = mar_testkit::ports::free().unwrap();
    let nobody = format!("session.store.url=\"postgres://x@127.0.0.1:{port}/x\"");
    let cases = [
        (vec!["session.store.url=\"mysql://x\"".to_owned()], 64, "session.store.url"),
        (vec!["session.store.migrate_url=\"postgres://x/x\"".to_owned()], 64, "session.store.url"),
        (vec![nobody.clone(), "session.store.pooler=\"transaction\"".to_owned()], 64, "session.store.migrate_url"),
        (vec![nobody.clone(), "session.store.pooler=\"session\"".to_owned()], 64, "session.store.pooler"),
        (vec![nobody], 69, "the session store is not available"),
    ];
    for (settings, code, text) in cases {
        let output = migrate(&settings);
        assert_eq!(output.status.code(), Some(code), "{settings:?} {}", said(&output));
        assert!(said(&output).contains(text), "{settings:?} {}", said(&output));
    }
    // A file is migrated by the service that opens it.
    assert_eq!(migrate(&[]).status.code(), Some(0));
}

#[test]
fn a_service_migrates_itself_only_where_nobody_else_is_named_to() {
    let with = |migrate_url: Option<&str>, auto_migrate| {
        let url = "postgres://app@localhost/mar".to_owned();
        let migrate_url = migrate_url.map(str::to_owned);
        StoreConfig { url, migrate_url, auto_migrate, ..StoreConfig::default() }.postgres().unwrap().auto_migrate
    };
    let owner = Some("postgres://owner@localhost/mar");
    assert!(with(None, None));
    assert!(!with(owner, None));
    assert!(with(owner, Some(true)));
    assert!(!with(None, Some(false)));
    assert!(StoreConfig::default().postgres().is_none());
}
