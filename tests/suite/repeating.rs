//! Runs that are run again after what they were made from has changed: what comes out the same, and what does not.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use mar_proto::session::*;
use mar_testkit::process::built_binary;
use mar_tests::catalogue::Model;
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, Shape, task};
use tokio::process::Command;

both_ways! {
    a_repetition_names_what_has_changed_and_nothing_else
}

const SCRIPT: &str = r#"
[[rule]]
match = { last_role = "tool" }
reply = { text = "So it says." }
[[rule]]
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "harbour" } }] }
"#;

const FRONT: &str = "name = 'tally'\nversion = 1\nrole = 'counts'\ntask_types = ['tally']\n[sampling]\nmax_output_tokens = 64\n\
                     [budget]\nprompt_bytes = 4000\n";

fn catalogue(context_tokens: i64) -> String {
    Model { context_tokens, max_output_tokens: 200, ..Model::default() }.toml()
}

/// What agents are made from, in files that a test changes.
struct Sources(tempfile::TempDir);

impl Sources {
    fn new() -> anyhow::Result<Self> {
        let sources = Self(tempfile::tempdir()?);
        std::fs::create_dir_all(sources.path().join("recipes/tally"))?;
        sources.write("recipes/tally/recipe.toml", FRONT)?;
        sources.write("recipes/tally/system.jinja", "You count.")?;
        sources.write("recipes/tally/task.jinja", "{{ input }}")?;
        sources.policy("")?;
        Ok(sources)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.path().join(name), text)?)
    }

    /// The platform's policy, with these rules beside it.
    fn policy(&self, rules: &str) -> anyhow::Result<()> {
        self.write("platform.cedar", &format!("@id(\"all\") permit (principal, action, resource);\n{rules}"))
    }

    /// Has the services of a system that was prepared read them.
    fn serve(&self, system: &Deployment) -> anyhow::Result<()> {
        let path = |name: &str| self.path().join(name).display().to_string();
        let policy = format!("platform_policy = '{}'\n", path("platform.cedar"));
        let config = std::fs::read_to_string(system.config_file())?
            .replace("[agent_generator]\n", &format!("[agent_generator]\nrecipes = '{}'\n{policy}", path("recipes")))
            .replace("[tool_gateway]\n", &format!("[tool_gateway]\n{policy}"));
        Ok(std::fs::write(system.config_file(), config)?)
    }
}

/// Repeats a run: the aspects that differ though no provider has a say in them, and those that a provider may vary.
async fn repeated(client: &mut Client, base: &str) -> anyhow::Result<[BTreeSet<String>; 2]> {
    let again = ForkRunRequest { request_id: request_id(), name: base.into(), ..Default::default() };
    let fork = client.grpc.fork_run(again).await?.into_inner().run.context("no fork")?;
    let fork = client.until(&fork.name, |run| run.seal.is_some()).await?;
    anyhow::ensure!(fork.state() == RunState::Succeeded, "{fork:#?}");
    let pair = DiffRunsRequest { name: fork.name, base: base.into() };
    let comparisons = client.grpc.diff_runs(pair).await?.into_inner().comparisons;
    let named = |may_vary: bool| {
        let differing = comparisons.iter().filter(|one| one.may_vary == may_vary && !one.differences.is_empty());
        differing.map(|one| one.aspect().as_str_name().trim_start_matches("RUN_ASPECT_").to_owned()).collect()
    };
    Ok([named(false), named(true)])
}

/// The exit code of `mar runs repeat`, and what it says.
async fn said(system: &Deployment, base: &str) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = Command::new(built_binary("mar")?);
    command.args(["runs", "repeat", base, "--endpoint", &system.endpoint(0)]).env_remove("MAR_CONFIG");
    let output = command.output().await?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn restart(system: &mut Deployment, shape: Shape) -> anyhow::Result<Client> {
    let processes = if shape == Shape::One { 1 } else { 4 };
    for service in 0..processes {
        system.kill(service).await?;
    }
    for service in 0..processes {
        system.restart(service).await?;
    }
    system.wait_for_tools(&["docs"]).await?;
    system.client().await
}

async fn a_repetition_names_what_has_changed_and_nothing_else(options: Options) -> anyhow::Result<()> {
    let (sources, shape) = (Sources::new()?, options.shape);
    let mut system = Deployment::prepare(options.script(SCRIPT).catalogue(catalogue(100_000))).await?;
    sources.serve(&system)?;
    system.start_all().await?;
    system.wait_for_tools(&["docs"]).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let asked =
        Task { r#type: "tally".into(), tools: task::selectors(&["docs.search"]), ..task::question("How many?") };
    let first = client.start(&session, asked).await?;
    let first = client.until(&first.name, |run| run.seal.is_some()).await?;
    assert_eq!(first.state(), RunState::Succeeded, "{first:#?}\n{}", system.log().join("\n"));

    // Under what it was made from, everything is the same to the bit.
    assert_eq!(repeated(&mut client, &first.name).await?, [set(&[]), set(&[])]);
    let (code, told) = said(&system, &first.name).await?;
    assert!(code == Some(0) && told.contains("EQUAL"), "{code:?}: {told}");

    // Another recipe is another prompt; what was asked, found and decided stays.
    sources.write("recipes/tally/system.jinja", "You count twice.")?;
    let mut client = restart(&mut system, shape).await?;
    assert_eq!(repeated(&mut client, &first.name).await?, [set(&["PROMPT"]), set(&[])]);
    let (code, told) = said(&system, &first.name).await?;
    assert!(code == Some(1) && told.contains("DIFFERENT") && told.contains("You count twice."), "{code:?}: {told}");
    sources.write("recipes/tally/system.jinja", "You count.")?;

    // A model that has changed is another model to choose from.
    let models = system.folder().join("catalogue.toml");
    std::fs::write(&models, catalogue(90_000))?;
    let mut client = restart(&mut system, shape).await?;
    assert_eq!(repeated(&mut client, &first.name).await?, [set(&["MODELS"]), set(&[])]);
    std::fs::write(&models, catalogue(100_000))?;

    // A policy that says the same of these calls lets the same results through; verdicts name the text that they were reached under.
    sources.policy(
        "@id(\"no-mail\") forbid (principal, action == Action::\"callTool\", resource == Tool::\"mail.send\");",
    )?;
    let mut client = restart(&mut system, shape).await?;
    assert_eq!(repeated(&mut client, &first.name).await?, [set(&["POLICY", "VERDICTS"]), set(&[])]);

    // One that forbids a call withholds its recorded result, though nothing would be sent.
    sources.policy(
        "@id(\"no-search\") forbid (principal, action == Action::\"callTool\", resource == Tool::\"docs.search\");",
    )?;
    let mut client = restart(&mut system, shape).await?;
    assert_eq!(repeated(&mut client, &first.name).await?, [set(&["POLICY", "RESULTS", "VERDICTS"]), set(&[])]);
    Ok(())
}
