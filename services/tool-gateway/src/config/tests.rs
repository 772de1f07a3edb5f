use mar_runtime::config::{Error, Sources, load};

use super::*;

fn read(toml: &str) -> Result<Config, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mar.toml");
    std::fs::write(&path, toml).unwrap();
    let sources = Sources { file: Some(path), ..Sources::default() };
    load::<Config>(&sources).map(|loaded| loaded.service).map_err(|error: Error| error.lines())
}

#[test]
fn every_kind_is_read() {
    let config = read(
        r#"
        [tool_gateway]
        listen = "127.0.0.1:0"
        [tool_gateway.upstreams.files]
        kind = "mcp_stdio"
        command = "server"
        args = ["--root", "/tmp"]
        env = { LEVEL = "debug", TOKEN = { env = "FILES_TOKEN" } }
        timeout = "5s"
        max_result_bytes = "32KiB"
        tools.write = { idempotent = true }
        tools.read = { read_only = true }
        tools.send.doubt = { on_unknown = "ask_human", group = "office", probe = { tool = "read", key_argument = "key" } }
        [tool_gateway.upstreams.web]
        kind = "mcp_http"
        url = "https://tools.example/mcp"
        headers = { authorization = { file = "/run/secrets/web" } }
        restart = { min = "1s", max = "1m" }
        [tool_gateway.upstreams.docs]
        kind = "search"
        folder = "docs"
        rescan = "100ms"
        "#,
    )
    .unwrap();
    let files = &config.upstreams["files"];
    assert!(files.is_idempotent("write") && !files.is_idempotent("read"));
    assert!(files.is_read_only("read") && !files.is_read_only("write") && !files.is_trusted());
    assert_eq!(files.env["TOKEN"], Setting::Secret(mar_runtime::config::SecretRef::Env("FILES_TOKEN".into())));
    let doubt = files.doubt("send").unwrap();
    assert_eq!((doubt.on_unknown, doubt.question()), (OnUnknown::AskHuman, std::time::Duration::from_secs(3_600)));
    assert!(files.doubt("write").is_none());
    let docs = &config.upstreams["docs"];
    assert!(docs.is_idempotent("search") && docs.is_read_only("list") && docs.is_trusted());
    assert_eq!(docs.timeout, std::time::Duration::from_secs(30));
}

#[test]
fn everything_wrong_is_named_at_once() {
    let lines = read(
        r#"
        [tool_gateway.upstreams.Bad_Name]
        kind = "search"
        command = "x"
        timeout = "0s"
        [tool_gateway.upstreams.web]
        kind = "mcp_http"
        url = "ftp://x"
        max_concurrency = 0
        tools.send.doubt = { group = "g", probe = { tool = "list", key_argument = "", settles_after = "2h" } }
        tools.pay.doubt = { on_unknown = "ask_human", expires_after = "1s", probe = { tool = "pay", key_argument = "k" } }
        "#,
    )
    .unwrap_err();
    let all = lines.join("\n");
    for path in [
        "Bad_Name: must match",
        "Bad_Name.command",
        "Bad_Name.folder",
        "Bad_Name.timeout",
        "web.url",
        "web.max_concurrency",
        "web.tools.send.doubt.probe.tool: must name a tool that is declared read_only",
        "web.tools.send.doubt.probe.key_argument",
        "web.tools.send.doubt.probe.settles_after",
        "web.tools.send.doubt.group: belongs to",
        "web.tools.pay.doubt.probe.tool: must name another tool",
        "web.tools.pay.doubt.expires_after",
    ] {
        assert!(all.contains(&format!("tool_gateway.upstreams.{path}")), "{path} in {all}");
    }
}

#[test]
fn an_unknown_kind_hides_no_other_upstream() {
    let lines = read(
        r#"
        [tool_gateway.upstreams.Bad]
        kind = "search"
        [tool_gateway.upstreams.web]
        kind = "mcp_http"
        timeout = "0s"
        [tool_gateway.upstreams.z]
        kind = "nope"
        timeout = 5
        "#,
    )
    .unwrap_err();
    let z: Vec<_> = lines.iter().filter(|line| line.starts_with("tool_gateway.upstreams.z")).collect();
    assert_eq!(
        z[0],
        "tool_gateway.upstreams.z.kind: unknown variant: found `nope`, expected one of `mcp_stdio`, `mcp_http`, `search`"
    );
    assert!(z.len() == 2 && z[1].starts_with("tool_gateway.upstreams.z.timeout: "), "{z:#?}");
    let all = lines.join("\n");
    for path in ["Bad: must match", "Bad.folder", "web.url", "web.timeout"] {
        assert!(all.contains(&format!("tool_gateway.upstreams.{path}")), "{path} in {all}");
    }
}

#[test]
fn what_does_not_depend_on_the_kind_is_judged_without_it() {
    let lines = read(
        r#"
        [tool_gateway.upstreams.a]
        kind = "nope"
        folder = "docs"
        max_result_bytes = "1B"
        max_concurrency = 0
        restart = { min = "2s", max = "1s" }
        tools.pay.doubt = { expires_after = "1s" }
        [tool_gateway.upstreams.b]
        timeout = "0s"
        tools.pay.doubt = { probe = { settles_after = "2h" } }
        "#,
    )
    .unwrap_err();
    let known = "unknown variant: found `nope`, expected one of `mcp_stdio`, `mcp_http`, `search`";
    let of = |upstream: &str, key: &str| format!("tool_gateway.upstreams.{upstream}.{key}");
    let mut expected = vec![
        format!("{}: {known}", of("a", "kind")),
        format!("{}: must be 1KiB to 4MiB", of("a", "max_result_bytes")),
        format!("{}: must be 1 to 1000", of("a", "max_concurrency")),
        format!("{}: must be more than 0 and at most restart.max", of("a", "restart.min")),
        format!("{}: is missing", of("b", "kind")),
        format!("{}: must be more than 0 and at most 1h", of("b", "timeout")),
        format!("{}: is missing", of("b", "tools.pay.doubt.probe.tool")),
        format!("{}: is missing", of("b", "tools.pay.doubt.probe.key_argument")),
    ];
    for line in &expected {
        assert!(lines.contains(line), "{line} in {lines:#?}");
    }
    // The rules about doubts, in their own words; none that holds for one kind only.
    let more = ["a.tools.pay.doubt", "b.tools.pay.doubt.probe.settles_after"]
        .map(|key| format!("tool_gateway.upstreams.{key}"));
    expected.extend(lines.iter().filter(|line| more.iter().any(|key| line.starts_with(key))).cloned());
    assert!(lines.iter().all(|line| expected.contains(line)), "{lines:#?}");
}

#[test]
fn a_typo_is_refused() {
    let lines = read("[tool_gateway.upstreams.docs]\nkind = \"search\"\nfoldr = \"x\"").unwrap_err();
    assert!(lines.join("\n").contains("foldr"), "{lines:?}");
}
