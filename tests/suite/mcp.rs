//! MCP servers by others, called by an agent and killed between two calls of one run.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use mar_proto::session::run_frame::Frame;
use mar_proto::session::{RunState, Task, ToolOutcome, WatchRunRequest, event_leaf::Body};
use mar_proto::tool::ListToolsRequest;
use mar_proto::tool::tool_gateway_service_client::ToolGatewayServiceClient;
use mar_proto::types::HaltingPolicy;
use mar_testkit::ports;
use mar_testkit::process::Process;
use mar_testkit::wait::until_some;
use mar_tests::{Deployment, Followed, Options, task};
use tokio::process::Command;
use tokio_stream::StreamExt as _;

use crate::reading::{body, results, tool};

both_ways! {
    servers_of_others_are_called_and_killed
}

const START: Duration = Duration::from_secs(60);
const EVERYTHING: &str = "npm/node_modules/@modelcontextprotocol/server-everything/dist/index.js";
const FILES: &str = "npm/node_modules/@modelcontextprotocol/server-filesystem/dist/index.js";

/// The model thinks for long while the servers are killed, and goes on calling until both are back.
const SCRIPT: &str = r#"
[[rule]]
times = 1
reply = { tool_calls = [
  { name = "everything_echo", arguments = { message = "over stdio" } },
  { name = "web_echo", arguments = { message = "over http" } },
  { name = "files_read_text_file", arguments = { path = "FOLDER/tides.md" } },
  { name = "files_list_directory", arguments = { path = "FOLDER" } },
] }
[[rule]]
name = "while they are gone"
times = 1
reply = { delay = "3s", tool_calls = [
  { name = "everything_echo", arguments = { message = "again over stdio" } },
  { name = "web_echo", arguments = { message = "again over http" } },
  { name = "files_list_directory", arguments = { path = "FOLDER" } },
  { name = "docs_search", arguments = { query = "whale oil" } },
] }
[[rule]]
name = "after their return"
match = { tool_result_contains = "back over http" }
reply = { text = "Called them all." }
[[rule]]
reply = { delay = "500ms", tool_calls = [
  { name = "everything_echo", arguments = { message = "back over stdio" } },
  { name = "web_echo", arguments = { message = "back over http" } },
] }
"#;

/// Waits until the gateway lists a tool and its upstream is up.
pub async fn listed(system: &Deployment, name: &str) -> anyhow::Result<()> {
    let gateway = ToolGatewayServiceClient::connect(system.endpoint(3)).await?;
    let upstream = name.split('.').next().unwrap_or_default();
    let look = || {
        let mut gateway = gateway.clone();
        async move {
            let list =
                gateway.list_tools(ListToolsRequest { page_size: 1000, ..Default::default() }).await.ok()?.into_inner();
            let wanted = format!("tools/{name}");
            let there = list.tools.iter().any(|tool| tool.name == wanted && !tool.stale);
            let down = list.unavailable.iter().any(|state| state.upstream == upstream);
            (there && !down).then_some(())
        }
    };
    until_some(START, look).await.with_context(|| format!("{name} is not listed:\n{}", system.log_of(3).join("\n")))
}

/// `server-everything` over HTTP, which somebody else starts and ends.
async fn web_server(program: &Path, port: u16) -> anyhow::Result<Process> {
    let mut command = Command::new("node");
    command.arg(program).arg("streamableHttp").env("PORT", port.to_string());
    let mut server = Process::spawn("server-everything", command)?;
    server.wait_for_port(([127, 0, 0, 1], port).into(), START).await?;
    Ok(server)
}

fn upstreams(everything: &Path, files: &Path, folder: &Path, port: u16) -> String {
    let (everything, files, folder) = (everything.display(), files.display(), folder.display());
    let common = "start_timeout = '60s'\ntrust_tier = 'ALIGNED'\nrestart = { min = '50ms', max = '200ms' }\n";
    format!(
        "[tool_gateway.upstreams.everything]\nkind = 'mcp_stdio'\ncommand = 'node'\nargs = ['{everything}', 'stdio']\n{common}\
         [tool_gateway.upstreams.files]\nkind = 'mcp_stdio'\ncommand = 'node'\nargs = ['{files}', '{folder}']\n{common}\
         [tool_gateway.upstreams.web]\nkind = 'mcp_http'\nurl = 'http://127.0.0.1:{port}/mcp'\nallow_private = true\n\
         timeout = '5s'\n{common}"
    )
}

