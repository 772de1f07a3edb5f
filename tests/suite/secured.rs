//! The whole system over TLS, with a certificate asked of everybody: the certificates are those of `mar certs dev`.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use mar_testkit::process::built_binary;
use mar_testkit::wait;
use mar_tests::{Deployment, Options};
use tokio::process::Command;

async fn mar(args: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(built_binary("mar")?);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MAR_")) {
        command.env_remove(name);
    }
    Ok(command.args(args).stdin(Stdio::null()).kill_on_drop(true).output().await?)
}

/// `mar run` at session's endpoint; the exit code, and what it said.
async fn run(system: &Deployment, credentials: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let endpoint = system.endpoint(0);
    let mut args = vec!["run", "--endpoint", &endpoint];
    args.extend(credentials);
    args.extend(["--tools", "docs.*", "--model", "rehearsal", "When does the harbour of Marel flood?"]);
    let output = mar(&args).await?;
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok((output.status.code(), said.concat()))
}

fn text(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

async fn everybody_shows_a_certificate(options: Options) -> anyhow::Result<()> {
    let mut system = Deployment::prepare(options.secured()).await?;
    let folder = system.folder().join("tls");
    let made = mar(&["certs", "dev", &folder.display().to_string()]).await?;
    assert!(made.status.success(), "{made:?}");
    let [ca, certificate, key] = ["ca.pem", "tls.pem", "tls.key"].map(|name| text(&folder, name));
    system.start_all().await?;

    let known = ["--ca", &ca, "--certificate", &certificate, "--certificate-key", &key];
    let offered = || async {
        let (endpoint, mut args) = (system.endpoint(3), vec!["tools", "list", "docs.*", "--json", "--endpoint"]);
        args.push(&endpoint);
        args.extend(known);
        mar(&args).await.is_ok_and(|list| String::from_utf8_lossy(&list.stdout).contains("docs.search"))
    };
    wait::until(Duration::from_secs(20), offered).await?;
    let (code, said) = run(&system, &known).await?;
    assert_eq!(code, Some(0), "{said}\n{}", system.log().join("\n"));
    assert!(said.contains("SUCCEEDED"), "{said}");

    for stranger in [&["--ca", &ca][..], &["--certificate", &certificate, "--certificate-key", &key]] {
        let (code, said) = run(&system, stranger).await?;
        assert_eq!(code, Some(69), "{stranger:?}: {said}");
    }
    // Made once: the second time they stay.
    let before = std::fs::read(&certificate)?;
    assert!(mar(&["certs", "dev", &folder.display().to_string()]).await?.status.success());
    assert_eq!(std::fs::read(&certificate)?, before);
    std::fs::remove_file(&key)?;
    assert_eq!(mar(&["certs", "dev", &folder.display().to_string()]).await?.status.code(), Some(64));
    Ok(())
}

both_ways! { everybody_shows_a_certificate }
