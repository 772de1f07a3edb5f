//! Real MCP servers: what they answer, how they break, and what that does to others.

use std::path::Path;
use std::time::Duration;

use mar_proto::tool::Dispatch;
use mar_proto::tool::invoke_tool_response::Outcome;
use mar_testkit::process::Process;
use mar_tool_gateway::UpstreamConfig;
use mar_tool_gateway::config::Kind;
use serde_json::json;

use crate::harness::{Bench, alive, journal, scripted, search, stdio, text, wait};

async fn two() -> Bench {
    let bench = Bench::start(|folder| vec![("s", stdio(folder)), ("docs", search(folder))]).await;
    bench.up(&["s", "docs"]).await;
    bench
}

fn pids(folder: &Path) -> Vec<String> {
    journal(folder).iter().filter_map(|line| line.strip_prefix("started ").map(str::to_owned)).collect()
}

async fn answers(bench: &Bench) {
    let agent = bench.agent(None).await;
    let Some(Outcome::Result(result)) = agent.call("s.echo", &json!({"text": "grüße"})).await.outcome else {
        panic!()
    };
    assert_eq!(text(&result.content), "grüße");
    assert!(result.content[0].tainted, "a stranger's words taint");
    let Some(Outcome::Result(result)) = agent.call("s.fail", &json!({})).await.outcome else { panic!() };
    assert!(result.is_error && text(&result.content) == "it did not work");
    let Some(Outcome::Result(result)) = agent.call("s.refuse", &json!({})).await.outcome else { panic!() };
    assert!(result.is_error && text(&result.content).contains("not like this"));
    assert_eq!(agent.text("s.count", &json!({})).await, "1");
    assert_eq!(agent.text("s.count", &json!({})).await, "2", "the idempotency key travels");

    let Some(Outcome::Result(result)) = agent.call("s.huge", &json!({"bytes": 200_000})).await.outcome else {
        panic!()
    };
    assert!(result.truncated && text(&result.content).contains("200000 bytes"));
    assert!(text(&result.content).len() < 66_000);
    // A text beyond the largest message is cut all the same.
    for bytes in [16_700_000, 100_000_000] {
        let response = agent.call("s.huge", &json!({ "bytes": bytes })).await;
        let Some(Outcome::Result(result)) = response.outcome else { panic!("{response:?}") };
        assert!(result.truncated && !result.is_error && text(&result.content).len() < 66_000);
        assert_eq!(response.size_bytes, bytes);
    }
    // What is not one long text but very many pieces cannot be cut, and nothing of it is given.
    let response = agent.call("s.many", &json!({"pieces": 300_000})).await;
    let Some(Outcome::Failed(failed)) = &response.outcome else { panic!() };
    assert_eq!((failed.reason.as_str(), failed.dispatch()), ("RESULT_TOO_LARGE", Dispatch::Sent));
    assert!(failed.message.contains("16 MiB") && failed.message.contains("ask for less"), "{failed:?}");
    assert!(!format!("{response:?}").contains("xxx"), "nothing of the content is anywhere");
    let record: serde_json::Value = serde_json::from_str(&response.decision_json).unwrap();
    assert_eq!((&record["verdict"], &record["reason"]), (&json!("allow"), &json!("RESULT_TOO_LARGE")));
    assert_eq!(record.get("result_decision"), None, "there is no result to decide on");
    assert_eq!(agent.text("s.echo", &json!({"text": "still here"})).await, "still here");
}

#[tokio::test]
async fn stdio_answers() {
    let bench = two().await;
    answers(&bench).await;
    bench.stop().await;
}

async fn http_server(folder: &Path) -> (Process, String) {
    let mut command = tokio::process::Command::new(scripted());
    command.arg("http").arg(folder);
    let process = Process::spawn("scripted_mcp", command).unwrap();
    let line = process.wait_for_line("port ", Duration::from_secs(10)).await.unwrap();
    let port = line.trim_start_matches("port ").trim().to_owned();
    (process, format!("http://localhost:{port}/mcp"))
}

