//! Upstreams that are missing, slow, crashing, far too talkative, or killed.

use std::path::Path;
use std::process::Command;

use mar_proto::session::{Task, event_leaf::Body};
use mar_proto::types::HaltingPolicy;
use mar_testkit::process::built_binary;
use mar_tests::{Deployment, Options, Shape, Stores, task};

use crate::story::{bodies, end, names, results, returns, text};

const SCRIPT: &str = r#"
[[rule]]
match = { contains = "[slow]", turn = 0 }
reply = { tool_calls = [{ name = "slow_slow", arguments = { ms = 60000 } }, { name = "docs_search", arguments = { query = "harbour" } }] }
[[rule]]
match = { contains = "[crash]", turn = 0 }
reply = { tool_calls = [{ name = "s_crash", arguments = {} }, { name = "docs_search", arguments = { query = "harbour" } }] }
[[rule]]
match = { contains = "[many]", turn = 0 }
reply = { tool_calls = [{ name = "s_many", arguments = { pieces = 300000 } }, { name = "docs_search", arguments = { query = "harbour" } }] }
[[rule]]
match = { contains = "[huge]", turn = 0 }
reply = { tool_calls = [{ name = "s_huge", arguments = { bytes = 100000000 } }, { name = "docs_search", arguments = { query = "harbour" } }] }
[[rule]]
match = { contains = "[large]", turn = 0 }
reply = { tool_calls = [{ name = "s_huge", arguments = { bytes = 200000 } }] }
[[rule]]
match = { contains = "[echo]", turn = 0 }
reply = { tool_calls = [{ name = "s_echo", arguments = { text = "still here" } }] }
[[rule]]
match = { contains = "[fail]", turn = 0 }
reply = { tool_calls = [{ name = "s_fail", arguments = {} }] }
[[rule]]
match = { contains = "[twice]", turn = 0 }
reply = { tool_calls = [{ name = "s_echo", arguments = { text = "one" } }] }
[[rule]]
match = { contains = "[twice]", turn = 1 }
reply = { delay = "600ms", tool_calls = [{ name = "s_echo", arguments = { text = "two" } }] }
[[rule]]
match = { contains = "[search]", turn = 0 }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "harbour" } }] }
[[rule]]
reply = { text = "Fine." }
"#;

fn extra(folder: &Path, server: &str) -> String {
    let folder = folder.display();
    format!(
        r#"
[tool_gateway.upstreams.ghost]
kind = "mcp_stdio"
command = "/nowhere/to/be/found"
restart = {{ min = "50ms", max = "200ms" }}
[tool_gateway.upstreams.s]
kind = "mcp_stdio"
command = "{server}"
args = ["stdio", "{folder}"]
restart = {{ min = "10ms", max = "100ms" }}
[tool_gateway.upstreams.slow]
kind = "mcp_stdio"
command = "{server}"
args = ["stdio", "{folder}/slow"]
timeout = "300ms"
"#
    )
}

fn with(tools: &[&str], text: &str) -> Task {
    Task { tools: task::selectors(tools), ..task::question(text) }
}

/// The largest that the process has ever been, in MiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kilobytes.expect("the process runs") / 1024
}

fn pids(folder: &Path) -> Vec<String> {
    let journal = std::fs::read_to_string(folder.join("journal")).unwrap_or_default();
    journal.lines().filter_map(|line| line.strip_prefix("started ").map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_upstream_hurts_its_own_calls_only() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("slow"))?;
    let server = built_binary("examples/scripted_mcp")?.display().to_string();
    let options = Options::new(Shape::Four, Stores::Embedded).script(SCRIPT).extra(extra(folder.path(), &server));
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;

    system.wait_for_tools(&["s", "slow"]).await?;

    // A task that takes what there is goes on without the missing one; one that names it, or a tool of it, waits.
    let followed = client.run(with(&["*"], "[search]")).await?;
    assert_eq!(end(&followed.run), "SUCCEEDED", "{:?}", followed.run.failure);

    let limits = HaltingPolicy {
        expire_after: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..HaltingPolicy::default()
    };
    for selector in ["ghost.*", "ghost.anything"] {
        let followed = client.run(task::limited(with(&[selector, "docs.*"], "[search]"), limits)).await?;
        assert_eq!(followed.story(), ["RunAdmitted", "RunWaiting", "StopRequested", "RunEnded"], "{selector}");
        let events = client.events(&followed.run.name).await?;
        let waits = bodies(&events).into_iter().find_map(|body| match body {
            Body::RunWaiting(waiting) => Some(waiting.dependency),
            _ => None,
        });
        let told = "agent-generator: an upstream whose tools the task names is down: ghost";
        assert_eq!(waits.as_deref(), Some(told), "{selector}");
        assert_eq!(end(&followed.run), "HALTED EXPIRED", "{selector}");
    }

    let unknown = "UNKNOWN OUTCOME_UNKNOWN";
    let cases = [
        ("[echo]", vec!["OK "], "still here"),
        ("[fail]", vec!["ERROR TOOL_ERROR"], "it did not work"),
        ("[slow]", vec![unknown, "OK "], "OUTCOME_UNKNOWN"),
        ("[crash]", vec![unknown, "OK "], "OUTCOME_UNKNOWN"),
        ("[echo] again", vec!["OK "], "still here"),
        ("[large]", vec!["OK "], "200000 bytes"),
        ("[huge]", vec!["OK ", "OK "], "bytes was cut to"),
        ("[many]", vec!["ERROR RESULT_TOO_LARGE", "OK "], "RESULT_TOO_LARGE"),
        ("[echo] at last", vec!["OK "], "still here"),
    ];
    for (text_of_task, expected, told) in cases {
        let followed = client.run(with(&["s.*", "slow.*", "docs.*"], text_of_task)).await?;
        assert_eq!(
            end(&followed.run),
            "SUCCEEDED",
            "{text_of_task}: {:?} {:#?}",
            followed.story(),
            followed.run.failure
        );
        let events = client.events(&followed.run.name).await?;
        let mut found: Vec<_> =
            returns(&bodies(&events)).iter().map(|(outcome, reason, _)| format!("{outcome} {reason}")).collect();
        found.sort_by_key(|found| found.starts_with("OK"));
        assert_eq!(found, expected, "{text_of_task}");
        let results = results(&events);
        assert!(results.iter().any(|result| text(result).contains(told)), "{text_of_task}: {results:?}");
        assert!(results.iter().all(|result| text(result).len() < 70_000), "{text_of_task}: what is sent on is bounded");
    }
    for (service, most) in [(0, 120), (3, 160)] {
        let pid = system.pid(service).expect("it runs");
        let peak = peak(pid);
        assert!(peak < most, "service {service} has grown to {peak} MiB");
    }

    // Killed between two calls of one run: it is started again, and the run does not notice.
    let session = client.session().await?;
    let run = client.start(&session, with(&["s.*"], "[twice]")).await?;
    let returned = || async {
        client.clone().events(&run.name).await.is_ok_and(|events| names(&events).contains(&"ToolReturned"))
    };
    crate::story::when(returned).await?;
    let pid = pids(folder.path()).pop().expect("it was started");
    assert!(Command::new("kill").args(["-9", &pid]).status()?.success());
    let followed = client.watch(&run.name, 0).await?;
    assert_eq!(end(&followed.run), "SUCCEEDED");
    let events = client.events(&run.name).await?;
    let texts: Vec<_> = results(&events).iter().map(text).collect();
    assert_eq!(texts, ["one", "two"], "{:?}", returns(&bodies(&events)));
    Ok(())
}
