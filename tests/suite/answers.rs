//! Final answers: their form, their repair, and how they come.

use mar_proto::session::run_frame::Frame;
use mar_proto::session::{RunState, Task, event_leaf::Body};
use mar_tests::{Deployment, Options, task};
use serde_json::Value;

use crate::reading::{body, contents, position};

both_ways! {
    an_answer_fits_its_schema
    an_answer_is_repaired_once
    an_invented_citation_is_repaired
    a_quote_says_whether_it_was_received
    deltas_come_before_the_committed_turn
}

const SCHEMA: &str = r#"{
  "type": "object",
  "properties": { "floods": { "type": "boolean" }, "months": { "type": "array", "items": { "type": "integer" }, "minItems": 1 } },
  "required": ["floods", "months"],
  "additionalProperties": false
}"#;

fn in_form(text: &str) -> Task {
    Task { output_schema_json: SCHEMA.into(), ..task::question(text) }
}

async fn an_answer_fits_its_schema(options: Options) -> anyhow::Result<()> {
    let system = Deployment::start(options.script("[[rule]]\nreply = { from_schema = true }")).await?;
    let followed = system.client().await?.run(in_form("Does it flood, and when?")).await?;
    assert_eq!(followed.run.state(), RunState::Succeeded, "{:#?}\n{}", followed.run, system.log().join("\n"));
    let json: Value = serde_json::from_str(&followed.run.answer.clone().unwrap_or_default().json)?;
    assert!(json["floods"].is_boolean() && json["months"][0].is_i64(), "{json}");
    let asked = system.rehearsal.requests().remove(0).body;
    let sent = &asked["response_format"]["json_schema"]["schema"];
    assert_eq!(sent["required"], serde_json::json!(["floods", "months"]), "the provider is asked for the same form");
    Ok(())
}

async fn an_answer_is_repaired_once(options: Options) -> anyhow::Result<()> {
    let script = r#"
[[rule]]
times = 1
reply = { json = { floods = "often" } }
[[rule]]
times = 1
reply = { json = { floods = true, months = [3] } }
[[rule]]
name = "never learns"
reply = { json = { floods = "often" } }
"#;
    let system = Deployment::start(options.script(script)).await?;
    let mut client = system.client().await?;
    let followed = client.run(in_form("Does it flood?")).await?;
    assert_eq!(followed.run.state(), RunState::Succeeded, "{:#?}\n{}", followed.run, system.log().join("\n"));
    let repair = followed.events().into_iter().filter_map(body).filter_map(|body| match body {
        Body::GenerationStarted(started) => Some(started.repair),
        _ => None,
    });
    assert_eq!(repair.collect::<Vec<_>>(), [false, true]);
    let problems = contents(&followed).map(|content| content.problems.as_str()).find(|problems| !problems.is_empty());
    assert!(problems.is_some_and(|problems| problems.contains("months")), "{problems:?}");
    assert_eq!(followed.run.answer.clone().unwrap_or_default().json, r#"{"floods":true,"months":[3]}"#);
    assert_eq!(followed.run.totals.unwrap_or_default().steps, 2);

    // One repair, not two.
    let failed = client.run(in_form("Does it flood, really?")).await?;
    assert_eq!(failed.run.state(), RunState::Failed, "{:#?}", failed.run);
    assert_eq!(system.rehearsal.request_count(), 4);
    assert_eq!(failed.story().iter().filter(|name| **name == "AnswerRejected").count(), 2, "{:?}", failed.story());
    Ok(())
}

async fn an_invented_citation_is_repaired(options: Options) -> anyhow::Result<()> {
    let script = r#"
[[rule]]
match = { last_role = "user" }
times = 1
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "harbour of Marel" } }] }
[[rule]]
name = "invents"
times = 1
reply = { json = { answer = "Twice a month.", citations = [{ passage_id = "almanac.md#7", quote = "twice a month" }] } }
[[rule]]
reply = { json = { answer = "Twice a month.", citations = [{ passage_id = "tides.md#1", quote = "twice a month" }] } }
"#;
    let system = Deployment::start(options.script(script)).await?;
    let followed = system.client().await?.run(task::with_sources("How often does the harbour flood?")).await?;
    assert_eq!(followed.run.state(), RunState::Succeeded, "{:#?}\n{}", followed.run, system.log().join("\n"));
    let problems = contents(&followed).map(|content| content.problems.as_str()).find(|problems| !problems.is_empty());
    assert!(problems.is_some_and(|problems| problems.contains("almanac.md#7")), "{problems:?}");
    let citations = followed.run.answer.unwrap_or_default().citations;
    let cited: Vec<_> =
        citations.iter().filter_map(|one| one.passage.as_ref()).map(|one| one.passage_id.as_str()).collect();
    assert_eq!(cited, ["tides.md#1"]);
    Ok(())
}

async fn a_quote_says_whether_it_was_received(options: Options) -> anyhow::Result<()> {
    let script = r#"
[[rule]]
match = { last_role = "user" }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "harbour of Marel" } }] }
[[rule]]
reply = { json = { answer = "Twice a month.", citations = [
  { passage_id = "tides.md#1", quote = "floods at spring  tide, twice a month" },
  { passage_id = "tides.md#1", quote = "every single night, my dear" },
] } }
"#;
    let system = Deployment::start(options.script(script)).await?;
    let followed = system.client().await?.run(task::with_sources("How often does the harbour flood?")).await?;
    assert_eq!(followed.run.state(), RunState::Succeeded, "{:#?}\n{}", followed.run, system.log().join("\n"));
    let citations = followed.run.answer.clone().unwrap_or_default().citations;
    let found: Vec<bool> = citations.iter().map(|citation| citation.quote_found).collect();
    assert_eq!(found, [true, false], "{citations:#?}");
    assert!(!followed.story().contains(&"AnswerRejected"), "{:?}", followed.story());
    Ok(())
}

async fn deltas_come_before_the_committed_turn(options: Options) -> anyhow::Result<()> {
    let script =
        "[[rule]]\nreply = { text = 'It floods twice a month, at spring tide.', chunk_size = 4, chunk_delay = '20ms' }";
    let system = Deployment::start(options.script(script)).await?;
    let followed = system.client().await?.run(task::question("How often?")).await?;
    let frames = &followed.frames;
    let is_turn =
        |frame: &Frame| matches!(frame, Frame::Event(event) if matches!(body(event), Some(Body::TurnCommitted(_))));
    let turn = position(frames, is_turn).unwrap_or_default();
    let deltas: Vec<_> = frames[..turn]
        .iter()
        .filter_map(|frame| match &frame.frame {
            Some(Frame::Delta(delta)) => Some(delta),
            _ => None,
        })
        .collect();
    assert!(deltas.len() >= 5, "{} deltas before the turn", deltas.len());
    let mut text = String::new();
    for delta in &deltas {
        assert_eq!((delta.step, delta.epoch), (1, 1));
        assert_eq!(usize::try_from(delta.offset)?, text.len(), "deltas of a whole stream have no gap");
        text.push_str(&delta.text);
    }
    assert_eq!(text, followed.text());
    assert!(position(&frames[turn..], |frame| matches!(frame, Frame::Delta(_))).is_none(), "a delta after its turn");
    let attempt = position(frames, |frame| matches!(frame, Frame::Attempt(_)));
    let delta = position(frames, |frame| matches!(frame, Frame::Delta(_)));
    assert!(attempt < delta, "the attempt is announced before its deltas: {attempt:?} {delta:?}");
    Ok(())
}