fn http(url: &str, allow_private: bool) -> UpstreamConfig {
    UpstreamConfig {
        kind: Kind::McpHttp,
        command: None,
        args: Vec::new(),
        url: Some(url.to_owned()),
        allow_private: Some(allow_private),
        timeout: Duration::from_secs(50),
        ..stdio(Path::new("/"))
    }
}

#[tokio::test]
async fn http_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, url) = http_server(folder.path()).await;
    let bench = Bench::start(|_| vec![("s", http(&url, true)), ("shut", http(&url, false))]).await;
    bench.up(&["s"]).await;
    answers(&bench).await;
    let down = bench.list().await.unavailable;
    assert!(down.len() == 1 && down[0].upstream == "shut" && down[0].detail.contains("private"), "{down:?}");
    let agent = bench.agent(None).await;
    server.kill().await.unwrap();
    let failed = agent.failed("s.echo", &json!({"text": "x"})).await;
    assert!(failed.reason.starts_with("UPSTREAM_"), "{failed:?}");
    bench.stop().await;
}

#[tokio::test]
async fn a_crash_hurts_nobody_else_and_the_server_returns() {
    let bench = two().await;
    let agent = bench.agent(None).await;
    let failed = agent.failed("s.crash", &json!({})).await;
    assert_eq!((failed.reason.as_str(), failed.dispatch()), ("UPSTREAM_BROKEN", Dispatch::Unknown));
    assert!(!agent.text("docs.search", &json!({"query": "x"})).await.is_empty());
    // The next call waits for the restart.
    assert_eq!(agent.text("s.echo", &json!({"text": "back"})).await, "back");
    assert_eq!(pids(bench.folder.path()).len(), 2);

    // It returns with another definition.
    std::fs::write(bench.folder.path().join("description"), "Says something else.").unwrap();
    agent.failed("s.crash", &json!({})).await;
    let denied = agent.denied("s.echo", &json!({"text": "x"})).await;
    assert_eq!(denied.reason, "TOOL_DEFINITION_CHANGED");
    let again = bench.agent(None).await;
    assert_eq!(again.text("s.echo", &json!({"text": "new"})).await, "new");
    bench.stop().await;
}

#[tokio::test]
async fn time_is_bounded_and_cancelled_calls_are_told() {
    let bench = Bench::start(|folder| {
        let short =
            UpstreamConfig { timeout: Duration::from_millis(300), max_concurrency: 1, max_queue: 1, ..stdio(folder) };
        vec![("s", short), ("docs", search(folder))]
    })
    .await;
    bench.up(&["s", "docs"]).await;
    let agent = bench.agent(None).await;
    let failed = agent.failed("s.slow", &json!({"ms": 60_000})).await;
    assert_eq!((failed.reason.as_str(), failed.dispatch()), ("TIMEOUT", Dispatch::Unknown));
    let folder = bench.folder.path().to_owned();
    wait("the server hears of it", || journal(&folder).iter().any(|line| line.starts_with("cancelled"))).await;
    assert_eq!(agent.text("s.echo", &json!({"text": "free"})).await, "free", "the slot is free again");

    let slow = json!({"ms": 60_000});
    let (first, second, third) =
        tokio::join!(agent.failed("s.slow", &slow), agent.failed("s.slow", &slow), agent.failed("s.slow", &slow));
    let reasons = [&first, &second, &third].map(|failed| (failed.reason.as_str(), failed.dispatch()));
    assert!(reasons.contains(&("UPSTREAM_UNAVAILABLE", Dispatch::NotSent)), "the queue is bounded: {reasons:?}");
    assert!(reasons.contains(&("TIMEOUT", Dispatch::Unknown)), "{reasons:?}");
    bench.stop().await;
}

