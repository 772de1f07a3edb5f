//! What one decision costs: `cargo run --release -p mar-alignment --example decision_cost`.
//!
//! Prints nanoseconds per decision on a tool call, request building and record included, for the default platform
//! policy and for policies of 1 and 100 rules: all named after tools (so that slicing finds the one that applies), all
//! general (so that each is evaluated), and all three layers deep.

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use mar_alignment::{
    Agent, Arguments, Caller, Layer, PolicyText, Question, Request, RunFacts, Stack, Tool, TrustTier, decide_both,
    default_platform,
};
use serde_json::json;

const OPEN: &str = "permit (principal, action, resource);\n";
const MEASURED_FOR: Duration = Duration::from_millis(500);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let named = |count: usize| {
        let rule = |n| {
            format!(
                "forbid (principal, action == Action::\"callTool\", resource == Tool::\"docs.t{n}\") \
                 when {{ context.taint && context.step > {n} }};\n"
            )
        };
        format!("{OPEN}{}", (1..count).map(rule).collect::<String>())
    };
    let general = |count: usize| {
        let rule = |n| {
            format!(
                "forbid (principal, action == Action::\"callTool\", resource) \
                 when {{ context.taint && context.step > {n} }};\n"
            )
        };
        format!("{OPEN}{}", (1..count).map(rule).collect::<String>())
    };
    let reading = format!(
        "{OPEN}forbid (principal, action == Action::\"callTool\", resource) \
         when {{ context.argument_text like \"*drop table*\" \
         || context.arguments.contains({{path: \"query\", text: \"x\"}}) }};"
    );
    report("default platform", &[default_platform().text])?;
    report("1 rule", &[OPEN.to_owned()])?;
    report("100 rules, named by tool", &[named(100)])?;
    report("100 rules, general", &[general(100)])?;
    report("2 rules that read arguments", &[reading])?;
    report("3 layers of 100, named by tool", &[named(100), named(100), named(100)])?;
    Ok(())
}

fn report(label: &str, sources: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let layers = [Layer::Platform, Layer::Organisation, Layer::Task];
    let texts = sources.iter().zip(layers).map(|(text, layer)| PolicyText {
        layer,
        name: "measured".to_owned(),
        version: 1,
        text: text.clone(),
    });
    let stack = Stack::parse(texts).map_err(|violations| format!("{violations:?}"))?;
    let request = request();
    // The usual case: the current platform is the sealed one, and is recognised by its hash.
    let current = Stack::parse(stack.texts().take(1).cloned()).map_err(|violations| format!("{violations:?}"))?;
    let nanos = measure(|| {
        black_box(decide_both(black_box(&stack), &current, black_box(&request)));
    });
    writeln!(std::io::stdout(), "{label:<32} {nanos:>9} ns")?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "an example that measures needs the clock")]
fn measure(mut work: impl FnMut()) -> u128 {
    (0..50).for_each(|_| work());
    let start = Instant::now();
    let mut rounds = 0_u128;
    while start.elapsed() < MEASURED_FOR {
        (0..20).for_each(|_| work());
        rounds += 20;
    }
    start.elapsed().as_nanos() / rounds
}

fn request() -> Request {
    Request::new(Question::CallTool {
        agent: Agent {
            id: "sha256:0f".to_owned(),
            role: "researcher".to_owned(),
            purpose: "support".to_owned(),
            task_type: "question".to_owned(),
            caller: Caller {
                tenant: "acme".to_owned(),
                principal: "backend".to_owned(),
                environment: "prod".to_owned(),
                groups: ["engineering", "support"].map(str::to_owned).into(),
                ..Caller::default()
            },
        },
        tool: Tool {
            name: "docs.t7".to_owned(),
            upstream: "docs".to_owned(),
            read_only: true,
            idempotent: true,
            trust_tier: TrustTier::Production,
        },
        sealed: true,
        arguments: Arguments::new(
            json!({"query": "how does a lease move?", "limit": 10, "filter": {"kind": ["adr", "readme"]}}),
            "sha256:aa",
            90,
        ),
    })
    .in_run(RunFacts { step: 0, tool_calls: 3, taint: true, data_classes: ["internal".to_owned()].into() })
}
