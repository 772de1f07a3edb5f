//! Runs that share what another has recorded, and runs that are run again.

use crate::harness::Up;

const SCRIPT: &str = r#"
[[rule]]
match = { last_role = "tool" }
reply = { text = "So it says." }
[[rule]]
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "harbour" } }] }
"#;

#[tokio::test]
async fn a_run_is_repeated_forked_and_compared() {
    let up = Up::scripted(SCRIPT).await;
    let first = up.say(&["run", "What of the harbour?", "--type", "chat", "--tools", "docs.search", "--json"]).await;
    assert_eq!(first.code, 0, "{first:?}");
    let name = first.json()["run"].as_str().unwrap().to_owned();

    let again = up.say(&["runs", "repeat", &name, "--json"]).await;
    assert_eq!(again.code, 0, "{again:?}");
    let found = again.json();
    assert_eq!(found["base"], name.as_str());
    let comparisons = found["comparisons"].as_array().unwrap();
    for aspect in ["PROMPT", "SELECTION", "VERDICTS"] {
        let one = comparisons.iter().find(|one| one["aspect"] == aspect).unwrap();
        assert!(one["equal"] == true && one["compared"].as_i64() > Some(0), "{one}");
    }
    let repeated = found["run"].as_str().unwrap().to_owned();
    let shown = up.say(&["runs", "diff", &repeated]).await;
    assert!(shown.code == 0 && shown.out.contains("EQUAL") && shown.out.contains("verdicts"), "{shown:?}");

    let fork = up.say(&["runs", "fork", &name, "--through", "2", "--json"]).await;
    assert_eq!((fork.code, fork.json()["state"].as_str()), (0, Some("SUCCEEDED")), "{fork:?}");
    let beyond = up.say(&["runs", "fork", &name, "--through", "900"]).await;
    assert!(beyond.code == 64 && beyond.err.contains("through_seq"), "{beyond:?}");

    // Another question has another prompt, and no provider is to blame for it.
    let session = name.split_once("/runs/").unwrap().0;
    let other = up.say(&["run", "And the mole?", "--type", "chat", "--session", session, "--json"]).await;
    let other = other.json()["run"].as_str().unwrap().to_owned();
    let differ = up.say(&["runs", "diff", &other, &name]).await;
    assert!(differ.code == 1 && differ.out.contains("DIFFERENT") && differ.out.contains("prompt"), "{differ:?}");
}
