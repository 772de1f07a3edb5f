//! The built-in search.

use std::fs;

use mar_proto::tool::invoke_tool_response::Outcome;
use serde_json::{Value, json};

use crate::harness::{Bench, search, text};

#[tokio::test]
async fn passages_are_found_and_named() {
    let bench = Bench::start(|folder| {
        fs::write(folder.join("halting.md"), "# Halting\n\nA run stops at its limits. Größe zählt.").unwrap();
        fs::write(folder.join("other.md"), "# Other\n\nNothing of the kind; a run is mentioned.").unwrap();
        for n in 0..8 {
            fs::write(folder.join(format!("z{n}.txt")), "Filler about weather and gardens.").unwrap();
        }
        vec![("docs", search(folder))]
    })
    .await;
    bench.up(&["docs"]).await;
    let agent = bench.agent(None).await;
    let response = agent.call("docs.search", &json!({"query": "What are the limits of a run?"})).await;
    let Some(Outcome::Result(result)) = response.outcome else { panic!() };
    assert_eq!(result.passages[0].passage_id, "halting.md#1");
    assert!(!result.is_error && !result.content[0].tainted);
    assert_eq!(result.content[0].origin(), mar_proto::types::Origin::Tool);
    let found: Value = serde_json::from_str(&text(&result.content)).unwrap();
    assert_eq!((&found[0]["id"], &found[0]["title"]), (&json!("halting.md#1"), &json!("Halting")));
    assert!(found[0]["score"].as_f64() > found[1]["score"].as_f64());
    assert!(response.size_bytes > 0);

    for query in ["\") OR 1", "NEAR(\"", "'; DROP TABLE passages;--", "größe", "日本"] {
        let Some(Outcome::Result(result)) = agent.call("docs.search", &json!({"query": query})).await.outcome else {
            panic!("{query}")
        };
        assert!(!result.is_error, "{query}");
    }
    let listed: Value = serde_json::from_str(&agent.text("docs.list", &json!({})).await).unwrap();
    assert_eq!(listed["documents"][1]["document"], "other.md");
    bench.stop().await;
}

#[tokio::test]
async fn an_empty_folder_answers_and_a_missing_one_is_down() {
    let bench = Bench::start(|folder| {
        fs::create_dir(folder.join("empty")).unwrap();
        vec![("docs", search(&folder.join("empty"))), ("gone", search(&folder.join("none")))]
    })
    .await;
    bench.up(&["docs"]).await;
    let agent = bench.agent(None).await;
    assert!(agent.text("docs.search", &json!({"query": "x"})).await.contains("folder is empty"));
    let list = bench.list().await;
    assert_eq!(list.unavailable[0].upstream, "gone");

    fs::write(bench.folder.path().join("empty/new.md"), "fresh words").unwrap();
    let mut found = String::new();
    for _ in 0..200 {
        found = agent.text("docs.search", &json!({"query": "fresh"})).await;
        if found.contains("new.md#1") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert!(found.contains("new.md#1"), "{found}");
    fs::remove_dir_all(bench.folder.path().join("empty")).unwrap();
    let mut down = false;
    for _ in 0..200 {
        let list = bench.list().await;
        down = list.unavailable.len() == 2 && list.tools.iter().all(|tool| tool.stale);
        if down {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert!(down, "the last tools are listed as stale");
    bench.stop().await;
}