async fn servers_of_others_are_called_and_killed(options: Options) -> anyhow::Result<()> {
    let (Some(everything), Some(files)) = (tool(EVERYTHING), tool(FILES)) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let root = folder.path().canonicalize()?;
    std::fs::write(root.join("tides.md"), "read by the file server")?;
    let port = ports::free()?;
    let mut web = web_server(&everything, port).await?;
    let script = SCRIPT.replace("FOLDER", &root.to_string_lossy());
    let system = Deployment::start(options.script(script).extra(upstreams(&everything, &files, &root, port))).await?;
    for name in ["everything.echo", "files.read_text_file", "web.echo"] {
        listed(&system, name).await?;
    }

    let mut client = system.client().await?;
    let session = client.session().await?;
    let tools = ["everything.echo", "web.echo", "files.read_text_file", "files.list_directory", "docs.search"];
    let task = Task { tools: task::selectors(&tools), ..task::question("Call them.") };
    let patient = HaltingPolicy { max_steps: Some(100), max_tool_calls: Some(200), ..HaltingPolicy::default() };
    let run = client.start(&session, task::limited(task, patient)).await?;
    let mut watched = client.clone();
    wait_for_results(&mut watched, &run.name, 4).await?;
    web.kill().await?;
    kill_child(&system, &everything.to_string_lossy())?;
    wait_for_results(&mut watched, &run.name, 8).await?;
    let mut web = web_server(&everything, port).await?;
    let followed = client.watch(&run.name, 0).await?;
    assert_eq!(followed.run.state(), RunState::Succeeded, "{:#?}\n{}", followed.run, system.log_of(3).join("\n"));
    assert_results(&followed);
    web.kill().await
}

/// The first calls succeed; with its server gone a call fails and the model sees why, while others answer; a server that
/// the gateway starts itself is back at the next call, and so is one that somebody else starts again.
fn assert_results(followed: &Followed) {
    let by_index = |step: usize| {
        let own = format!("/{step}/");
        let mut of_step: Vec<_> =
            results(followed).into_iter().filter(|result| result.call_id.contains(&own)).collect();
        of_step.sort_by_key(|result| result.call_id.clone());
        of_step.iter().map(|result| (result.is_error, format!("{:?}", result.content))).collect::<Vec<_>>()
    };
    let first = by_index(1);
    for (result, said) in first.iter().zip(["over stdio", "over http", "read by the file server", "tides.md"]) {
        assert!(!result.0 && result.1.contains(said), "{said}: {result:?}");
    }
    let second = by_index(2);
    assert!(second[0].0 || second[0].1.contains("again over stdio"), "{:?}", second[0]);
    assert!(second[1].0, "the server over HTTP was gone: {:?}", second[1]);
    assert!(!second[2].0 && second[2].1.contains("tides.md"), "{:?}", second[2]);
    assert!(!second[3].0 && second[3].1.contains("whale oil"), "{:?}", second[3]);
    let steps = followed.run.totals.unwrap_or_default().steps;
    let last = by_index(usize::try_from(steps - 1).unwrap_or_default());
    for (result, said) in last.iter().zip(["back over stdio", "back over http"]) {
        assert!(!result.0 && result.1.contains(said), "{said}: {result:?}");
    }
    let outcomes = followed.events().into_iter().filter_map(body).filter_map(|body| match body {
        Body::ToolReturned(returned) if returned.call_id.ends_with("/2/1") => Some(returned.outcome()),
        _ => None,
    });
    let outcomes: Vec<_> = outcomes.collect();
    assert!(outcomes.len() == 1 && outcomes[0] != ToolOutcome::Ok, "the log says what became of it: {outcomes:?}");
}

async fn wait_for_results(client: &mut mar_tests::Client, name: &str, count: usize) -> anyhow::Result<()> {
    let request = WatchRunRequest { name: name.into(), ..Default::default() };
    let mut stream = client.grpc.watch_run(request).await?.into_inner();
    let mut seen = 0;
    while let Some(frame) = stream.next().await {
        let frame = frame?.frame.and_then(|frame| frame.frame);
        match frame {
            Some(Frame::Event(event)) if matches!(body(&event), Some(Body::ToolReturned(_))) => seen += 1,
            Some(Frame::End(_)) => anyhow::bail!("the run ended after {seen} results"),
            _ => {}
        }
        if seen == count {
            return Ok(());
        }
    }
    anyhow::bail!("the stream ended after {seen} results")
}

/// Kills the child of the gateway that runs `program`, and no other process.
fn kill_child(system: &Deployment, program: &str) -> anyhow::Result<()> {
    let gateway = system.pid(3).context("the gateway has ended")?;
    for entry in std::fs::read_dir("/proc")? {
        let folder = entry?.path();
        let Some(pid) = folder.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) else { continue };
        // A process may end while it is looked at.
        let (Ok(status), Ok(line)) =
            (std::fs::read_to_string(folder.join("status")), std::fs::read_to_string(folder.join("cmdline")))
        else {
            continue;
        };
        let parent =
            status.lines().find_map(|line| line.strip_prefix("PPid:")).and_then(|text| text.trim().parse().ok());
        if parent == Some(gateway) && line.split('\0').any(|word| word == program) {
            let killed = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status()?;
            anyhow::ensure!(killed.success(), "{pid} could not be killed");
            return Ok(());
        }
    }
    anyhow::bail!("no child of {gateway} runs {program}")
}
