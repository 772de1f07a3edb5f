//! `agent-generator migrate`, as the binary does it.

use std::process::{Command, Output};

use mar_agent_generator::store::{
    PostgresStore, Store as _,
    postgres::{OpenError, PostgresConfig},
};
use mar_testkit::postgres::Postgres;
use tokio::task::block_in_place;

fn migrate(settings: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent-generator"));
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
    let postgres = block_in_place(|| Postgres::start().unwrap());
    let url = postgres.url();
    block_in_place(|| postgres.execute("CREATE ROLE mar_agent LOGIN NOINHERIT")).unwrap();
    let application = url.replace("postgres@", "mar_agent@");
    let config = PostgresConfig { auto_migrate: false, ..PostgresConfig::new(application.clone().into()) };
    let early = PostgresStore::connect(&config).await;
    assert!(matches!(early, Err(OpenError::Schema { found: 0, .. })), "{early:?}");
    let settings = [
        format!("agent_generator.store.url=\"{application}\""),
        format!("agent_generator.store.migrate_url=\"{url}\""),
    ];
    // Several at a time: one does it, the others wait.
    let answers: Vec<Output> = block_in_place(|| {
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..3).map(|_| scope.spawn(|| migrate(&settings))).collect();
            running.into_iter().map(|one| one.join().unwrap()).collect()
        })
    });
    for output in &answers {
        assert_eq!(output.status.code(), Some(0), "{}", said(output));
        assert!(said(output).contains("version 1"), "{}", said(output));
    }
    PostgresStore::connect(&config).await.unwrap().ping().await.unwrap();
}

#[test]
fn the_command_says_what_is_wrong() {
    let port = mar_testkit::ports::free().unwrap();
    let nobody = format!("agent_generator.store.url=\"postgres://x@127.0.0.1:{port}/x\"");
    let cases = [
        (vec!["agent_generator.store.url=\"mysql://x\"".to_owned()], 64, "agent_generator.store.url"),
        (vec!["agent_generator.store.migrate_url=\"postgres://x/x\"".to_owned()], 64, "agent_generator.store.url"),
        (
            vec![nobody.clone(), "agent_generator.store.pooler=\"transaction\"".to_owned()],
            64,
            "agent_generator.store.migrate_url",
        ),
        (vec![nobody], 69, "agent-generator migrate: the descriptor store is not available"),
    ];
    for (settings, code, text) in cases {
        let output = migrate(&settings);
        assert_eq!(output.status.code(), Some(code), "{settings:?} {}", said(&output));
        assert!(said(&output).contains(text), "{settings:?} {}", said(&output));
    }
    // A file is migrated by the service that opens it.
    assert_eq!(migrate(&[]).status.code(), Some(0));
}
