//! Tasks that tests ask for.

use mar_proto::session::{ModelConstraints, Task, ToolSelector};
use mar_proto::types::{HaltingPolicy, Part, part::Content};

/// A question for the rehearsed model, without tools.
pub fn question(text: &str) -> Task {
    Task {
        r#type: "chat".into(),
        input: vec![Part { content: Some(Content::Text(text.into())), ..Part::default() }],
        model: Some(ModelConstraints { models: vec!["models/rehearsal".into()], ..ModelConstraints::default() }),
        ..Task::default()
    }
}

/// A question to be answered with sources from the documents.
pub fn with_sources(text: &str) -> Task {
    Task { r#type: "answer".into(), tools: selectors(&["docs.*"]), ..question(text) }
}

/// Tool selectors.
pub fn selectors(patterns: &[&str]) -> Vec<ToolSelector> {
    patterns.iter().map(|pattern| ToolSelector { pattern: (*pattern).into() }).collect()
}

/// The task under these limits.
pub fn limited(task: Task, limits: HaltingPolicy) -> Task {
    Task { halting: Some(limits), ..task }
}
