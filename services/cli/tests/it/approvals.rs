//! Calls that wait for people, with a key for each of them.

use std::fmt::Write as _;

use mar_testkit::process::Process;
use mar_testkit::rehearsal::Script;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::{PATIENCE, Said, Up, answering, mar, say};

const QUESTION: &str = "How far is the moon?";
const TWO: &str = r#"@approvers("office") @approvals("2") @expires("90m")"#;

/// A runtime whose callers are ada (who wants things), bob and cid (of the office), and dan (of no group).
struct Office {
    up: Up,
    keys: Vec<String>,
    _folder: TempDir,
}

impl Office {
    async fn open() -> Self {
        let mut toml = "[runtime.auth]\nmode = 'api_keys'\n".to_owned();
        let mut keys = Vec::new();
        for (id, groups) in
            [("ada", &["office"][..]), ("bob", &["office"]), ("cid", &["office", "others"]), ("dan", &[])]
        {
            let mut args = vec!["keys", "api", "--id", id, "--tenant", "acme", "--scope", "*"];
            for group in groups {
                args.extend(["--group", group]);
            }
            let made = say(mar(&args)).await;
            assert_eq!(made.code, 0, "{made:?}");
            let (_, entry) = made.err.split_once("[[runtime").unwrap();
            writeln!(toml, "[[runtime{entry}").unwrap();
            keys.push(made.out.trim().to_owned());
        }
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("mar.toml");
        std::fs::write(&config, toml).unwrap();
        let up = Up::with(Script::default(), &["--config", config.to_str().unwrap()]).await;
        Self { up, keys, _folder: folder }
    }

    fn mar(&self, who: usize, args: &[&str]) -> Command {
        let mut command = self.up.mar(args);
        command.env("MAR_API_KEY", &self.keys[who]);
        command
    }

    async fn say(&self, who: usize, args: &[&str]) -> Said {
        say(self.mar(who, args)).await
    }

    /// Ada runs a task whose call waits; answers the process, and the name of the approval.
    async fn ask(&self, asked: &str) -> (Process, String) {
        let policy = self.up.file("policy.cedar", &policy(asked));
        let args = ["run", QUESTION, "--tools", "docs.search", "--policy", &policy];
        let child = Process::spawn("mar run", self.mar(0, &args)).unwrap();
        let line = child.wait_for_line("waits for approval", PATIENCE).await.unwrap();
        assert!(line.contains(": mar approvals show sessions/"), "{line}");
        let name = line.split_whitespace().last().unwrap().to_owned();
        (child, name)
    }

    async fn pending(&self) -> Vec<Value> {
        let said = self.say(1, &["approvals", "list", "--json"]).await;
        assert!(said.code == 0 && said.err.is_empty(), "{said:?}");
        said.json()["approvals"].as_array().unwrap().clone()
    }
}

fn policy(asked: &str) -> String {
    format!(
        "@id(\"look\") @verdict(\"require_approval\") {asked} @message(\"Searches are looked at.\") \
         permit (principal, action == Action::\"callTool\", resource);\n\
         @id(\"rest\") permit (principal, action in [Action::\"selectModel\", Action::\"shapePrompt\", \
         Action::\"listTool\", Action::\"receiveResult\"], resource);"
    )
}

#[tokio::test]
async fn two_of_a_group_let_a_call_happen() {
    let office = Office::open().await;
    let (mut child, name) = office.ask(TWO).await;
    let (run, id) = name.split_once("/approvals/").unwrap();
    let run_id = run.rsplit('/').next().unwrap();

    let pending = office.pending().await;
    assert_eq!(pending.len(), 1, "{pending:?}");
    assert_eq!((pending[0]["name"].as_str(), pending[0]["tool"].as_str()), (Some(&*name), Some("tools/docs.search")));
    let table = office.say(1, &["approvals", "list"]).await.out;
    for part in ["AGE", "EXPIRES IN", "DECISIONS", "docs.search", "office", "0/2", &name] {
        assert!(table.contains(part), "{part} in {table}");
    }
    assert!(table.contains("1h 30m") || table.contains("1h 29m"), "{table}");
    let shown = office.say(1, &["approvals", "show", &format!("{}/{id}", &run_id[..18])]).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    for part in ["PENDING", "docs.search", "\"query\": \"How far is the moon?\"", "Searches are looked at.", "sha256:"]
    {
        assert!(shown.out.contains(part), "{part} in {shown:?}");
    }
    let exact = office.say(1, &["approvals", "show", &name, "--json"]).await.json();
    let event = office.say(0, &["runs", "show", run, "--json"]).await.json();
    assert_eq!(event["held_calls"][0]["arguments_json"], exact["arguments_json"]);
    assert_eq!(
        (event["wait_reason"].as_str(), &event["held_calls"][0]["approval"]),
        (Some("APPROVAL"), &exact["name"])
    );
    let listed = office.say(0, &["runs", "list"]).await.out;
    assert!(listed.contains("WAITING for approval"), "{listed}");

    let first = office.say(1, &["approvals", "approve", &format!("{run_id}/approvals/{id}"), "--yes"]).await;
    assert!(first.code == 0 && first.out.starts_with("PENDING, needs 1 more of group office"), "{first:?}");
    assert!(first.err.contains("\"query\": \"How far is the moon?\""), "the call is shown: {first:?}");
    let again = office.say(1, &["approvals", "approve", &name, "--yes"]).await;
    assert!(again.code == 64 && again.err.contains("APPROVAL_STATE"), "{again:?}");
    let second = office.say(2, &["approvals", "approve", &name, "--yes", "--comment", "as agreed", "--json"]).await;
    assert!(second.code == 0 && second.err.is_empty(), "{second:?}");
    let second = second.json();
    assert_eq!(
        (second["state"].as_str(), second["decisions"][1]["comment"].as_str()),
        (Some("APPROVED"), Some("as agreed"))
    );

    assert_eq!(child.wait(PATIENCE).await.unwrap().code(), Some(0), "{:?}", child.log());
    let log = child.log().join("\n");
    for part in ["approved by bob, waits for more", "approved by cid: as agreed", "384,400 km"] {
        assert!(log.contains(part), "{part} in {log}");
    }
    assert!(office.pending().await.is_empty());
    let none = office.say(1, &["approvals", "list"]).await;
    assert!(none.code == 0 && none.out.is_empty() && none.err.contains("Nothing waits"), "{none:?}");
    let all = office.say(1, &["approvals", "list", "--state", "all", "--run", run_id]).await.out;
    assert!(all.contains("APPROVED") && all.contains("2/2"), "{all}");
}

