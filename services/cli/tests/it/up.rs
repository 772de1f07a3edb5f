//! `mar up`: its start, its end and what it refuses.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use mar_testkit::process::{Process, Signal};
use mar_testkit::rehearsal::Script;

use crate::harness::{PATIENCE, Up, mar, say};

#[tokio::test]
async fn it_says_what_it_serves_and_ends_on_ctrl_c() {
    let up = Up::start().await;
    let said = up.process.wait_for_line("Ctrl-C stops it", PATIENCE).await.unwrap();
    assert!(!said.contains('\x1b'));
    let log = up.process.log().join("\n");
    for part in ["SQLite", "counters in process", "docs: search over", "rehearsal:", "mar run", "--tools 'docs.*'"] {
        assert!(log.contains(part), "{part} in {log}");
    }
    let keys = up.folder.path().join("data/keys/session.pem");
    assert_eq!(std::fs::metadata(keys).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(up.stop().await, 0);
}

#[tokio::test]
async fn a_wanted_stop_is_no_warning() {
    let mut up = Up::start().await;
    up.process.signal(Signal::Int).unwrap();
    assert_eq!(up.process.wait(PATIENCE).await.unwrap().code(), Some(0));
    let log = up.process.log().join("\n");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn an_upstream_that_is_away_is_told_of_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("mar.toml");
    let text = "[runtime.telemetry]\nlog_filter = 'info,mar_tool_gateway=debug'\n\
                [tool_gateway.upstreams.away]\nkind = 'mcp_http'\nurl = 'http://127.0.0.1:1/mcp'\n\
                restart = { min = '10ms', max = '20ms' }\n";
    std::fs::write(&config, text).unwrap();
    let up = Up::with(Script::default(), &["--config", config.to_str().unwrap()]).await;
    let tries = |log: &[String]| log.iter().filter(|line| line.contains("upstream is still down")).count();
    mar_testkit::wait::until(PATIENCE, || async { tries(&up.process.log()) > 3 }).await.unwrap();
    let log = up.process.log();
    let told = |part: &str| log.iter().filter(|line| line.contains(part)).count();
    assert_eq!((told("upstream is down"), told("upstream cannot be reached")), (1, 1), "{log:#?}");
    assert_eq!((told("rmcp"), told("ERROR")), (0, 0), "{log:#?}");
    assert_eq!(up.stop().await, 0);
}

#[tokio::test]
async fn it_is_ready_in_under_a_second_with_what_it_has() {
    let mut up = Up::start().await;
    // A first start on a machine that runs other tests says little; the best of a few says what it costs.
    let mut best = Duration::MAX;
    for _ in 0..5 {
        up.process.kill().await.unwrap();
        let start = Instant::now();
        up.restart().await;
        best = best.min(start.elapsed());
        if best < Duration::from_millis(1_000) {
            return;
        }
    }
    panic!("the fastest of five starts took {best:?}");
}

#[tokio::test]
async fn one_port_tells_the_health_of_four_services() {
    let up = Up::start().await;
    for service in [
        "agentruntime.session.v1.SessionService",
        "agentruntime.router.v1.RouterService",
        "agentruntime.agent.v1.AgentGeneratorService",
        "agentruntime.tool.v1.ToolGatewayService",
    ] {
        let channel = tonic::transport::Endpoint::from_shared(up.url.clone()).unwrap().connect().await.unwrap();
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        // HealthCheckRequest { service }, written by hand so that no generated client is needed.
        let path = "/grpc.health.v1.Health/Check".parse().unwrap();
        let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default();
        let request = tonic::Request::new(HealthRequest { service: service.into() });
        let answer = grpc.unary(request, path, codec).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{service}");
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[tokio::test]
async fn a_second_one_on_the_same_address_or_data_is_refused() {
    let up = Up::start().await;
    let address = up.url.trim_start_matches("http://");
    let other = tempfile::tempdir().unwrap();
    let data = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let model = up.rehearsal.api_url();
    let taken = say(mar(&["up", "--listen", address, "--data", &data(other.path()), "--model-url", &model])).await;
    assert_eq!(taken.code, 69, "{taken:?}");
    assert!(taken.err.contains("--listen"), "{taken:?}");
    let shared = data(&up.folder.path().join("data"));
    let locked = say(mar(&["up", "--listen", "127.0.0.1:0", "--data", &shared, "--model-url", &model])).await;
    assert_eq!(locked.code, 69, "{locked:?}");
    assert!(locked.err.contains("in use"), "{locked:?}");
}

#[tokio::test]
async fn wrong_configuration_is_named_before_anything_is_bound() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let config = folder.path().join("mar.toml");
    std::fs::write(
        &config,
        "[session]\nlisen = 1\n[tool_gateway]\ndescriptor_key_files = 3\n[runtime.limits]\nmax = 1\n",
    )
    .unwrap();
    let (data, config) = (data.to_str().unwrap(), config.to_str().unwrap());
    let base = ["up", "--data", data, "--rehearse", "--listen"];
    let said = say(mar(&[&base[..], &["127.0.0.1:0", "--config", config]].concat())).await;
    assert_eq!(said.code, 64, "{said:?}");
    for key in ["session.lisen", "did you mean listen?", "tool_gateway.descriptor_key_files", "runtime.limits.max"] {
        assert!(said.err.contains(key), "{key} in {said:?}");
    }
    let open = say(mar(&[&base[..], &["0.0.0.0:0"]].concat())).await;
    assert_eq!(open.code, 64, "{open:?}");
    assert!(open.err.contains("runtime.auth.mode"), "{open:?}");
    for (args, text) in [
        (&["--stores", "postgres"][..], "--postgres-url"),
        (&["--stores", "memory,redis"], "both"),
        (&["--docs", "/no/such/folder"], "/no/such/folder"),
    ] {
        let said = say(mar(&[&base[..], &["127.0.0.1:0"], args].concat())).await;
        assert_eq!(said.code, 64, "{said:?}");
        assert!(said.err.contains(text), "{text} in {said:?}");
    }
}

#[tokio::test]
async fn every_mistake_of_a_rehearsal_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script.toml");
    std::fs::write(&script, "[[rule]]\ntimes = 0\nreply = { chunk_size = 0, echo = true }\n[[rule]]\nreply = 1\n")
        .unwrap();
    let said = say(mar(&["rehearse", script.to_str().unwrap()])).await;
    assert_eq!(said.code, 64, "{said:?}");
    for place in ["rule[0].times", "rule[0].reply.chunk_size", "rule[1].reply"] {
        assert!(said.err.contains(place), "{place} in {said:?}");
    }
}

#[tokio::test]
async fn every_argument_of_up_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let base = ["up", "--data", data.to_str().unwrap(), "--rehearse"];
    let wrong = ["--stores", "postgres,redis", "--listen", "nowhere", "--docs", "/no/such/folder"];
    let said = say(mar(&[&base[..], &wrong[..]].concat())).await;
    assert_eq!(said.code, 64, "{said:?}");
    let named =
        ["--listen nowhere", "--stores postgres", "--postgres-url", "--stores redis", "--redis-url", "/no/such/folder"];
    for text in named {
        assert!(said.err.contains(text), "{text} in {said:?}");
    }
    assert!(!data.exists(), "nothing is written for arguments that cannot be used");
}

