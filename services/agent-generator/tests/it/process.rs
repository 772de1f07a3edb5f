//! The binary: configuration, exit codes, stop.

use std::process::{Command, Output};

use mar_descriptor::SigningKey;
use secrecy::ExposeSecret as _;

fn run(folder: &std::path::Path, config: &str, args: &[&str]) -> Output {
    let file = folder.join("mar.toml");
    std::fs::write(&file, config).unwrap();
    Command::new(env!("CARGO_BIN_EXE_agent-generator")).arg("--config").arg(&file).args(args).output().unwrap()
}

#[test]
fn a_config_with_typos_is_refused_before_anything_binds() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(
        folder.path(),
        "[agent_generator]\nlisten = \"0.0.0.0:0\"\nplatfrom_policy = \"x\"\nmax_tools = 0\n",
        &["--check-config"],
    );
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8(output.stderr).unwrap();
    for key in [
        "agent_generator.platfrom_policy",
        "agent_generator.max_tools",
        "agent_generator.signing_key",
        "runtime.auth.mode",
    ] {
        assert!(told.contains(key), "{key} is not in {told}");
    }
}

#[test]
fn a_good_config_is_checked_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("seal.pem");
    std::fs::write(&pem, SigningKey::from_seed(&[1; 32]).to_pem().unwrap().expose_secret()).unwrap();
    let config = format!(
        "[agent_generator]\nsigning_key = {{ file = \"{}\" }}\n[agent_generator.store]\nurl = \"postgres://ada:secret@h/d\"\n",
        pem.display()
    );
    assert_eq!(run(folder.path(), &config, &["--check-config"]).status.code(), Some(0));
    let shown = run(folder.path(), &config, &["--dump-config"]);
    assert_eq!(shown.status.code(), Some(0));
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("max_tools = 128") && !text.contains("secret@"), "{text}");
    // Without addresses of its peers it does not start.
    let config =
        config.replace("postgres://ada:secret@h/d", &format!("sqlite:{}", folder.path().join("a.db").display()));
    let output = run(folder.path(), &config, &["--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().contains("runtime.peers.router"));
}
