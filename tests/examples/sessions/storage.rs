//! Bytes stored for a step, early and late in a long run.

use anyhow::Context as _;
use mar_testkit::postgres::Postgres;
use mar_tests::{Deployment, Options, Shape, Stores};

use crate::{say, step, title};

const STEPS: u32 = 401;

pub async fn measure() -> anyhow::Result<()> {
    title("Storage, one run of 400 steps with a tool each")?;
    let options = Options::new(Shape::Four, Stores::Servers).own_servers().script(step::script(STEPS));
    let system = Deployment::start(options).await?;
    let run = step::run(&mut system.client().await?, STEPS).await?;
    let id = run.rsplit('/').next().context("no id")?;
    let postgres = system.postgres.as_ref().context("no Postgres")?;
    for step in [4, 400] {
        let over = over(postgres, id, step)?;
        say(
            format!("stored over the content's own bytes, step {step}"),
            format!("{over} B"),
            "(wanted: 1,024 or less)",
        )?;
    }
    Ok(())
}

/// What the rows of a step take beside their contents: each step has the same four events, behind the first two of the run.
fn over(postgres: &Postgres, run: &str, step: u32) -> anyhow::Result<u64> {
    let last = 2 + step * 4;
    let sql = format!(
        "SELECT sum(pg_column_size(e.*) - coalesce(pg_column_size(e.content), 0)) FROM session.events e \
         WHERE run_id = '{run}' AND seq > {} AND seq <= {last}",
        last - 4
    );
    Ok(postgres.execute(&sql)?.trim().parse()?)
}