#[tokio::test]
async fn a_model_server_that_was_named_has_to_answer() {
    let folder = tempfile::tempdir().unwrap();
    let port = mar_testkit::ports::free().unwrap();
    let url = format!("http://127.0.0.1:{port}/v1");
    let said = say(mar(&["up", "--data", folder.path().to_str().unwrap(), "--model-url", &url])).await;
    assert_eq!(said.code, 69, "{said:?}");
    assert!(said.err.contains(&url), "{said:?}");
}

#[tokio::test]
async fn models_of_a_local_server_are_found_and_used() {
    let script = "models = ['Org/Tiny:1b']\n[[rule]]\nreply = { agent = true }";
    let up = Up::scripted(script).await;
    let models = up.say(&["models", "list", "--json"]).await.json();
    let all = models["models"].as_array().unwrap();
    let tiny = all.iter().find(|model| model["name"] == "models/org-tiny-1b").unwrap();
    assert_eq!((tiny["admitted"].as_bool(), tiny["trust_tier"].as_str()), (Some(true), Some("UNVERIFIED")));
    let keyless = all.iter().find(|model| model["name"] == "models/gpt-4o").unwrap();
    assert_eq!((keyless["admitted"].as_bool(), keyless["obstacle"].as_str()), (Some(true), Some("NOT_CONFIGURED")));
    let shown = up.say(&["models", "list"]).await.out;
    let row = shown.lines().find(|line| line.starts_with("gpt-4o ")).unwrap();
    assert!(row.ends_with("no: the credential is missing (env OPENAI_API_KEY)"), "{row}");

    // The models without a key are sealed; they are neither tried nor paid for.
    let run = up.say(&["run", "How far is the moon?", "--tools", "docs.*", "--max-cost", "0.04", "--json"]).await;
    assert_eq!(run.code, 0, "{run:?}");
    let run = run.json();
    let turns: Vec<_> =
        run["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "TURN_COMMITTED").collect();
    assert!(!turns.is_empty());
    for turn in turns {
        assert_eq!(turn["model"], "models/org-tiny-1b");
        assert_eq!(turn["failed_attempts"].as_array().unwrap().len(), 0, "{turn}");
        assert!(turn["translation_warnings"].is_array(), "{turn}");
    }
}

#[tokio::test]
async fn without_any_model_a_run_says_what_to_set() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["up", "--data", folder.path().to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let up = Process::spawn("mar up", mar(&args)).unwrap();
    let line = up.wait_for_line("mar is up on", PATIENCE).await.unwrap();
    let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    // A model server that happens to run on this machine would be found: only OpenAI's models are asked for.
    let run = say(mar(&["run", "hello", "--model", "gpt-4o", "--endpoint", url])).await;
    assert!(run.code == 1 && run.out.contains("PROVIDER_CREDENTIAL"), "{run:?}");
    assert!(run.out.contains("mar models list"), "{run:?}");
    let log = up.log().join("\n");
    assert!(log.contains("openai: the credential is missing (env OPENAI_API_KEY)"), "{log}");
}

#[tokio::test]
async fn keys_open_what_they_are_for() {
    let made = say(mar(&["keys", "api", "--id", "ci", "--tenant", "acme"])).await;
    let key = made.out.trim().to_owned();
    let entry = made.err.split_once("[[").unwrap().1;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("keys.toml");
    std::fs::write(&config, format!("[runtime.auth]\nmode = \"api_keys\"\n[[{entry}")).unwrap();
    let up = Up::with(Script::default(), &["--config", config.to_str().unwrap()]).await;
    let without = up.say(&["runs", "list"]).await;
    assert_eq!(without.code, 77, "{without:?}");
    let wrong = up.say(&["runs", "list", "--key", &format!("{key}0")]).await;
    assert!(wrong.code == 77 && wrong.err.contains("UNAUTHENTICATED"), "{wrong:?}");
    let with = up.say(&["run", "How far is the moon?", "--tools", "docs.*", "--key", &key]).await;
    assert_eq!(with.code, 0, "{with:?}");
    assert_eq!(up.say(&["run", "x", "--key", "a\nb"]).await.code, 64);
}

#[tokio::test]
async fn a_rehearsal_is_a_process_of_its_own() {
    let rehearsed = Process::spawn("mar rehearse", mar(&["rehearse", "--listen", "127.0.0.1:0"])).unwrap();
    let line = rehearsed.wait_for_line("rehearsal on http://", PATIENCE).await.unwrap();
    assert!(line.contains("not a model"), "{line}");
    let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let args = ["up", "--data", folder.path().to_str().unwrap(), "--listen", "127.0.0.1:0", "--model-url", &url];
    let mut up = Process::spawn("mar up", mar(&args)).unwrap();
    up.wait_for_line("mar is up on", PATIENCE).await.unwrap();
    up.signal(Signal::Term).unwrap();
    assert_eq!(up.wait(PATIENCE).await.unwrap().code(), Some(0));
    let refused = say(mar(&["rehearse", "/no/such/script.toml"])).await;
    assert_eq!(refused.code, 64, "{refused:?}");
}

#[tokio::test]
async fn it_can_play_without_any_model() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["up", "--data", folder.path().to_str().unwrap(), "--listen", "127.0.0.1:0", "--rehearse"];
    let up = Process::spawn("mar up", mar(&args)).unwrap();
    let line = up.wait_for_line("mar is up on", PATIENCE).await.unwrap();
    let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    let run = say(mar(&["run", "hello", "--endpoint", url])).await;
    assert_eq!(run.code, 0, "{run:?}");
}
