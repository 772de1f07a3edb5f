//! Help texts, wrong arguments, no endpoint.

use crate::harness::{mar, say};

const COMMANDS: [&[&str]; 15] = [
    &["up"],
    &["run"],
    &["runs"],
    &["runs", "list"],
    &["runs", "show"],
    &["runs", "watch"],
    &["runs", "cancel"],
    &["models", "list"],
    &["tools", "list"],
    &["render"],
    &["rehearse"],
    &["keys"],
    &["keys", "new"],
    &["keys", "api"],
    &[],
];

#[tokio::test]
async fn every_command_has_help_with_examples() {
    for command in COMMANDS {
        let said = say(mar(&[command, &["--help"]].concat())).await;
        assert_eq!(said.code, 0, "{command:?}");
        assert!(said.out.contains("Examples:") && said.out.contains("Usage: mar"), "{command:?}: {}", said.out);
        assert!(!said.out.contains('\x1b'), "{command:?} is coloured in a pipe");
    }
    let run = say(mar(&["run", "--help"])).await;
    assert!(run.out.contains("Exit codes:") && run.out.contains("HALTED"), "{}", run.out);
}

#[tokio::test]
async fn wrong_arguments_end_with_64_and_not_with_a_runs_code() {
    let wrong: [&[&str]; 10] = [
        &[],
        &["runn"],
        &["run"],
        &["run", "x", "--max-step", "3"],
        &["run", "x", "--max-steps", "many"],
        &["run", "x", "--max-cost", "-1"],
        &["run", "x", "--param", "novalue"],
        &["up", "--listen", "nowhere"],
        &["runs", "list", "--state", "done"],
        &["keys", "api", "--id", "Not Good"],
    ];
    for args in wrong {
        let said = say(mar(args)).await;
        assert_eq!(said.code, 64, "{args:?}: {said:?}");
        assert!(said.out.is_empty() && !said.err.is_empty(), "{args:?}: {said:?}");
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.json");
    std::fs::write(&broken, "{\"type\": ").unwrap();
    for (file, text) in [("/no/such/schema.json", "cannot be read"), (broken.to_str().unwrap(), "is not JSON")] {
        let said = say(mar(&["run", "x", "--schema", file])).await;
        assert_eq!(said.code, 64, "{said:?}");
        assert!(said.err.contains(file) && said.err.contains(text), "{said:?}");
    }
}

#[tokio::test]
async fn without_an_endpoint_it_says_how_to_start_one() {
    let port = mar_testkit::ports::free().unwrap();
    let address = format!("127.0.0.1:{port}");
    for command in [&["run", "x"][..], &["runs", "list"], &["models", "list"], &["tools", "list"], &["render", "x"]] {
        let named = say(mar(&[command, &["--endpoint", &address]].concat())).await;
        assert_eq!(named.code, 69, "{command:?}: {named:?}");
        assert!(named.err.contains("PEER_UNAVAILABLE") && named.err.contains(&address), "{named:?}");
        assert!(named.err.contains("Trying again is safe"), "{named:?}");
        assert!(!named.err.contains("Status {") && !named.err.contains("Error("), "a debug dump: {named:?}");
        let json = say(mar(&[command, &["--endpoint", &address, "--json"]].concat())).await;
        assert_eq!((json.code, json.json()["exit_code"].as_i64()), (69, Some(69)));
        assert_eq!(json.json()["error"]["retry"]["safe"], true);
        assert!(json.err.is_empty(), "{json:?}");
    }
    let wrong = say(mar(&["runs", "list", "--endpoint", "ftp://x"])).await;
    assert_eq!(wrong.code, 64, "{wrong:?}");
}
