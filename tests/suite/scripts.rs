//! The scripts behind `make demo` and `make questions`, with the rehearsal for a model: what they start, say and leave.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time for real processes")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use mar_testkit::process::built_binary;
use tokio::process::Command;

/// What a loaded machine may take for a whole script.
const PATIENCE: Duration = Duration::from_secs(120);

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
    /// What is left in the folder for temporary files.
    left: usize,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A script with a folder of its own for what is temporary, and without what would make it find another model.
async fn script(name: &str, args: &[&str], model: &str) -> anyhow::Result<Said> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(root().join("scripts").join(name));
    command.args(args).current_dir(folder.path()).kill_on_drop(true);
    command.env("MAR", built_binary("mar")?).env("TMPDIR", folder.path()).env("MODEL", model);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if (text.starts_with("MAR_") && text != "MAR") || text.starts_with("OPENAI_") {
            command.env_remove(&name);
        }
    }
    let output = tokio::time::timeout(PATIENCE, command.output()).await.context("the script does not end")??;
    let left = std::fs::read_dir(folder.path())?.count();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr), left })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_a_sealed_answer_and_leaves_nothing() -> anyhow::Result<()> {
    let said = script("demo.sh", &["How are descriptors signed?"], "rehearsal").await?;
    let Said { code, out, err, left } = said;
    assert_eq!(code, Some(0), "{out}\n{err}");
    for part in ["question: How are descriptors signed?", "docs.search", "model: the rehearsal"] {
        assert!(err.contains(part), "{part} in {err}");
    }
    for part in ["SOURCES", "proto/descriptor/v1/README.md", "LIMITS", "descriptor  sha256:", "seal        sha256:"] {
        assert!(out.contains(part), "{part} in {out}");
    }
    assert_eq!(left, 0, "no data and no log stays");
    let url = err.split_whitespace().find_map(|word| word.strip_prefix("http://")).context("no address")?;
    assert!(tokio::net::TcpStream::connect(url).await.is_err(), "what it started at {url} is gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_become_a_table() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("questions.toml");
    let entry = |question: &str, document: &str| {
        format!("[[question]]\nquestion = \"{question}\"\ndocuments = [\"{document}\"]\nanswer = ['.']\n")
    };
    let questions =
        entry("Rehearsal model script rules", "docs/rehearsal.md") + &entry("Exit codes of mar", "docs/cli.md");
    std::fs::write(&file, questions)?;
    let args = ["--model", "rehearsal", file.to_str().context("a path that is not UTF-8")?];
    let Said { code, out, err, left } = script("questions.sh", &args, "").await?;
    assert_eq!(code, Some(0), "{out}\n{err}");
    let rows: Vec<&str> = out.lines().filter(|line| line.starts_with("| ")).collect();
    assert_eq!(rows.len(), 5, "a head, a rule, two questions and the sums: {out}");
    assert!(rows[2].contains("| yes | yes |") && rows[2].contains("Rehearsal model script rules"), "{out}");
    assert!(rows[4].contains("**2 questions**") && rows[4].contains("**2**"), "{out}");
    assert!(out.contains("2 different queries for 2 questions."), "{out}");
    assert!(out.contains("Over an empty folder the answer says that there is no source: yes"), "{out}");
    assert_eq!(left, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_is_named() -> anyhow::Result<()> {
    for (args, part) in [
        (&["--modle", "x", "true"][..], "usage:"),
        (&["--model", "huge", "true"], "usage:"),
        (&[], "usage:"),
        (&["--docs", "/no/such/folder", "true"], "/no/such/folder"),
    ] {
        let Said { code, err, left, .. } = script("with-runtime.sh", args, "rehearsal").await?;
        let expected = if part == "usage:" { 64 } else { 69 };
        assert_eq!(code, Some(expected), "{args:?}: {err}");
        assert!(err.contains(part) && left == 0, "{args:?}: {err}");
    }
    // The command's own answer is the script's.
    let said = script("with-runtime.sh", &["bash", "-c", "exit 7"], "rehearsal").await?;
    assert_eq!((said.code, said.left), (Some(7), 0), "{}", said.err);
    Ok(())
}
