//! Runs that start runs, as they are shown.

use serde_json::{Value, json};

use crate::harness::Up;

const SCRIPT: &str = r#"
[[rule]]
match = { last_role = "tool" }
reply = { from_tool_result = "Heard: {{last_tool_result}}" }
[[rule]]
match = { contains = "Bit" }
reply = { text = "A bit." }
[[rule]]
match = { contains = "Leg two" }
reply = { text = "Two hours." }
[[rule]]
match = { contains = "Leg one" }
reply = { tool_calls = [{ name = "runtime_delegate", arguments = { tasks = ["Bit one?", "Bit two?"] } }] }
[[rule]]
reply = { tool_calls = [{ name = "runtime_delegate", arguments = { tasks = ["Leg one?", "Leg two?"], tools = ["runtime.delegate"] } }] }
"#;

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[tokio::test]
async fn a_run_is_shown_with_the_runs_below_it() {
    let up = Up::scripted(SCRIPT).await;
    let args = [
        "run",
        "How long is the trip?",
        "--type",
        "chat",
        "--tools",
        "runtime.delegate",
        "--max-depth",
        "2",
        "--max-steps",
        "100",
        "--json",
    ];
    let run = up.say(&args).await;
    assert_eq!(run.code, 0, "{run:?}");
    let name = run.json()["run"].as_str().unwrap().to_owned();

    let json = up.say(&["runs", "show", &name, "--json"]).await.json();
    let told = |value: &Value| (value["task"].clone(), value["depth"].clone(), value["state"].clone());
    let done = |task: &str, depth: i64| (json!(task), json!(depth), json!("SUCCEEDED"));
    let legs = json["children"].as_array().unwrap();
    assert_eq!(legs.iter().map(told).collect::<Vec<_>>(), [done("Leg one?", 1), done("Leg two?", 1)], "{json:#}");
    let bits = legs[0]["children"].as_array().unwrap();
    assert_eq!(bits.iter().map(told).collect::<Vec<_>>(), [done("Bit one?", 2), done("Bit two?", 2)], "{json:#}");
    assert_eq!((&legs[1]["children"], &json["children_left_out"]), (&json!([]), &json!(0)));
    // Two turns of the run itself, two of the first leg, one of all others.
    let steps = |value: &Value| value["totals"]["steps"].as_i64().unwrap();
    assert_eq!((steps(&json), steps(&legs[0]), steps(&legs[1])), (7, 4, 1), "{json:#}");
    assert_eq!(json["used_by_children"]["steps"], 5);

    let shown = up.say(&["runs", "show", &name]).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    let lines: Vec<_> = shown.out.lines().collect();
    let head = lines.iter().position(|line| line.starts_with("RUN ")).unwrap();
    assert_eq!(words(lines[head]), ["RUN", "TYPE", "AGENT", "STATE", "STEPS", "CALLS", "TOKENS", "COST", "TASK"]);
    let id = |value: &Value| value["run"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let order = [(0, &json), (1, &legs[0]), (2, &bits[0]), (2, &bits[1]), (1, &legs[1])];
    for (line, (depth, run)) in lines[head + 1..].iter().zip(order) {
        assert!(line.starts_with(&format!("{}{} ", "  ".repeat(depth), id(run))), "{line} is not {run}");
        let hash = run["descriptor_hash"].as_str().unwrap().trim_start_matches("sha256:");
        let cells = words(line);
        assert_eq!(
            cells[1..5],
            [run["task_type"].as_str().unwrap(), &hash[..12], "SUCCEEDED", &steps(run).to_string()],
            "{line}"
        );
    }
    let limits = |name: &str| words(lines.iter().find(|line| line.starts_with(name)).unwrap());
    assert_eq!(limits("LIMITS"), ["LIMITS", "USED", "BY", "CHILDREN", "OF"]);
    assert_eq!(limits("steps")[..3], ["steps", "7", "5"]);

    // A run that has started none is shown as ever.
    let leaf = up.say(&["runs", "show", legs[1]["run"].as_str().unwrap()]).await;
    assert!(leaf.code == 0 && !leaf.out.contains("BY CHILDREN") && !leaf.out.contains("AGENT"), "{leaf:?}");
}
