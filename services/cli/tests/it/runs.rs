//! Tasks from the question to the answer, and every way in which they may end.

use std::process::Stdio;

use mar_testkit::process::{Process, Signal};
use tokio::io::AsyncWriteExt as _;

use crate::harness::{PATIENCE, Up};

const QUESTION: &str = "How far is the moon?";

#[tokio::test]
async fn in_a_pipe_steps_are_plain_lines_and_the_answer_is_apart() {
    let up = Up::start().await;
    let said = up.say(&["run", QUESTION, "--tools", "docs.*"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    for part in ["384,400 km", "SOURCES", "moon.md#", "LIMITS", "descriptor  sha256:", "seal        sha256:", "steps"] {
        assert!(said.out.contains(part), "{part} in {}", said.out);
    }
    for part in ["admitted   sessions/", "docs.search {\"query\":", "returned ok", "SUCCEEDED"] {
        assert!(said.err.contains(part), "{part} in {}", said.err);
    }
    assert!(!said.out.contains('\x1b') && !said.err.contains('\x1b'), "coloured in a pipe");
    assert!(!said.out.contains("docs.search {"), "steps are not results");
}

#[tokio::test]
async fn json_is_one_object_and_nothing_else() {
    let up = Up::start().await;
    let said = up.say(&["run", QUESTION, "--tools", "docs.search", "--json"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.is_empty(), "{said:?}");
    let run = said.json();
    assert_eq!((run["state"].as_str(), run["exit_code"].as_i64()), (Some("SUCCEEDED"), Some(0)));
    assert!(run["answer"]["citations"][0]["passage_id"].as_str().unwrap().starts_with("moon.md#"));
    assert!(run["descriptor_hash"].as_str().unwrap().starts_with("sha256:"));
    assert!(run["seal"]["hash"].as_str().unwrap().starts_with("sha256:"));
    let events = run["events"].as_array().unwrap();
    let seqs: Vec<_> = events.iter().map(|event| event["seq"].as_i64().unwrap()).collect();
    assert_eq!(seqs, (0..seqs.len() as i64).collect::<Vec<_>>());
    assert_eq!(run["seal"]["head_seq"].as_i64(), seqs.last().copied());
    let call = events.iter().find(|event| event["kind"] == "TOOL_INTENT").unwrap();
    assert_eq!(call["arguments"]["query"], QUESTION);
}

#[tokio::test]
async fn a_run_verifies_with_everything_checked() {
    let up = Up::start().await;
    let run = up.say(&["run", QUESTION, "--tools", "docs.search", "--json"]).await.json();
    let name = run["run"].as_str().unwrap();
    let said = up.say(&["runs", "verify", name]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.starts_with("VERIFIED  ") && !said.out.contains("unchecked"), "{said:?}");
    let json = up.say(&["runs", "verify", name, "--json"]).await.json();
    assert_eq!((json["valid"].as_bool(), json["sealed"].as_bool()), (Some(true), Some(true)), "{json}");
    assert_eq!(json["head"], run["seal"]["head"]);
    assert_eq!(json["exit_code"], 0);

    let (session, _) = name.split_once("/runs/").unwrap();
    let none = up.say(&["runs", "verify", &format!("{session}/runs/01935c1e-0000-7000-8000-000000000000")]).await;
    assert_eq!(none.code, 66, "{none:?}");
}

#[tokio::test]
async fn an_agent_needs_no_tools() {
    let up = Up::start().await;
    let said = up.say(&["run", "hello"]).await;
    assert_eq!(said.code, 0, "{said:?}");
}

#[tokio::test]
async fn a_schema_makes_the_answer_data() {
    let up = Up::start().await;
    let schema = r#"{"type":"object","properties":{"kilometres":{"type":"integer","minimum":1}},"required":["kilometres"],"additionalProperties":false}"#;
    let file = up.file("schema.json", schema);
    let said = up.say(&["run", "-", "--schema", &file, "--json"]).await;
    // Standard input was empty, which the runtime refuses with the field.
    assert_eq!(said.code, 64, "{said:?}");
    assert_eq!(said.json()["error"]["reason"], "INVALID_REQUEST");

    let mut command = up.mar(&["run", "-", "--schema", &file, "--json"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(QUESTION.as_bytes()).await.unwrap();
    drop(input);
    let output = child.wait_with_output().await.unwrap();
    let run: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{run}");
    assert!(run["answer"]["json"]["kilometres"].as_i64().unwrap() >= 1);
}

#[tokio::test]
async fn each_outcome_has_its_exit_code() {
    let up = Up::start().await;
    let halted = up.say(&["run", QUESTION, "--tools", "docs.*", "--max-steps", "1"]).await;
    assert_eq!(halted.code, 2, "{halted:?}");
    assert!(halted.out.contains("HALTED by its limits: max steps"), "{halted:?}");
    let json = up.say(&["run", QUESTION, "--tools", "docs.*", "--max-steps", "1", "--json"]).await.json();
    assert_eq!((json["halt_reason"].as_str(), json["exit_code"].as_i64()), (Some("MAX_STEPS"), Some(2)));

    let policy = up.file("policy.cedar", "forbid (principal, action, resource);");
    let denied = up.say(&["run", QUESTION, "--tools", "docs.search", "--policy", &policy]).await;
    assert_eq!(denied.code, 3, "{denied:?}");
    assert!(denied.out.contains("DENIED POLICY_DENIED"), "{denied:?}");

    let failed = up.say(&["run", QUESTION, "--model", "gpt-0"]).await;
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.out.contains("FAILED") && failed.out.contains("seal        sha256:"), "{failed:?}");

    // Without the tools that were asked for it would only look as if it had worked.
    let failed = up.say(&["run", QUESTION, "--tools", "docs.*,nope.*,docs.gone"]).await;
    assert_eq!(failed.code, 1, "{failed:?}");
    for part in ["FAILED", "NOT_FOUND", "tools/nope.*", "tools/docs.gone"] {
        assert!(failed.out.contains(part), "{part} in {failed:?}");
    }

    let states = up.say(&["runs", "list"]).await.out;
    for state in ["HALTED", "DENIED", "FAILED"] {
        assert!(states.contains(state), "{state} in {states}");
    }
}

#[tokio::test]
async fn a_run_that_no_model_answers_says_who_was_asked_where() {
    let up = Up::start().await;
    let address = up.rehearsal.api_url().trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    let usable = up.say(&["models", "list"]).await;
    assert!(usable.out.contains("when named (not a model)"), "{usable:?}");
    let Up { process, url, rehearsal, folder } = up;
    rehearsal.shutdown().await;
    let say = async |args: &[&str]| {
        let mut command = crate::harness::mar(args);
        command.env("MAR_ENDPOINT", &url);
        crate::harness::say(command).await
    };
    let away = format!("no: rehearsal at {address} cannot be connected to");
    // What was found a moment ago holds for a second.
    let noticed = || async {
        let usable = say(&["models", "list"]).await;
        usable.out.contains(&away) && !usable.out.contains("when named")
    };
    mar_testkit::wait::until(PATIENCE, noticed).await.unwrap();

    let tried = format!("models/rehearsal: UNAVAILABLE (rehearsal at {address} cannot be connected to)");
    let failed = say(&["run", QUESTION]).await;
    assert_eq!(failed.code, 1, "{failed:?}");
    let failure = failed.out.lines().find(|line| line.starts_with("FAILED PROVIDER_UNAVAILABLE")).unwrap();
    assert!(failure.contains(&tried), "{failure}");
    assert!(failed.out.contains("mar models list") && failed.out.contains("mar rehearse"), "{failed:?}");
    assert!(failed.err.contains(&format!("after {tried}")), "{failed:?}");
    let name = failed.out.lines().find_map(|line| line.strip_prefix("run         ")).unwrap();
    let shown = say(&["runs", "show", name]).await;
    assert!(shown.out.contains(&format!("after {tried}")), "{shown:?}");
    let json = say(&["runs", "show", name, "--json"]).await.json();
    let event = json["events"].as_array().unwrap().iter().find(|event| event["kind"] == "GENERATION_FAILED").unwrap();
    assert_eq!(event["models"][0], "models/rehearsal");
    assert_eq!(event["failed_attempts"][0], tried);
    assert!(json["failure"]["message"].as_str().unwrap().contains(&tried), "{json}");
    drop((process, folder));
}

#[tokio::test]
async fn a_refused_request_names_every_violation() {
    let up = Up::start().await;
    let args = ["run", QUESTION, "--max-steps", "-1", "--max-tool-calls", "99999999", "--type", "No Type"];
    let said = up.say(&args).await;
    assert_eq!(said.code, 64, "{said:?}");
    for part in ["INVALID_REQUEST", "max_steps", "max_tool_calls", "type", "will be refused again"] {
        assert!(said.err.contains(part), "{part} in {said:?}");
    }
    assert!(said.out.is_empty());
    let json = up.say(&[&args[..], &["--json"]].concat()).await;
    assert!(json.json()["error"]["violations"].as_array().unwrap().len() >= 3, "{json:?}");
}

#[tokio::test]
async fn a_session_goes_on() {
    let up = Up::start().await;
    let first = up.say(&["run", QUESTION, "--tools", "docs.*", "--json"]).await.json();
    let session = first["session"].as_str().unwrap();
    let id = session.trim_start_matches("sessions/");
    let second = up.say(&["run", "And the sun?", "--session", id, "--tools", "docs.*", "--json"]).await.json();
    assert_eq!(second["session"], session);
    assert_eq!(second["exit_code"], 0, "{second}");
    let listed = up.say(&["runs", "list", "--session", session, "--json"]).await.json();
    assert_eq!(listed["runs"].as_array().unwrap().len(), 2);
    let unknown = up.say(&["run", "x", "--session", "01935c1e-0000-7000-8000-000000000000"]).await;
    assert_eq!(unknown.code, 66, "{unknown:?}");
    assert!(unknown.err.contains("NOT_FOUND"), "{unknown:?}");
}

#[tokio::test]
async fn a_busy_session_is_worth_another_try() {
    let up = Up::scripted("[[rule]]\nreply = { agent = true, delay = '3s' }").await;
    let first = Process::spawn("mar run", up.mar(&["run", QUESTION])).unwrap();
    let line = first.wait_for_line("admitted", PATIENCE).await.unwrap();
    let run = line.split_whitespace().find(|word| word.starts_with("sessions/")).unwrap();
    let session = run.split_once("/runs/").unwrap().0;
    let said = up.say(&["run", "And the sun?", "--session", session]).await;
    assert_eq!(said.code, 75, "{said:?}");
    assert!(said.err.contains("SESSION_BUSY") && said.err.contains("Trying again is safe"), "{said:?}");
}

#[tokio::test]
async fn a_lost_stream_is_resumed_after_the_runtime_was_killed() {
    let mut up = Up::scripted("[[rule]]\nreply = { agent = true, delay = '1500ms' }").await;
    let mut child = Process::spawn("mar run", up.mar(&["run", QUESTION, "--tools", "docs.*"])).unwrap();
    child.wait_for_line("sealed", PATIENCE).await.unwrap();
    up.process.signal(Signal::Kill).unwrap();
    up.process.wait(PATIENCE).await.unwrap();
    child.wait_for_line("resuming", PATIENCE).await.unwrap();
    up.restart().await;
    child.wait_for_line("SUCCEEDED", PATIENCE).await.unwrap();
    child.wait_for_line("384,400 km", PATIENCE).await.unwrap();
    let status = child.wait(PATIENCE).await.unwrap();
    let log = child.log().join("\n");
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(log.matches("sealed     sha256:").count(), 1, "an event was shown twice: {log}");
}
