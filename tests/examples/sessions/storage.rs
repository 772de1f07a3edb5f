//! Bytes stored for a step, early and late in a long run.

use anyhow::Context as _;
use mar_tests::steps::{self, MOST_BESIDE};
use mar_tests::{Deployment, Options, Shape, Stores};

use crate::{say, title};

const STEPS: u32 = 401;

pub async fn measure() -> anyhow::Result<()> {
    title("Storage, one run of 400 steps with a tool each")?;
    let options = Options::new(Shape::Four, Stores::Servers).own_servers().script(steps::script(STEPS));
    let system = Deployment::start(options).await?;
    let run = steps::run(&mut system.client().await?, STEPS).await?;
    let postgres = system.postgres.as_ref().context("no Postgres")?;
    for step in [4, 400] {
        let (over, _) = tokio::task::block_in_place(|| steps::beside_content(postgres, &run, step))?;
        say(
            format!("stored over the content's own bytes, step {step}"),
            format!("{over} B"),
            format!("(wanted: {MOST_BESIDE} B or less)"),
        )?;
    }
    Ok(())
}
