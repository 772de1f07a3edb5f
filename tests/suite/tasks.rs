//! Whole tasks.

use mar_proto::session::RunState;
use mar_tests::{Deployment, Options, Shape, Stores, task};

async fn answers_with_sources(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    let followed = client.run(task::with_sources("When does the harbour of Marel flood?")).await?;
    assert_eq!(followed.run.state(), RunState::Succeeded, "{:#?}\n{}", followed.run, system.log().join("\n"));
    assert_eq!(
        followed.story(),
        [
            "RunAdmitted",
            "AgentSealed",
            "GenerationStarted",
            "TurnCommitted",
            "ToolIntent",
            "ToolReturned",
            "GenerationStarted",
            "TurnCommitted",
            "RunEnded"
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn four_processes_answer_with_sources() -> anyhow::Result<()> {
    answers_with_sources(Options::new(Shape::Four, Stores::Servers)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_answers_with_sources() -> anyhow::Result<()> {
    answers_with_sources(Options::new(Shape::One, Stores::Embedded)).await
}
