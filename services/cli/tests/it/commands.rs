//! Lists, details and what is printed of them.

use crate::harness::{Up, mar, say};

#[tokio::test]
async fn lists_are_tables_and_json() {
    let up = Up::start().await;
    let models = up.say(&["models", "list"]).await;
    assert!(models.code == 0 && models.out.starts_with("MODEL") && models.out.contains("rehearsal"), "{models:?}");
    let tools = up.say(&["tools", "list"]).await;
    assert!(tools.out.contains("docs.search") && tools.out.contains("docs.list"), "{tools:?}");
    let one = up.say(&["tools", "list", "docs.search", "--json"]).await.json();
    assert_eq!(one["tools"].as_array().unwrap().len(), 1);
    assert_eq!(one["tools"][0]["input_schema"]["type"], "object");
    let empty = up.say(&["runs", "list"]).await;
    assert!(empty.code == 0 && empty.out.is_empty() && empty.err.contains("mar run"), "{empty:?}");
    let none = up.say(&["runs", "list", "--json"]).await.json();
    assert_eq!(none["runs"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn a_run_is_found_by_the_start_of_its_id() {
    let up = Up::start().await;
    let run = up.say(&["run", "How far is the moon?", "--tools", "docs.*", "--json"]).await.json();
    let name = run["run"].as_str().unwrap();
    let id = name.rsplit('/').next().unwrap();
    let shown = up.say(&["runs", "show", &id[..18]]).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.out.contains("docs.search") && shown.out.contains(name), "{shown:?}");
    let json = up.say(&["runs", "show", name, "--json"]).await.json();
    assert_eq!(json["events"], run["events"], "listed events are those that were watched");
    assert_eq!(json["seal"], run["seal"]);
    let watched = up.say(&["runs", "watch", id, "--json"]).await;
    assert_eq!((watched.code, &watched.json()["events"]), (0, &run["events"]));
    let cancelled = up.say(&["runs", "cancel", id]).await;
    assert!(cancelled.code == 0 && cancelled.out.starts_with("SUCCEEDED"), "{cancelled:?}");
    assert_eq!(up.say(&["runs", "show", "ffff"]).await.code, 66);
    let unknown = up.say(&["runs", "show", "sessions/x/runs/y"]).await;
    assert!(matches!(unknown.code, 64 | 66), "{unknown:?}");
}

#[tokio::test]
async fn more_runs_than_a_page_are_listed() {
    let up = Up::start().await;
    for _ in 0..3 {
        assert_eq!(up.say(&["run", "hello"]).await.code, 0);
    }
    let listed = |limit: &'static str| {
        let up = &up;
        async move { up.say(&["runs", "list", "--limit", limit, "--json"]).await.json()["runs"].as_array().unwrap().len() }
    };
    assert_eq!((listed("2").await, listed("20").await), (2, 3));
}

#[tokio::test]
async fn sessions_are_ended_and_erased() {
    let up = Up::start().await;
    let run = up.say(&["run", "How far is the moon?", "--tools", "docs.*", "--json"]).await.json();
    let run = run["run"].as_str().unwrap();
    let session = run.split("/runs/").next().unwrap();
    let listed = up.say(&["sessions", "list", "--json"]).await.json();
    assert_eq!(listed["sessions"][0]["session"], session);
    let table = up.say(&["sessions", "list", "--state", "open"]).await;
    assert!(table.out.starts_with("STATE") && table.out.contains(session), "{table:?}");
    assert!(up.say(&["sessions", "list", "--state", "erased"]).await.err.contains("No sessions"));

    let open = up.say(&["sessions", "erase", session, "--yes"]).await;
    assert!(open.code == 64 && open.err.contains("SESSION_OPEN"), "{open:?}");
    let unsure = up.say(&["sessions", "erase", session]).await;
    assert!(unsure.code == 64 && unsure.err.contains("--yes") && unsure.err.contains(session), "{unsure:?}");
    let id = session.trim_start_matches("sessions/");
    let ended = up.say(&["sessions", "end", id]).await;
    assert!(ended.code == 0 && ended.out.starts_with("ENDED") && ended.out.contains("sealed"), "{ended:?}");
    let shown = up.say(&["sessions", "show", id, "--json"]).await.json();
    assert!(shown["seal"]["hash"].as_str().unwrap().starts_with("sha256:"), "{shown}");
    let erased = up.say(&["sessions", "erase", id, "--yes"]).await;
    assert!(erased.code == 0 && erased.out.starts_with("ERASED"), "{erased:?}");
    let verified = up.say(&["runs", "verify", run]).await;
    assert!(verified.code == 0 && verified.out.contains("payloads were erased"), "{verified:?}");
    let gone = up.say(&["runs", "show", run]).await;
    assert!(gone.code == 0 && !gone.out.contains("384,400"), "{gone:?}");
    assert_eq!(up.say(&["sessions", "show", "sessions/x"]).await.code, 64);
    // One that is open is ended first where that is asked for.
    let run = up.say(&["run", "How far is the moon?", "--tools", "docs.*", "--json"]).await.json();
    let session = run["run"].as_str().unwrap().split("/runs/").next().unwrap().to_owned();
    let erased = up.say(&["sessions", "erase", &session, "--end", "--yes", "--json"]).await.json();
    assert_eq!(erased["state"], "ERASED");
}

#[tokio::test]
async fn a_prompt_can_be_looked_at() {
    let up = Up::start().await;
    let said = up.say(&["render", "How far is the moon?"]).await;
    assert!(
        said.code == 0 && said.out.contains("How far is the moon?") && said.out.contains("answer-with-sources"),
        "{said:?}"
    );
    let unknown = up.say(&["render", "x", "--recipe", "nothing"]).await;
    assert_eq!(unknown.code, 66, "{unknown:?}");
}

#[tokio::test]
async fn keys_are_made_once_and_shown_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let path = path.to_str().unwrap();
    let first = say(mar(&["keys", "new", path])).await;
    assert!(
        first.code == 0 && first.out.contains("session.pem") && first.out.contains("generator.pub.pem"),
        "{first:?}"
    );
    assert!(!first.out.contains("PRIVATE"), "{first:?}");
    assert_eq!(say(mar(&["keys", "new", path])).await.out, first.out);
    let key = say(mar(&["keys", "api", "--id", "ci", "--tenant", "acme", "--environment", "prod"])).await;
    assert!(key.out.starts_with("mar_ci_") && key.out.lines().count() == 1, "{key:?}");
    assert!(key.err.contains("[[runtime.auth.api_keys]]") && key.err.contains("sha256 = "), "{key:?}");
    assert!(!key.err.contains(key.out.trim()), "the key itself is only on standard output");
}
