//! A client that is not ours: `grpcurl`, by reflection alone.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use mar_tests::{Deployment, Options};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::reading::tool;

both_ways! {
    a_foreign_client_runs_and_watches_a_task
    every_service_tells_its_health
}

const SERVICE: &str = "agentruntime.session.v1.SessionService";

struct Grpcurl {
    program: PathBuf,
    address: String,
}

impl Grpcurl {
    fn of(program: PathBuf, endpoint: &str) -> Self {
        Self { program, address: endpoint.trim_start_matches("http://").to_owned() }
    }

    /// What it prints.
    async fn run(&self, before: &[&str], after: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.args(["-plaintext", "-max-time", "60"]).args(before).arg(&self.address).args(after).kill_on_drop(true);
        let output = command.output().await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "grpcurl {before:?} {after:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The messages that a method answers.
    async fn call(&self, method: &str, message: &Value) -> anyhow::Result<Vec<Value>> {
        let text = self.run(&["-d", &message.to_string()], &[method]).await?;
        Ok(serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>()?)
    }
}

async fn a_foreign_client_runs_and_watches_a_task(options: Options) -> anyhow::Result<()> {
    let Some(program) = tool("bin/grpcurl") else { return Ok(()) };
    let system = Deployment::start(options).await?;
    let client = Grpcurl::of(program, &system.endpoint(0));
    let services = client.run(&[], &["list"]).await?;
    assert!(services.lines().any(|line| line == SERVICE), "{services}");
    let described = client.run(&[], &["describe", SERVICE]).await?;
    for rpc in ["rpc StartSession (", "rpc RunTask (", "rpc WatchRun (", "returns ( stream ."] {
        assert!(described.contains(rpc), "{rpc} in {described}");
    }
    let described = client.run(&[], &["describe", ".agentruntime.session.v1.Task"]).await?;
    assert!(described.contains("output_schema_json"), "{described}");

    let started =
        client.call(&format!("{SERVICE}/StartSession"), &json!({"requestId": "foreign-1", "session": {}})).await?;
    let session = started[0]["session"]["name"].as_str().context("no session")?;
    let task = json!({
        "type": "answer",
        "input": [{"text": "When does the harbour of Marel flood?"}],
        "tools": [{"pattern": "docs.*"}],
        "model": {"models": ["models/rehearsal"]},
    });
    let request = json!({"requestId": "foreign-2", "session": session, "task": task});
    let frames = client.call(&format!("{SERVICE}/RunTask"), &request).await?;
    let end = frames.last().map(|frame| frame["frame"]["end"]["run"].clone()).unwrap_or_default();
    assert_eq!(end["state"], "RUN_STATE_SUCCEEDED", "{end:#}\n{}", system.log().join("\n"));
    assert!(end["seal"]["hash"].as_str().is_some_and(|hash| hash.starts_with("sha256:")), "{end:#}");
    assert!(end["answer"]["citations"].as_array().is_some_and(|citations| !citations.is_empty()), "{end:#}");

    let name = end["name"].as_str().context("a run without a name")?;
    let watched = client.call(&format!("{SERVICE}/WatchRun"), &json!({"name": name, "fromSeq": "3"})).await?;
    assert_eq!(watched.last().map(|frame| &frame["frame"]["end"]["run"]), Some(&end));
    let seqs: Vec<_> =
        watched.iter().filter_map(|frame| frame["frame"]["event"]["seq"].as_str()?.parse::<i64>().ok()).collect();
    assert_eq!(seqs.first(), Some(&3));
    assert!(seqs.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{seqs:?}");

    // A refusal can be read without our code.
    let refused = client.call(&format!("{SERVICE}/GetRun"), &json!({"name": "sessions/x/runs/y"})).await.unwrap_err();
    let said = refused.to_string();
    assert!(said.contains("InvalidArgument"), "{said}");
    let details = details(&said);
    let info = detail(&details, "google.rpc.ErrorInfo");
    assert_eq!((&info["reason"], &info["domain"]), (&json!("INVALID_REQUEST"), &json!("agentruntime")), "{said}");
    let found = detail(&details, "google.rpc.BadRequest")["fieldViolations"].clone();
    assert!(found[0]["field"] == "name" && found[0]["description"].is_string(), "{said}");
    let gone = "sessions/01935c1e-0000-7000-8000-000000000000";
    let refused = client.call(&format!("{SERVICE}/GetSession"), &json!({"name": gone})).await.unwrap_err();
    let said = refused.to_string();
    let details = self::details(&said);
    assert_eq!(detail(&details, "google.rpc.ErrorInfo")["reason"], "NOT_FOUND", "{said}");
    assert_eq!(detail(&details, "google.rpc.ResourceInfo")["resourceName"], gone, "{said}");
    Ok(())
}

/// The details that `grpcurl` prints below a status: numbered JSON objects.
fn details(said: &str) -> Vec<Value> {
    let listed = said.split_once("Details:").map_or("", |(_, listed)| listed);
    let objects = listed
        .match_indices("\t{")
        .filter_map(|(at, _)| serde_json::Deserializer::from_str(&listed[at..]).into_iter().next()?.ok());
    objects.collect()
}

/// The one of this type, with fields rather than bytes.
fn detail<'a>(details: &'a [Value], kind: &str) -> &'a Value {
    let wanted = format!("type.googleapis.com/{kind}");
    let found = details.iter().find(|detail| detail["@type"] == wanted.as_str());
    found.unwrap_or_else(|| panic!("no {kind} in {details:?}"))
}

async fn every_service_tells_its_health(options: Options) -> anyhow::Result<()> {
    let Some(program) = tool("bin/grpcurl") else { return Ok(()) };
    let system = Deployment::start(options).await?;
    let names = [
        "agentruntime.session.v1.SessionService",
        "agentruntime.router.v1.RouterService",
        "agentruntime.agent.v1.AgentGeneratorService",
        "agentruntime.tool.v1.ToolGatewayService",
    ];
    for (index, name) in names.into_iter().enumerate() {
        let client = Grpcurl::of(program.clone(), &system.endpoint(index));
        let listed = client.run(&[], &["list"]).await?;
        assert!(listed.lines().any(|line| line == name), "{name} in {listed}");
        for service in ["", name] {
            let answer = client.call("grpc.health.v1.Health/Check", &json!({"service": service})).await?;
            assert_eq!(answer[0]["status"], "SERVING", "{name}: {answer:?}");
        }
    }
    Ok(())
}
