use std::sync::Arc;

use super::*;
use crate::recipe::{Catalogue, Recipe, Sources};

const SEARCH: OfferedTool<'static> = OfferedTool {
    name: "docs.search",
    alias: "docs_search",
    input_schema: r#"{"type":"object","properties":{"query":{"type":"string"}},"required":["query"]}"#,
};

fn brief(input: &str) -> Brief {
    Brief { task_type: "answer".into(), input: vec![text(input.into(), Origin::Caller)], ..Brief::default() }
}

fn rendered(brief: &Brief, tools: &[OfferedTool<'_>]) -> Prompt {
    let pick = Catalogue::embedded().unwrap().pick(brief.recipe.as_deref(), &brief.task_type).unwrap();
    render(brief, &pick, tools).unwrap()
}

fn words(message: &Message) -> String {
    let text = |part: &Part| match &part.content {
        Some(Content::Text(text)) => text.clone(),
        _ => String::new(),
    };
    message.parts.iter().map(text).collect()
}

#[test]
fn answers_with_sources_when_there_is_a_search() {
    let prompt = rendered(&brief("What is {{ 7 * 7 }}?"), &[SEARCH]);
    assert!(prompt.system.contains("First call docs_search"), "{}", prompt.system);
    assert!(prompt.system.contains("citations"));
    assert_eq!(prompt.examples.len(), 3);
    assert_eq!(prompt.messages.len(), 1 + 3 * 4 + 1);
    assert_eq!(words(prompt.messages.last().unwrap()), "What is {{ 7 * 7 }}?");
    assert!(prompt.output_schema.is_some());
    let names: Vec<_> = prompt.steps.iter().map(|step| step.name).collect();
    assert_eq!(names, ["recipe", "tools", "output-format", "template", "examples", "budget"]);
    assert!(prompt.steps.iter().all(|step| !step.effect.is_empty()));
    assert!(prompt.steps.last().unwrap().prompt_bytes < 4_000, "{:?}", prompt.steps);
}

#[test]
fn without_search_nothing_speaks_of_it() {
    let prompt = rendered(&brief("Why?"), &[]);
    assert!(prompt.examples.is_empty());
    assert!(!prompt.system.contains("search") && prompt.system.contains("only from the text"));
    let other = OfferedTool { name: "files.read", alias: "files_read", input_schema: "{}" };
    assert!(rendered(&brief("Why?"), &[other]).examples.is_empty());
}

#[test]
fn an_example_that_the_tool_would_refuse_is_left_out() {
    let strict = OfferedTool { input_schema: r#"{"type":"object","required":["q"]}"#, ..SEARCH };
    assert!(rendered(&brief("Why?"), &[strict]).examples.is_empty());
    let broken = OfferedTool { input_schema: "{", ..SEARCH };
    assert!(rendered(&brief("Why?"), &[broken]).examples.is_empty());
}

#[test]
fn examples_speak_of_the_agents_own_tool() {
    let wiki = OfferedTool { name: "wiki.search", alias: "wiki_search", ..SEARCH };
    let prompt = rendered(&brief("Why?"), &[wiki]);
    let calls: Vec<_> = prompt
        .messages
        .iter()
        .flat_map(|message| &message.parts)
        .filter_map(|part| match &part.content {
            Some(Content::ToolCall(call)) => Some(call.tool.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(calls, ["tools/wiki.search"; 3]);
    assert_ne!(prompt.examples, rendered(&brief("Why?"), &[SEARCH]).examples);
    // The first by name, whatever the order.
    for tools in [[wiki, SEARCH], [SEARCH, wiki]] {
        assert_eq!(rendered(&brief("Why?"), &tools).examples, rendered(&brief("Why?"), &[SEARCH]).examples);
    }
}

#[test]
fn a_schema_of_the_task_cuts_the_answers_off() {
    let own = OutputSchema::parse(r#"{"type":"object","required":["total"]}"#).unwrap();
    let task = Brief { output_schema: Some(Arc::new(own)), ..brief("How many?") };
    let prompt = rendered(&task, &[SEARCH]);
    assert_eq!(prompt.messages.len(), 1 + 3 * 3 + 1);
    assert!(!prompt.system.contains("passage_id"));
    assert!(prompt.steps[4].effect.contains("end before their answers"));
}

#[test]
fn a_type_without_recipe_is_answered_in_free_text() {
    let task = Brief { task_type: "chat".into(), purpose: "small talk".into(), ..brief("Hello") };
    let prompt = rendered(&task, &[]);
    assert_eq!(prompt.messages.len(), 2);
    assert_eq!(prompt.output_schema, None);
    assert!(prompt.system.contains("small talk"));
    assert!(rendered(&task, &[SEARCH]).system.contains("docs_search"));
}

#[test]
fn media_and_text_keep_their_order() {
    let image = mar_proto::types::Media { media_type: "image/png".into(), source: None, size_bytes: 0 };
    let mut task = brief("Compare");
    task.input.push(part(Content::Media(image), Origin::Caller));
    task.input.push(text("with the plan".into(), Origin::Caller));
    task.parameters = BTreeMap::from([("language".into(), "{{ x }}".into())]);
    let prompt = rendered(&task, &[]);
    let parts = &prompt.messages.last().unwrap().parts;
    assert_eq!(parts.len(), 4);
    assert_eq!(parts[0].content, Some(Content::Text("Answer in {{ x }}.\n".into())));
    assert_eq!(parts[0].origin(), Origin::Caller);
    assert_eq!(parts[1..], task.input[..]);
}

#[test]
fn the_budget_drops_the_last_examples_first() {
    let front = include_str!("../../recipes/answer-with-sources/recipe.toml");
    let with_budget = |bytes: usize| {
        let front = front.replace("prompt_bytes = 6000", &format!("prompt_bytes = {bytes}"));
        let recipe = Recipe::parse(
            "answer-with-sources",
            &Sources {
                front: &front,
                system: include_str!("../../recipes/answer-with-sources/system.jinja"),
                task: "{{ input }}",
                output_schema: Some(include_str!("../../recipes/answer-with-sources/output.schema.json")),
            },
        )
        .unwrap();
        render(&brief(&"long ".repeat(10_000)), &Pick::Recipe(Arc::new(recipe)), &[SEARCH]).unwrap()
    };
    let whole = with_budget(6_000);
    assert_eq!(whole.examples.len(), 3);
    let cut = with_budget(whole.system.len() + 700);
    assert_eq!(cut.examples[..], whole.examples[..cut.examples.len()]);
    assert!((1..3).contains(&cut.examples.len()));
    assert!(with_budget(10).examples.is_empty());
}
