//! Runs that are paused and go on.

use mar_testkit::process::Process;

use crate::harness::{PATIENCE, Up, on_terminal};

const SLOW: &str = "[[rule]]\nreply = { agent = true, delay = '1500ms' }";
const QUESTION: &str = "How far is the moon?";

#[tokio::test]
async fn a_paused_run_says_how_to_go_on_and_does() {
    let up = Up::scripted(SLOW).await;
    let mut child = Process::spawn("mar run", up.mar(&["run", QUESTION, "--tools", "docs.*"])).unwrap();
    let line = child.wait_for_line("admitted", PATIENCE).await.unwrap();
    let run = line.split_whitespace().last().unwrap();
    child.wait_for_line("sealed", PATIENCE).await.unwrap();
    let pausing = up.say(&["runs", "pause", run, "--json"]).await.json();
    assert!(pausing["pausing"] == true || pausing["wait_reason"] == "PAUSED", "{pausing}");
    let told = child.wait_for_line("paused: mar runs resume", PATIENCE).await.unwrap();
    assert!(told.ends_with(run), "{told}");
    let again = up.say(&["runs", "pause", run.rsplit('/').next().unwrap()]).await;
    assert!(again.code == 0 && again.out.starts_with("WAITING, paused  sessions/"), "{again:?}");
    assert!(again.err.contains(&format!("mar runs resume {run}")), "{again:?}");
    let shown = up.say(&["runs", "show", run]).await.out;
    assert!(shown.contains("WAITING, paused  sessions/") && shown.contains("paused: mar runs resume"), "{shown}");

    let resumed = up.say(&["runs", "resume", run]).await;
    assert!(resumed.code == 0 && !resumed.out.contains("paused"), "{resumed:?}");
    assert_eq!(child.wait(PATIENCE).await.unwrap().code(), Some(0), "{:?}", child.log());
    for command in ["pause", "resume"] {
        let ended = up.say(&["runs", command, run]).await;
        assert!(ended.code == 64 && ended.err.contains("RUN_STATE"), "{command}: {ended:?}");
    }
    let json = up.say(&["runs", "resume", run, "--json"]).await.json();
    assert_eq!((json["error"]["reason"].as_str(), json["exit_code"].as_i64()), (Some("RUN_STATE"), Some(64)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_a_paused_run_as_one() {
    let up = Up::scripted(SLOW).await;
    let mut child = Process::spawn("mar run", up.mar(&["run", QUESTION, "--tools", "docs.*"])).unwrap();
    let line = child.wait_for_line("admitted", PATIENCE).await.unwrap();
    let run = line.split_whitespace().last().unwrap().to_owned();
    assert_eq!(up.say(&["runs", "pause", &run]).await.code, 0);
    child.wait_for_line("paused: mar runs resume", PATIENCE).await.unwrap();
    let url = up.url.clone();
    let watched = run.clone();
    let watching = tokio::task::spawn_blocking(move || on_terminal(&url, &format!("runs watch {watched}"), &[]));
    // Long enough for the live line to have been drawn.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(up.say(&["runs", "resume", &run]).await.code, 0);
    let said = watching.await.unwrap();
    assert_eq!(said.code, 0, "{}", said.out);
    assert!(said.out.contains("paused:") && said.out.contains("mar runs resume sessions/"), "{}", said.out);
    assert!(said.out.contains("384,400 km"), "{}", said.out);
    assert_eq!(child.wait(PATIENCE).await.unwrap().code(), Some(0), "{:?}", child.log());
}
