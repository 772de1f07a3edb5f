//! Servers by others: `@modelcontextprotocol/server-everything` and `server-filesystem`, where they are installed.

use std::path::PathBuf;
use std::time::Duration;

use mar_tool_gateway::UpstreamConfig;
use serde_json::json;

use crate::harness::{Bench, stdio};

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
