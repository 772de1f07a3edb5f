//! A run of many steps with a search in each, and what its steps take in the store.

use mar_proto::session::{RunState, Task};
use mar_proto::types::HaltingPolicy;
use mar_testkit::postgres::Postgres;

use crate::{Client, task};

/// The most that the rows of one step may take over their contents, in bytes: its four events with their chain, commitments
/// and counters. 1 KiB a step is 1 GB for a million steps, whatever agents say in them.
pub const MOST_BESIDE: i64 = 1_024;

/// Events of a step: its generation, the turn, the call, the result.
const EVENTS: u32 = 4;
/// Events before the first step: the admission and the agent.
const BEFORE: u32 = 2;

/// A search in every turn, each with words of its own, and an answer in the last.
pub fn script(steps: u32) -> String {
    format!(
        r#"
[[rule]]
match = {{ turn = {} }}
reply = {{ text = "Twice a month." }}
[[rule]]
reply = {{ tool_calls = [{{ name = "docs_search", arguments = {{ query = "harbour {{{{turn}}}}" }} }}] }}
"#,
        steps - 1
    )
}

/// A run of so many steps, to its end; answers its name.
///
/// # Errors
/// It does not answer.
pub async fn run(client: &mut Client, steps: u32) -> anyhow::Result<String> {
    let limits = HaltingPolicy {
        max_steps: Some(i64::from(steps) + 1),
        max_tool_calls: Some(i64::from(steps) + 1),
        max_input_tokens: Some(1_000_000_000),
        ..HaltingPolicy::default()
    };
    // Without a recipe's examples: the script goes by the number of answers.
    let task = Task { tools: task::selectors(&["docs.*"]), ..task::question("When does the harbour flood?") };
    let task = task::limited(task, limits);
    let run = client.run(task).await?.run;
    let (halted, failure) = (run.halt_reason(), &run.failure);
    anyhow::ensure!(run.state() == RunState::Succeeded, "{:?}: {halted:?}, {failure:?}, {:?}", run.state(), run.totals);
    Ok(run.name)
}

/// The bytes that the rows of a step take beside their contents, and the number of these rows. `run` is the name of a run with
/// [`script`].
///
/// # Errors
/// The rows cannot be read.
pub fn beside_content(postgres: &Postgres, run: &str, step: u32) -> anyhow::Result<(i64, i64)> {
    let id = run.rsplit('/').next().unwrap_or(run);
    let last = BEFORE + step * EVENTS;
    let rows = format!("FROM session.events e WHERE run_id = '{id}' AND seq >= {} AND seq < {last}", last - EVENTS);
    let size = "sum(pg_column_size(e.*) - coalesce(pg_column_size(e.content), 0))";
    let number = |what: &str| anyhow::Ok(postgres.execute(&format!("SELECT {what} {rows}"))?.trim().parse::<i64>()?);
    Ok((number(size)?, number("count(*)")?))
}
