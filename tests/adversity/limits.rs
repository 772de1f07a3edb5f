//! Every limit of the halting policy binds.

use mar_proto::session::{Task, event_leaf::Body};
use mar_proto::types::{HaltingPolicy, Usage};
use mar_tests::catalogue::Model;
use mar_tests::{Deployment, Options, Shape, Stores, task};

use crate::story::{bodies, end};

const SCRIPT: &str = r#"
[[rule]]
match = { contains = "[search]" }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "harbour" } }, { name = "docs_search", arguments = { query = "lamp" } }] }
[[rule]]
match = { contains = "[one search]", turn = 0 }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "harbour" } }] }
[[rule]]
match = { contains = "[hang]" }
reply = { hang = true }
[[rule]]
match = { contains = "[liar]", turn = 0 }
reply = { tool_calls = [{ name = "docs_search", arguments = { query = "harbour" } }], usage = { input = 100000, output = 5000 } }
[[rule]]
reply = { text = "Fine." }
"#;

fn span(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn cases() -> Vec<(&'static str, HaltingPolicy, &'static str)> {
    let none = HaltingPolicy::default;
    vec![
        ("[search]", HaltingPolicy { max_steps: Some(1), ..none() }, "HALTED MAX_STEPS"),
        ("[search]", HaltingPolicy { max_steps: Some(3), ..none() }, "HALTED MAX_STEPS"),
        ("[search]", HaltingPolicy { max_tool_calls: Some(0), ..none() }, "HALTED MAX_TOOL_CALLS"),
        ("[search]", HaltingPolicy { max_tool_calls: Some(1), ..none() }, "HALTED MAX_TOOL_CALLS"),
        ("[search]", HaltingPolicy { max_tool_calls: Some(4), ..none() }, "HALTED MAX_TOOL_CALLS"),
        ("[hang]", HaltingPolicy { max_active_time: span(1), ..none() }, "HALTED ACTIVE_TIME"),
        ("[hang]", HaltingPolicy { expire_after: span(1), ..none() }, "HALTED EXPIRED"),
        ("plain", HaltingPolicy { max_input_tokens: Some(1), ..none() }, "HALTED INPUT_TOKENS"),
        ("[liar]", HaltingPolicy { max_input_tokens: Some(60_000), ..none() }, "HALTED INPUT_TOKENS"),
        ("[liar]", HaltingPolicy { max_output_tokens: Some(2_000), ..none() }, "HALTED OUTPUT_TOKENS"),
        // The longest answer alone costs 2,000,000.
        ("plain", HaltingPolicy { max_cost_nano_usd: Some(2_000_000), ..none() }, "HALTED COST"),
        ("[liar]", HaltingPolicy { max_cost_nano_usd: Some(20_000_000), ..none() }, "HALTED COST"),
        ("plain", HaltingPolicy { max_depth: Some(8), ..none() }, "SUCCEEDED"),
        // Exactly enough is enough.
        ("[one search]", HaltingPolicy { max_steps: Some(2), max_tool_calls: Some(1), ..none() }, "SUCCEEDED"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_limit_binds_and_nothing_counted_overshoots() -> anyhow::Result<()> {
    let options = Options::new(Shape::One, Stores::Embedded).script(SCRIPT).catalogue(Model::default().toml());
    let system = Deployment::start(options).await?;
    let mut client = system.client().await?;
    for (text, limits, expected) in cases() {
        let task = Task { tools: task::selectors(&["docs.*"]), ..task::question(text) };
        let followed = client.run(task::limited(task, limits)).await?;
        let case = format!("{text} {limits:?}: {:?} {:#?}", followed.story(), followed.run);
        assert_eq!(end(&followed.run), expected, "{case}");
        let totals = followed.run.totals.unwrap_or_default();
        let limits = followed.run.limits.unwrap_or_default();
        assert!(totals.steps <= limits.max_steps(), "{case}");
        assert!(totals.tool_calls <= limits.max_tool_calls(), "{case}");
        assert!(limits.max_active_time.is_some() && limits.expire_after.is_some(), "every limit has a value: {case}");
        assert_eq!(totals.reserved.unwrap_or_default(), Usage::default(), "nothing stays reserved: {case}");
        let ended = bodies(followed.events()).pop();
        assert!(matches!(ended, Some(Body::RunEnded(ended)) if ended.totals == Some(totals)), "{case}");
        let usage = totals.usage.unwrap_or_default();
        let cost = usage.input_tokens * 1_000 + usage.output_tokens * 2_000;
        assert_eq!(usage.cost_nano_usd, cost, "{case}");
        let over = totals.overshoot.unwrap_or_default();
        if text != "[liar]" {
            assert_eq!((over.input_tokens, over.output_tokens, over.cost_nano_usd), (0, 0, 0), "{case}");
            assert!(usage.input_tokens <= limits.max_input_tokens(), "{case}");
            assert!(usage.output_tokens <= limits.max_output_tokens(), "{case}");
            assert!(usage.cost_nano_usd <= limits.max_cost_nano_usd(), "{case}");
        } else {
            assert!(over.input_tokens > 0 && over.cost_nano_usd > 0, "what a provider took beyond is told: {case}");
        }
        assert!(followed.run.seal.is_some(), "{case}");
    }
    // What covers no model's answer admits none.
    for most in [0, 1_999_999] {
        let limits = HaltingPolicy { max_cost_nano_usd: Some(most), ..HaltingPolicy::default() };
        let followed = client.run(task::limited(task::question("for nothing"), limits)).await?;
        assert_eq!(end(&followed.run), "FAILED NO_MODEL_ADMITTED", "{:#?}", followed.run);
    }
    assert_eq!(system.rehearsal.in_flight(), 0);
    Ok(())
}
