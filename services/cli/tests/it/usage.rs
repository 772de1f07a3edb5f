//! Help texts, wrong arguments, no endpoint.

use clap::CommandFactory as _;

use crate::harness::{Up, mar, say};

/// The arguments that lead to each command, `mar` itself included.
fn commands() -> Vec<Vec<String>> {
    fn add(command: &clap::Command, path: &[String], into: &mut Vec<Vec<String>>) {
        into.push(path.to_vec());
        for below in command.get_subcommands() {
            add(below, &[path, &[below.get_name().to_owned()]].concat(), into);
        }
    }
    let mut found = Vec::new();
    add(&mar_cli::args::Cli::command(), &[], &mut found);
    found
}

#[tokio::test]
async fn every_command_has_help_with_examples() {
    let commands = commands();
    assert!(commands.len() > 40, "{commands:?}");
    for command in commands {
        let words: Vec<_> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let said = say(mar(&words)).await;
        assert_eq!(said.code, 0, "{command:?}");
        assert!(said.out.contains("Examples:") && said.out.contains("Usage: mar"), "{command:?}: {}", said.out);
        assert!(!said.out.contains('\x1b'), "{command:?} is coloured in a pipe");
    }
    let run = say(mar(&["run", "--help"])).await;
    assert!(run.out.contains("Exit codes:") && run.out.contains("HALTED"), "{}", run.out);
    let approve = say(mar(&["approvals", "approve", "--help"])).await;
    for part in ["APPROVAL_NOT_ALLOWED", "APPROVAL_STATE", "Exit codes:"] {
        assert!(approve.out.contains(part), "{part} in {}", approve.out);
    }
}

#[tokio::test]
async fn wrong_arguments_end_with_64_and_not_with_a_runs_code() {
    let wrong: [&[&str]; 17] = [
        &[],
        &["runn"],
        &["run"],
        &["run", "x", "--max-step", "3"],
        &["run", "x", "--max-steps", "many"],
        &["run", "x", "--max-steps", "--json"],
        &["run", "x", "--max-time", "soon"],
        &["runs", "list", "--limit", "0"],
        &["run", "x", "--param", "novalue"],
        &["up", "--listen", "nowhere"],
        &["runs", "list", "--state", "done"],
        &["keys", "api", "--id", "Not Good"],
        &["approvals", "list", "--state", "open"],
        &["approvals", "show", "3-0"],
        &["approvals", "approve"],
        &["sessions", "list", "--state", "closed"],
        &["sessions", "erase"],
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
    let latin = folder.path().join("latin.json");
    std::fs::write(&latin, b"{\"title\": \"caf\xe9\"}").unwrap();
    let (broken, latin) = (broken.to_str().unwrap(), latin.to_str().unwrap());
    let wrong = [("/no/such/schema.json", "cannot be read"), (broken, "is not JSON"), (latin, "is not UTF-8")];
    for (file, text) in wrong {
        let said = say(mar(&["run", "x", "--schema", file])).await;
        assert_eq!(said.code, 64, "{said:?}");
        assert!(said.err.contains(file) && said.err.contains(text), "{said:?}");
    }
}

#[tokio::test]
async fn all_files_that_cannot_be_used_are_named_together() {
    let files = ["/no/such/schema.json", "/no/such/policy.cedar", "/no/such/tools.json"];
    let flags = ["--schema", files[0], "--policy", files[1], "--caller-tools", files[2]];
    let said = say(mar(&[&["run", "x"], &flags[..]].concat())).await;
    assert_eq!(said.code, 64, "{said:?}");
    for file in files {
        assert!(said.err.contains(&format!("{file} cannot be read")), "{file} in {said:?}");
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
}

#[tokio::test]
async fn an_endpoint_that_is_none_is_told_apart_from_one_that_is_silent() {
    for (address, text) in
        [("garbage", "names no port"), ("ftp://x", "no http or https URL"), ("localhost:99999", "port from 1 to 65535")]
    {
        for command in [&["run", "x"][..], &["runs", "list"], &["models", "list"], &["tools", "list"], &["render", "x"]]
        {
            let said = say(mar(&[command, &["--endpoint", address]].concat())).await;
            assert_eq!(said.code, 64, "{command:?}: {said:?}");
            assert!(said.err.contains(address) && said.err.contains(text), "{said:?}");
        }
    }
    let mut by_variable = mar(&["runs", "list", "--json"]);
    by_variable.env("MAR_ENDPOINT", "garbage");
    let said = say(by_variable).await;
    assert_eq!((said.code, said.json()["exit_code"].as_i64()), (64, Some(64)), "{said:?}");
}

#[tokio::test]
async fn limits_below_zero_are_values_and_not_options() {
    for (option, value, text) in [
        ("--max-cost", "-3", "an amount of 0 or more"),
        ("--max-cost", "-0.5", "an amount of 0 or more"),
        ("--max-time", "-5s", "a time such as 90s"),
        ("--max-steps", "-x", "invalid digit"),
    ] {
        let said = say(mar(&["run", "x", option, value])).await;
        assert_eq!(said.code, 64, "{said:?}");
        assert!(said.err.contains(option) && said.err.contains(value) && said.err.contains(text), "{said:?}");
        assert!(!said.err.contains("unexpected argument"), "{said:?}");
    }
    let listed = say(mar(&["runs", "list", "--limit", "-1"])).await;
    assert!(listed.code == 64 && listed.err.contains("-1 is not in 1..=100000"), "{listed:?}");

    // What only the runtime can judge, it does, all at once.
    let up = Up::start().await;
    let said = up.say(&["run", "x", "--max-steps", "-3", "--max-tool-calls", "-4"]).await;
    assert_eq!(said.code, 64, "{said:?}");
    for part in ["INVALID_REQUEST", "max_steps", "max_tool_calls"] {
        assert!(said.err.contains(part), "{part} is not in {said:?}");
    }
}

#[tokio::test]
async fn a_task_beyond_the_size_of_a_message_is_not_to_be_tried_again() {
    let up = Up::start().await;
    let path = up.file("long.txt", &"a long task ".repeat(2 << 20));
    let mut command = up.mar(&["run", "-"]);
    command.stdin(std::fs::File::open(path).unwrap());
    let said = say(command).await;
    assert_eq!(said.code, 64, "{said:?}");
    assert!(said.err.contains("MESSAGE_TOO_LARGE") && said.err.contains("will be refused again"), "{said:?}");
}
