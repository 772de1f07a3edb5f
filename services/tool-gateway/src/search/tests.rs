use std::fs;

use mar_runtime::clock::ManualClock;

use super::*;

async fn open(files: &[(&str, &str)]) -> (tempfile::TempDir, SearchSession) {
    open_by(Arc::new(ManualClock::default()), files).await
}

async fn open_by(clock: Arc<ManualClock>, files: &[(&str, &str)]) -> (tempfile::TempDir, SearchSession) {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(root.path().join(name), text).unwrap();
    }
    let config =
        UpstreamConfig { folder: Some(root.path().into()), ..UpstreamConfig::new(crate::config::Kind::Search) };
    let FolderSearch { folder, rescan, clock } = FolderSearch::new(&config, clock);
    let session = SearchSession { folder, rescan, clock, index: Index::open().await.unwrap() };
    session.refresh().await.unwrap();
    (root, session)
}

fn arguments(query: &str) -> Map<String, Value> {
    Map::from_iter([("query".to_owned(), query.into())])
}

async fn ids(session: &SearchSession, query: &str) -> Vec<String> {
    let answer = session.search(&arguments(query)).await.unwrap();
    answer.passages.into_iter().map(|passage| passage.passage_id).collect()
}

#[tokio::test]
async fn the_best_passage_comes_first() {
    let (_root, session) = open(&[
        ("halting.md", "# Halting policy\n\nA run stops when a limit is reached. Limits are counted in Redis."),
        ("router.md", "# Router\n\nThe router picks models. A policy orders them."),
        ("notes.txt", "Runs and running and limits of things, mentioned once."),
    ])
    .await;
    assert_eq!(ids(&session, "What is the halting policy?").await[0], "halting.md#1");
    assert_eq!(ids(&session, "routing of a model").await[0], "router.md#1");
    assert!(ids(&session, "halts").await.contains(&"halting.md#1".to_owned()), "porter stemming");
    assert!(ids(&session, "mention").await.contains(&"notes.txt#1".to_owned()), "prefix");
}

#[tokio::test]
async fn hostile_queries_are_words() {
    let (_root, session) = open(&[("a.md", "alpha 1")]).await;
    for query in
        ["\") OR 1", "'; DROP TABLE passages; --", "NEAR(", "*", "^", "\"", "a AND", "title:", "{}", "\0", "-alpha"]
    {
        session.search(&arguments(query)).await.unwrap();
    }
    assert_eq!(ids(&session, "\") OR 1").await, ["a.md#1"]);
    assert_eq!(session.index.count().await.unwrap(), 1);
}

#[tokio::test]
async fn any_script_is_found() {
    let (_root, session) = open(&[
        ("de.md", "Die Übergröße der Straße."),
        ("ja.md", "全文検索の説明。"),
        ("ru.md", "Полнотекстовый поиск."),
    ])
    .await;
    assert_eq!(ids(&session, "ubergroße").await, ["de.md#1"]);
    assert_eq!(ids(&session, "検索").await, ["ja.md#1"]);
    assert_eq!(ids(&session, "ПОИСК").await, ["ru.md#1"]);
}

#[tokio::test]
async fn changes_are_taken_in() {
    let (root, session) = open(&[("a.md", "alpha"), ("b.md", "beta")]).await;
    fs::write(root.path().join("a.md"), "gamma gamma").unwrap();
    fs::remove_file(root.path().join("b.md")).unwrap();
    fs::write(root.path().join("c.md"), "delta").unwrap();
    session.refresh().await.unwrap();
    assert!(ids(&session, "alpha beta").await.is_empty());
    assert_eq!(ids(&session, "gamma").await, ["a.md#1"]);
    assert_eq!(ids(&session, "delta").await, ["c.md#1"]);
    drop(root);
    assert!(session.refresh().await.is_err());
}

#[tokio::test]
async fn the_folder_is_looked_at_when_its_time_has_come() {
    let clock = Arc::new(ManualClock::default());
    let (root, mut session) = open_by(Arc::clone(&clock), &[("a.md", "alpha")]).await;
    session.rescan = Duration::from_secs(3600);
    drop(root);
    let mut ended = session.ended();
    assert!(futures::poll!(&mut ended).is_pending());
    clock.advance(session.rescan);
    assert_eq!(ended.await, "the folder is missing or cannot be read");
}

#[tokio::test]
async fn documents_are_listed_by_pages() {
    let files: Vec<(String, &str)> = (0..60).map(|n| (format!("{n:02}.md"), "# Title\n\ntext")).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    let (_root, session) = open(&files).await;
    let page = |after: &str| Map::from_iter([("after".to_owned(), Value::from(after))]);
    let read = |answer: Answer| -> Value {
        let Some(mar_proto::types::part::Content::Text(text)) = &answer.parts[0].content else { panic!() };
        serde_json::from_str(text).unwrap()
    };
    let first = read(session.list(&page("")).await.unwrap());
    assert_eq!(first["documents"].as_array().unwrap().len(), 50);
    assert_eq!(first["next_after"], "49.md");
    let second = read(session.list(&page("49.md")).await.unwrap());
    assert_eq!(second["documents"].as_array().unwrap().len(), 10);
    assert_eq!(second["next_after"], Value::Null);
}

#[tokio::test]
async fn an_empty_folder_says_so() {
    let (_root, session) = open(&[]).await;
    let answer = session.search(&arguments("anything")).await.unwrap();
    assert!(answer.passages.is_empty());
    let Some(mar_proto::types::part::Content::Text(text)) = &answer.parts[0].content else { panic!() };
    assert!(text.contains("folder is empty"), "{text}");
}