#[tokio::test]
async fn a_caller_that_leaves_frees_the_slot() {
    let bench = Bench::start(|folder| vec![("s", UpstreamConfig { max_concurrency: 1, ..stdio(folder) })]).await;
    bench.up(&["s"]).await;
    let agent = bench.agent(None).await;
    let slow = json!({"ms": 60_000});
    let folder = bench.folder.path().to_owned();
    {
        let call = agent.call("s.slow", &slow);
        tokio::pin!(call);
        tokio::select! {
            _ = &mut call => panic!("too early"),
            () = wait("the call is made", || journal(&folder).iter().any(|line| line.starts_with("slow"))) => {}
        }
    }
    wait("the server hears of it", || journal(&folder).iter().any(|line| line == "cancelled key-1")).await;
    assert_eq!(agent.text("s.echo", &json!({"text": "free"})).await, "free");

    // A deadline of the caller's is told as an answer, before it passes.
    let mut request = agent.request("s.slow", &slow);
    request.set_timeout(Duration::from_secs(2));
    let Some(Outcome::Failed(failed)) = agent.send(request).await.unwrap().outcome else { panic!() };
    assert_eq!(failed.reason, "TIMEOUT");
    bench.stop().await;
}

fn rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

async fn a_hundred_megabytes_are_not_kept(bench: Bench) {
    let agent = bench.agent(None).await;
    agent.text("s.echo", &json!({"text": "warm"})).await;
    let before = rss_bytes();
    let failed = agent.failed("s.many", &json!({"pieces": 300_000})).await;
    assert_eq!(failed.reason, "RESULT_TOO_LARGE");
    let response = agent.call("s.huge", &json!({"bytes": 100_000_000})).await;
    let Some(Outcome::Result(result)) = &response.outcome else { panic!("{response:?}") };
    assert!(result.truncated);
    let grown = rss_bytes().saturating_sub(before);
    // Other tests of this process may grow meanwhile, each by one message at most.
    assert!(grown < 200 << 20, "{grown} bytes");
    assert_eq!(agent.text("s.echo", &json!({"text": "on"})).await, "on");
    bench.stop().await;
}

#[tokio::test]
async fn a_hundred_megabytes_over_stdio_are_not_kept() {
    a_hundred_megabytes_are_not_kept(two().await).await;
}

#[tokio::test]
async fn a_hundred_megabytes_over_http_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, url) = http_server(folder.path()).await;
    let bench = Bench::start(|_| vec![("s", http(&url, true))]).await;
    bench.up(&["s"]).await;
    a_hundred_megabytes_are_not_kept(bench).await;
    server.kill().await.unwrap();
}

#[tokio::test]
async fn no_child_is_left() {
    let bench = Bench::start(|folder| {
        let grandchild = UpstreamConfig {
            command: Some("sh".into()),
            args: vec![
                "-c".into(),
                format!(
                    "sleep 600 & echo started $! >> {0}/journal; exec {1} stdio {0}",
                    folder.display(),
                    scripted().display()
                ),
            ],
            ..stdio(folder)
        };
        vec![("s", grandchild)]
    })
    .await;
    bench.up(&["s"]).await;
    let pids = pids(bench.folder.path());
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| alive(pid)));
    bench.stop().await;
    wait("the group ends", || pids.iter().all(|pid| !alive(pid))).await;
}

#[tokio::test]
async fn a_server_that_never_starts_delays_nobody() {
    let started = tokio::time::timeout(Duration::from_secs(5), async {
        let bench = Bench::start(|folder| {
            let silent = UpstreamConfig { command: Some("sleep".into()), args: vec!["600".into()], ..stdio(folder) };
            let missing =
                UpstreamConfig { command: Some("/no/such/program".into()), args: Vec::new(), ..stdio(folder) };
            vec![("silent", silent), ("missing", missing), ("docs", search(folder))]
        })
        .await;
        bench.up(&["docs"]).await;
        bench
    })
    .await;
    let bench = started.unwrap();
    let mut down: Vec<String> = bench.list().await.unavailable.into_iter().map(|one| one.upstream).collect();
    down.sort();
    assert_eq!(down, ["missing", "silent"]);
    bench.stop().await;
}
