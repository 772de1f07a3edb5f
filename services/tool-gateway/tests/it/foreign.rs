//! Servers by others: `@modelcontextprotocol/server-everything` and `server-filesystem`, where they are installed.

use std::path::PathBuf;
use std::time::Duration;

use mar_proto::tool::invoke_tool_response::Outcome;
use mar_testkit::process::Process;
use mar_tool_gateway::UpstreamConfig;
use mar_tool_gateway::config::Kind;
use serde_json::json;

use crate::harness::{Bench, stdio, text};

/// The program of an installed package, or why the test does not run.
fn installed(name: &str) -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.tools/npm/node_modules");
    let program = root.join("@modelcontextprotocol").join(name).join("dist/index.js");
    if program.is_file() {
        return program.canonicalize().ok();
    }
    let required = std::env::var_os("MAR_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    assert!(!required, "{} is missing: run scripts/install-tools.sh", program.display());
    skipped(name);
    None
}

fn skipped(name: &str) {
    eprintln!("skipped: {name} is not installed; scripts/install-tools.sh installs it");
}

fn node(program: &std::path::Path, args: &[&str], folder: &std::path::Path) -> UpstreamConfig {
    let mut all = vec![program.to_string_lossy().into_owned()];
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    UpstreamConfig {
        command: Some("node".into()),
        args: all,
        start_timeout: Duration::from_secs(60),
        cwd: Some(folder.into()),
        ..stdio(folder)
    }
}

#[tokio::test]
async fn server_everything_and_filesystem_are_called() {
    let (Some(everything), Some(files)) = (installed("server-everything"), installed("server-filesystem")) else {
        return;
    };
    let bench = Bench::start(|folder| {
        std::fs::write(folder.join("note.txt"), "from the file").unwrap();
        let root = folder.canonicalize().unwrap();
        vec![
            ("everything", node(&everything, &["stdio"], folder)),
            ("files", node(&files, &[&root.to_string_lossy()], folder)),
        ]
    })
    .await;
    bench.up(&["everything", "files"]).await;
    let agent = bench.agent(None).await;
    assert!(agent.text("everything.echo", &json!({"message": "hello"})).await.contains("hello"));
    let path = bench.folder.path().canonicalize().unwrap().join("note.txt");
    assert!(agent.text("files.read_text_file", &json!({"path": path})).await.contains("from the file"));
    bench.stop().await;
}

#[tokio::test]
async fn server_everything_over_http_and_killed_between_two_calls() {
    let Some(program) = installed("server-everything") else { return };
    let port = mar_testkit::ports::free().unwrap();
    let start = || {
        let mut command = tokio::process::Command::new("node");
        command.arg(&program).arg("streamableHttp").env("PORT", port.to_string());
        Process::spawn("server-everything", command).unwrap()
    };
    let mut server = start();
    let address = ([127, 0, 0, 1], port).into();
    server.wait_for_port(address, Duration::from_secs(60)).await.unwrap();
    let bench = Bench::start(|folder| {
        let http = UpstreamConfig {
            kind: Kind::McpHttp,
            command: None,
            args: Vec::new(),
            url: Some(format!("http://127.0.0.1:{port}/mcp")),
            allow_private: Some(true),
            timeout: Duration::from_secs(3),
            ..stdio(folder)
        };
        vec![("web", http)]
    })
    .await;
    bench.up(&["web"]).await;
    let agent = bench.agent(None).await;
    assert!(agent.text("web.echo", &json!({"message": "one"})).await.contains("one"));

    server.kill().await.unwrap();
    let failed = agent.failed("web.echo", &json!({"message": "two"})).await;
    assert!(failed.reason.starts_with("UPSTREAM_"), "{failed:?}");
    let mut server = start();
    server.wait_for_port(address, Duration::from_secs(60)).await.unwrap();
    let mut last = None;
    for _ in 0..100 {
        match agent.call("web.echo", &json!({"message": "three"})).await.outcome {
            Some(Outcome::Result(result)) if !result.is_error => {
                last = Some(text(&result.content));
                break;
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    assert!(last.is_some_and(|text| text.contains("three")), "the server is used again when it is back");
    bench.stop().await;
    server.kill().await.unwrap();
}
