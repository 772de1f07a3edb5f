//! Mistakes in the configuration: each is named by its key path, and nothing is bound.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use mar_testkit::process::{Process, built_binary};
use mar_tests::{Deployment, Options, Shape, Stores};
use tokio::process::Command;

/// Exit status of a configuration that is wrong.
const WRONG: i32 = 64;

/// A mistake and the key path that is named.
fn mistakes(service: &str) -> Vec<(String, Vec<String>)> {
    let table = service.replace('-', "_");
    let own = match service {
        "session" => ("store = { url = \"mysql://h\" }\n".to_owned(), "session.store.url"),
        "router" => ("default_routing_policy = \"nothing\"\n".to_owned(), "router.default_routing_policy"),
        "agent-generator" => ("max_tools = 0\n".to_owned(), "agent_generator.max_tools"),
        _ => ("upstreams.x = { kind = \"mcp_stdio\" }\n".to_owned(), "tool_gateway.upstreams.x.command"),
    };
    vec![
        (format!("[{table}]\nlisten_on = \"127.0.0.1:1\"\n"), vec![format!("{table}.listen_on")]),
        (format!("[{table}]\nlisten = \"everywhere\"\n"), vec![format!("{table}.listen")]),
        (format!("[{table}]\n{}", own.0), vec![own.1.to_owned()]),
        ("[runtime.limits]\ndrian = \"2s\"\n".to_owned(), vec!["runtime.limits.drian".to_owned()]),
        ("[runtime.limits]\ndrain = \"soon\"\n".to_owned(), vec!["runtime.limits.drain".to_owned()]),
        ("[runtime.auth]\nmode = \"open\"\n".to_owned(), vec!["runtime.auth.mode".to_owned()]),
        (
            "[runtime.run_tokens]\nverification_key_files = [\"/no/such.pem\", \"config.toml\"]\n".to_owned(),
            [0, 1].map(|at| format!("runtime.run_tokens.verification_key_files[{at}]")).to_vec(),
        ),
        (
            format!("[{table}]\nlisten = \"0.0.0.0:0\"\n"),
            vec!["runtime.auth.mode".to_owned(), format!("{table}.listen")],
        ),
        (
            "[runtime.limits]\nmax_message = \"0B\"\ndefault_deadline = \"0s\"\n".to_owned(),
            vec!["runtime.limits.max_message".to_owned(), "runtime.limits.default_deadline".to_owned()],
        ),
        ("[runtime\n".to_owned(), vec!["config.toml".to_owned()]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typo_stops_every_binary_before_it_binds() -> anyhow::Result<()> {
    for service in ["session", "router", "agent-generator", "tool-gateway", "mar"] {
        for (text, paths) in mistakes(service) {
            // `mar up` listens where its command line says; a file with a table that is none is tried for it as well.
            let text = if service == "mar" { text.replace("[mar]", "[tool_gateway]") } else { text };
            let paths: Vec<String> =
                paths.iter().map(|path| path.replace("mar.listen", "tool_gateway.listen")).collect();
            refuses(service, &text, &paths).await?;
        }
    }
    refuses("mar", "[sesion]\nlisten = \"127.0.0.1:1\"\n", &["sesion".to_owned()]).await
}

/// What is read from other files is read before anything is bound, and by `--check-config` too.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_missing_or_wrong_are_named_before_anything_is_bound() -> anyhow::Result<()> {
    let gateway = [
        ("platform_policy = \"/no/such.cedar\"\n", "tool_gateway.platform_policy"),
        ("platform_policy = \"config.toml\"\n", "tool_gateway.platform_policy"),
        ("descriptor_key_files = [\"/no/such.pem\"]\n", "tool_gateway.descriptor_key_files[0]"),
    ];
    for (line, path) in gateway {
        refuses("tool-gateway", &format!("[tool_gateway]\n{line}"), &[path.to_owned()]).await?;
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "[tool_gateway]\nplatform_policy = \"/no/such.cedar\"\n")?;
    let mut command = Command::new(built_binary("tool-gateway")?);
    let output = command.arg("--check-config").arg("--config").arg(&file).output().await?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(WRONG), "{said}");
    assert_eq!(said.lines().count(), 1, "one thing is wrong: {said}");
    Ok(())
}

async fn refuses(service: &str, text: &str, paths: &[String]) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text)?;
    // Held by us, so that whoever tries to bind it fails in another way.
    let held = TcpListener::bind("127.0.0.1:0")?;
    let port = held.local_addr()?.port();
    let table = service.replace('-', "_").to_uppercase();
    let mut command = Command::new(built_binary(service)?);
    if service == "mar" {
        command
            .arg("up")
            .arg("--data")
            .arg(folder.path().join("data"))
            .arg("--listen")
            .arg(format!("127.0.0.1:{port}"));
    } else if !text.contains("listen") {
        command.env(format!("MAR_{table}__LISTEN"), format!("127.0.0.1:{port}"));
    }
    command.arg("--config").arg(&file).current_dir(folder.path());
    let mut process = Process::spawn(service, command)?;
    let status = process.wait(Duration::from_secs(20)).await?;
    drop(held);
    assert_eq!(status.code(), Some(WRONG), "{service}: {text}\n{}", process.log().join("\n"));
    for path in paths {
        process.wait_for_line(path, Duration::from_secs(5)).await.with_context(|| format!("{service}: {text}"))?;
    }
    Ok(())
}

/// What is shown has every value that counts and no secret, and is a configuration itself.
#[tokio::test(flavor = "multi_thread")]
async fn every_service_shows_its_configuration() -> anyhow::Result<()> {
    let system = Deployment::prepare(Options::new(Shape::Four, Stores::Embedded)).await?;
    let given = system.config_file();
    for (service, table, default) in [
        ("session", "session", "max_prompt = "),
        ("router", "router", "default_routing_policy = "),
        ("agent-generator", "agent_generator", "max_tools = 128"),
        ("tool-gateway", "tool_gateway", "drain = \"2s\""),
    ] {
        let ask = async |file: &Path, more: &[&str]| {
            let mut command = Command::new(built_binary(service)?);
            command.arg("--config").arg(file).args(more).current_dir(given.parent().context("no folder")?);
            let output = command.output().await?;
            let said = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
            anyhow::Ok((output.status.code(), said))
        };
        let secret = format!("{table}.store.url=postgres://ada:lovelace@127.0.0.1:1/x");
        let has_store = matches!(service, "session" | "agent-generator");
        let more: &[&str] = if has_store { &["--dump-config", "--set", &secret] } else { &["--dump-config"] };
        let (code, shown) = ask(&given, more).await?;
        assert_eq!(code, Some(0), "{service}: {shown}");
        assert!(shown.contains(default), "{service}: {shown}");
        assert!(!shown.contains("lovelace"), "{service}: {shown}");
        let again = given.with_extension("shown.toml");
        std::fs::write(&again, &shown)?;
        let checked = ask(&again, &["--check-config"]).await?;
        assert_eq!(checked, (Some(0), String::new()), "{service}: {shown}");
    }
    Ok(())
}
