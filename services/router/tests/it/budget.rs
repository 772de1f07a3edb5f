use mar_proto::types::ErrorReason;
use mar_runtime::status::metadata;

use crate::harness::{Ask, Harness, catalogue, reason};

const FINE: &str = "[[rule]]\nreply = { text = 'fine', usage = { input = 20, output = 1 } }";

#[tokio::test]
async fn a_budget_that_covers_no_call_refuses_it_before_any_attempt() {
    let harness = Harness::start(FINE).await;
    let mut dear = Ask::new("hi");
    dear.budget.max_cost_nano_usd = 100_000;
    let mut long = Ask::new("hi");
    long.budget.max_input_tokens = 3;
    for ask in [dear, long] {
        let refused = harness.generate(&["alpha", "beta"], ask.clone()).await.unwrap_err();
        assert_eq!(reason(&refused), ErrorReason::BudgetExceeded);
        // Nothing is framed before a refusal: the RPC itself fails.
        assert_eq!(reason(&harness.stream(&["alpha"], ask).await.unwrap_err()), ErrorReason::BudgetExceeded);
    }
    assert_eq!(harness.first.request_count() + harness.second.request_count(), 0);
}

#[tokio::test]
async fn a_count_by_a_foreign_table_is_held_against_budget_and_window() {
    let harness = Harness::configured(FINE, FINE, |config| {
        let path = config.catalogue.clone().unwrap();
        let foreign = catalogue().replace("tokenizer_exact = true", "tokenizer_exact = false");
        assert_ne!(foreign, catalogue());
        std::fs::write(path, foreign).unwrap();
    })
    .await;
    let mut short = Ask::new(&"word ".repeat(1_000));
    short.budget.max_input_tokens = 900;
    let refused = harness.generate(&["alpha"], short).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::BudgetExceeded);
    // Beyond the window no budget helps.
    let refused = harness.generate(&["alpha"], Ask::new(&"word ".repeat(9_000))).await.unwrap_err();
    assert_ne!(reason(&refused), ErrorReason::BudgetExceeded);
    assert_eq!(harness.first.request_count(), 0);
    let fits = harness.generate(&["alpha"], Ask::new(&"word ".repeat(1_000))).await.unwrap();
    assert_eq!(fits.model, "models/alpha");
}

#[tokio::test]
async fn no_money_admits_free_models_only() {
    let harness = Harness::start(FINE).await;
    let mut ask = Ask::new("hi");
    ask.budget.max_cost_nano_usd = 0;
    let turn = harness.generate(&["alpha", "con"], ask).await.unwrap();
    assert_eq!((turn.model.as_str(), turn.usage.unwrap().cost_nano_usd), ("models/con", 0));
}

#[tokio::test]
async fn attempts_draw_on_one_budget() {
    // An answer that breaks before its first token may have cost its input; the budget covers one and a half calls.
    let script = "[[rule]]\nreply = { garbage = 'nonsense' }";
    let harness = Harness::start(script).await;
    let mut ask = Ask::new(&"word ".repeat(1_000)).attempts(8);
    ask.budget.max_input_tokens = 1_500;
    let refused = harness.generate(&["alpha"], ask).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::ProviderBroken);
    assert_eq!(harness.first.request_count(), 1);
}

#[tokio::test]
async fn failed_attempts_are_in_the_usage() {
    let script = format!("[[rule]]\ntimes = 1\nreply = {{ garbage = 'nonsense' }}\n{FINE}");
    let harness = Harness::start(&script).await;
    let usage = harness.generate(&["alpha"], Ask::new("hi")).await.unwrap().usage.unwrap();
    assert!(usage.input_tokens > 20 && usage.estimated, "{usage:?}");
}

#[tokio::test]
async fn the_number_of_attempts_is_bounded() {
    let harness = Harness::start("[[rule]]\nreply = { error = { status = 500 } }").await;
    let refused = harness.generate(&["alpha", "beta", "con"], Ask::new("hi").attempts(2)).await.unwrap_err();
    assert_eq!(metadata(&refused)["attempts"].lines().count(), 2);
    assert_eq!(harness.first.request_count() + harness.second.request_count(), 2);
}
