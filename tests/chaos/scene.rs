//! The system that is out in the storm: its tools, its model, and what the tools remember.

use std::collections::BTreeMap;
use std::path::Path;

use mar_testkit::process::built_binary;
use mar_tests::{Deployment, Options, Shape, Stores};

/// Upstream whose calls are declared idempotent: its tool has one effect for each key.
pub const SURE: &str = "sure";
/// Upstream whose calls are not: its tool has an effect each time.
pub const ONCE: &str = "once";

/// What the model does: it calls the tools that the question names, some of them without an end.
const SCRIPT: &str = r#"
[defaults]
chunk_size = 12
chunk_delay = "8ms"
[[rule]]
match = { contains = "leaf" }
reply = { tool_calls = [{ name = "sure_apply", arguments = { n = "{{turn}}" } }] }
[[rule]]
match = { contains = "chain" }
reply = { tool_calls = [{ name = "sure_apply", arguments = { n = "{{turn}}" } }] }
[[rule]]
match = { contains = "pairs" }
reply = { tool_calls = [
  { name = "sure_apply", arguments = { n = "{{turn}}" } },
  { name = "once_append", arguments = { n = "{{turn}}" } },
] }
[[rule]]
match = { last_role = "tool" }
reply = { text = "All tools have been asked, and this is what they had to say about it." }
[[rule]]
match = { contains = "family" }
reply = { tool_calls = [{ name = "runtime_delegate", arguments = { tasks = ["leaf 1", "leaf 2", "leaf 3", "leaf 4", "leaf 5"] } }] }
[[rule]]
match = { contains = "medley" }
reply = { tool_calls = [
  { name = "docs_search", arguments = { query = "harbour of Marel" } },
  { name = "sure_apply", arguments = {} },
  { name = "once_append", arguments = {} },
] }
"#;

/// Four services without their session, which replicas take the place of, on stores of their own.
pub async fn start() -> anyhow::Result<Deployment> {
    let mut text = String::new();
    let program = built_binary("examples/scripted_mcp")?;
    for (name, idempotent) in [(SURE, true), (ONCE, false)] {
        let program = program.display();
        text.push_str(&format!(
            r#"
[tool_gateway.upstreams.{name}]
kind = "mcp_stdio"
command = "sh"
args = ["-c", "mkdir -p {{folder}}/{name} && exec {program} stdio {{folder}}/{name}"]
trust_tier = "ALIGNED"
trusted = true
idempotent = {idempotent}
restart = {{ min = "50ms", max = "500ms" }}
"#
        ));
    }
    let options = Options::new(Shape::Four, Stores::Servers).behind_doors().script(SCRIPT).extra(text);
    let mut system = Deployment::start(options).await?;
    system.wait_for_tools(&["docs", SURE, ONCE]).await?;
    system.kill(0).await?;
    Ok(system)
}

/// What an upstream remembers: by key, calls and effects.
pub fn journal(folder: &Path, upstream: &str) -> anyhow::Result<BTreeMap<String, (usize, usize)>> {
    let folder = folder.join(upstream);
    let mut journal: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for line in std::fs::read_to_string(folder.join("journal")).unwrap_or_default().lines() {
        let mut words = line.split(' ');
        if let (Some("apply" | "append"), Some(key)) = (words.next(), words.next()) {
            journal.entry(key.to_owned()).or_default().0 += 1;
        }
    }
    let Ok(effects) = std::fs::read_dir(folder.join("effects")) else { return Ok(journal) };
    for file in effects {
        let file = file?;
        let key = file.file_name().to_string_lossy().into_owned();
        journal.entry(key).or_default().1 = std::fs::read_to_string(file.path())?.lines().count();
    }
    Ok(journal)
}
