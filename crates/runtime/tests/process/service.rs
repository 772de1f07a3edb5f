//! Exit codes, the flags of the configuration, and signals.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mar_runtime::clock::{Clock as _, SystemClock};

/// Cargo builds the examples beside the tests.
fn service() -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let mut command = Command::new(path.join("examples/minimal_service"));
    command.env_remove("MAR_CONFIG");
    command
}

fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = service().args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn a_bad_configuration_exits_64_and_names_every_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mar.toml");
    std::fs::write(&path, "[router]\nlisen = 1\n[runtime.limits]\ndrain = \"soon\"\n").unwrap();
    for flag in ["--check-config", "--dump-config"] {
        let (code, out, err) = run(&["--config", path.to_str().unwrap(), flag]);
        assert_eq!((code, out.as_str()), (64, ""), "{err}");
        assert!(err.contains("router.lisen: is not a known key; did you mean listen?"), "{err}");
        assert!(err.contains("runtime.limits.drain: "), "{err}");
    }
    assert_eq!(run(&["--config", path.to_str().unwrap()]).0, 64);
    assert_eq!(run(&["--config", "/no/such/file.toml"]).0, 64);
    assert_eq!(run(&["--no-such-flag"]).0, 64);
    assert_eq!(run(&["--help"]).0, 0);
}

#[test]
fn beyond_loopback_without_authentication_exits_64() {
    let (code, _, err) = run(&["--listen", "0.0.0.0:0"]);
    assert_eq!(code, 64, "{err}");
    assert!(err.contains("runtime.auth.mode: must be \"api_keys\""), "{err}");
}

#[test]
fn help_says_what_it_is() {
    let (code, out, _) = run(&["--help"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("A service of mcp-agent-runtime"), "{out}");
}

#[test]
fn missing_key_files_exit_64() {
    let (code, _, err) = run(&["--set", "runtime.run_tokens.verification_key_files=[\"/no/such.pem\"]"]);
    assert_eq!(code, 64, "{err}");
    assert!(err.contains("runtime.run_tokens.verification_key_files[0]: /no/such.pem"), "{err}");
}

#[test]
fn the_effective_configuration_is_printed() {
    let (code, out, err) = run(&["--dump-config", "--set", "runtime.limits.drain=5s", "--listen", "127.0.0.1:7777"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("listen = \"127.0.0.1:7777\"") && out.contains("drain = \"5s\""), "{out}");
    assert_eq!(run(&["--check-config"]), (0, String::new(), String::new()));
}

#[test]
fn an_address_in_use_exits_69() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, _, err) = run(&["--listen", &taken.local_addr().unwrap().to_string()]);
    assert_eq!(code, 69, "{err}");
}

#[test]
fn a_signal_drains_and_exits_0_although_the_collector_is_dead() {
    for signal in ["-TERM", "-INT"] {
        let mut child = service()
            .args(["--set", "runtime.telemetry.log_format=json"])
            .args(["--set", "runtime.telemetry.otlp_endpoint=http://127.0.0.1:1"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let serving = lines.by_ref().map(Result::unwrap).find(|line| line.contains("\"message\":\"serving\""));
        assert!(serving.is_some());
        let clock = SystemClock::new();
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        lines.for_each(drop);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(clock.monotonic() < Duration::from_secs(5), "{:?}", clock.monotonic());
    }
}
