//! Runs that wait for their caller.

use mar_testkit::process::Process;

use crate::harness::{PATIENCE, Up};

const SCRIPT: &str = r#"
[[rule]]
match = { tool_result_contains = "red" }
reply = { text = "So it is red." }
[[rule]]
match = { last_role = "tool" }
reply = { tool_calls = [{ name = "caller_ask", arguments = { question = "Which colour?" } }] }
[[rule]]
reply = { tool_calls = [{ name = "caller_open", arguments = { path = "a.rs" } }] }
"#;

#[tokio::test]
async fn a_run_says_what_it_waits_for_and_takes_it() {
    let up = Up::scripted(SCRIPT).await;
    let folder = tempfile::tempdir().unwrap();
    let (tools, result) = (folder.path().join("tools.json"), folder.path().join("result.txt"));
    std::fs::write(&tools, r#"[{"name": "open", "description": "Opens a file."}]"#).unwrap();
    std::fs::write(&result, "fn main() {}").unwrap();
    let (tools, result) = (tools.to_str().unwrap(), result.to_str().unwrap());
    let run = ["run", "What is in it?", "--type", "chat", "--caller-tools", tools, "--may-ask"];
    let mut child = Process::spawn("mar run", up.mar(&run)).unwrap();
    let line = child.wait_for_line("mar runs submit", PATIENCE).await.unwrap();
    let name = line.split_whitespace().find(|word| word.starts_with("sessions/")).unwrap().to_owned();
    assert!(line.ends_with("1/0 --result FILE"), "{line}");
    let shown = up.say(&["runs", "show", &name]).await.out;
    assert!(shown.contains(r#"caller.open {"path":"a.rs"} waits for its result"#), "{shown}");

    let wrong = up.say(&["runs", "submit", &name, "1/7", "--result", result]).await;
    assert!(wrong.code == 64 && wrong.err.contains("CALL_STATE"), "{wrong:?}");
    let missing = up.say(&["runs", "submit", &name, "1/0", "--result", "/nowhere/at/all"]).await;
    assert!(missing.code == 64 && missing.err.contains("cannot be read"), "{missing:?}");
    assert_eq!(up.say(&["runs", "submit", &name, "1/0", "--result", result]).await.code, 0);
    child.wait_for_line("mar runs answer", PATIENCE).await.unwrap();
    let waiting = up.say(&["runs", "list", "--state", "waiting"]).await.out;
    assert!(waiting.contains("WAITING for input"), "{waiting}");
    let answered = up.say(&["runs", "answer", &name, "The red one.", "--json"]).await;
    assert_eq!(answered.code, 0, "{answered:?}");
    assert_eq!(answered.json()["run"], name);
    assert_eq!(child.wait(PATIENCE).await.unwrap().code(), Some(0), "{:?}", child.log());
    assert!(child.log().iter().any(|line| line.contains("So it is red.")), "{:?}", child.log());

    std::fs::write(folder.path().join("tools.json"), r#"[{"name": "open", "colour": "red"}]"#).unwrap();
    let refused = up.say(&["run", "x", "--caller-tools", tools]).await;
    assert!(refused.code == 64 && refused.err.contains("declares no tools"), "{refused:?}");
}