#[tokio::test]
async fn one_refusal_is_enough_and_the_model_is_told() {
    let office = Office::open().await;
    let (mut child, name) = office.ask(TWO).await;
    let denied = office.say(2, &["approvals", "deny", &name, "--yes", "--comment", "not today"]).await;
    assert!(denied.code == 0 && denied.out.starts_with("DENIED  "), "{denied:?}");
    child.wait(PATIENCE).await.unwrap();
    let told: String = office.up.rehearsal.requests().iter().map(|request| request.body.to_string()).collect();
    assert!(told.contains("APPROVAL_DENIED") && told.contains("not today"), "{told}");
    assert!(child.log().join("\n").contains("denied by cid: not today"), "{:?}", child.log());
}

#[tokio::test]
async fn who_wants_a_call_does_not_decide_on_it_and_scripts_say_yes() {
    let office = Office::open().await;
    let (mut child, name) = office.ask(TWO).await;
    for (who, text) in [(0, "own principal"), (3, "not of the group")] {
        let said = office.say(who, &["approvals", "approve", &name, "--yes"]).await;
        assert_eq!(said.code, 77, "{said:?}");
        assert!(said.err.contains("APPROVAL_NOT_ALLOWED") && said.err.contains(text), "{said:?}");
    }
    for command in ["approve", "deny"] {
        let said = office.say(1, &["approvals", command, &name]).await;
        assert!(said.code == 64 && said.err.contains("--yes") && said.err.contains("docs.search"), "{said:?}");
        let json = office.say(1, &["approvals", command, &name, "--json"]).await;
        assert!(json.err.is_empty() && json.json()["exit_code"] == 64, "{json:?}");
    }
    let nowhere = name.replace("/approvals/", "/approvals/9");
    assert_eq!(office.say(1, &["approvals", "show", &nowhere]).await.code, 66);
    assert_eq!(office.pending().await[0]["decisions"].as_array().unwrap().len(), 0);

    let run = name.split_once("/approvals/").unwrap().0;
    assert_eq!(office.say(0, &["runs", "cancel", run]).await.code, 0);
    assert_eq!(child.wait(PATIENCE).await.unwrap().code(), Some(4));
    let late = office.say(1, &["approvals", "approve", &name]).await;
    assert!(late.code == 64 && late.err.contains("APPROVAL_STATE"), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_it_asks() {
    let office = Office::open().await;
    let (mut child, name) = office.ask("@expires(\"10m\")").await;
    let line = format!("approvals approve {name}");
    let by_bob = [("MAR_API_KEY", office.keys[1].as_str())];
    for typed in ["\n", "n\n", "maybe\n"] {
        let said = answering(&office.up.url, &line, &by_bob, typed);
        assert_eq!(said.code, 130, "{}", said.out);
        assert!(
            said.out.contains("Approve this call? [y/N]") && said.out.contains("nothing was decided"),
            "{}",
            said.out
        );
    }
    assert_eq!(office.pending().await.len(), 1);
    let said = answering(&office.up.url, &line, &by_bob, "y\n");
    assert!(said.code == 0 && said.out.contains("APPROVED  sessions/"), "{}", said.out);
    assert_eq!(child.wait(PATIENCE).await.unwrap().code(), Some(0), "{:?}", child.log());
}

#[tokio::test]
async fn without_keys_nobody_is_there_to_decide() {
    let up = Up::start().await;
    let policy = up.file("policy.cedar", &policy(""));
    let args = ["run", QUESTION, "--tools", "docs.search", "--policy", &policy];
    let child = Process::spawn("mar run", up.mar(&args)).unwrap();
    let line = child.wait_for_line("waits for approval", PATIENCE).await.unwrap();
    assert!(line.contains("of anybody else: mar approvals show"), "{line}");
    let name = line.split_whitespace().last().unwrap();
    let said = up.say(&["approvals", "deny", name, "--yes"]).await;
    assert!(said.code == 77 && said.err.contains("APPROVAL_NOT_ALLOWED") && said.err.contains("--key"), "{said:?}");
}
