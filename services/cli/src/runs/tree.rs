//! The runs that a run has started, and those below them.

use mar_proto::session::event_leaf::Body;
use mar_proto::session::{Event, GetRunRequest, Reservation, Run};
use serde_json::{Value, json};
use tonic::Code;

use crate::endpoint::Endpoint;
use crate::failure::Failure;
use crate::out::{Ink, one_line};
use crate::progress::describe::{input, output};
use crate::report;
use crate::table::{Align, count, table, usd};
use crate::waiting;

/// The most runs that are looked up.
const MOST: usize = 200;
/// Characters of a descriptor's hash that tell agents apart.
const HASH: usize = 12;
/// Characters of a task that are shown.
const TASK: usize = 60;

/// All runs below one, depth first.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: Vec<Node>,
    /// Runs that are known by name and were not looked up; there may be more below them.
    left_out: usize,
}

#[derive(Debug)]
struct Node {
    /// 1: a child of the run at the top.
    depth: usize,
    name: String,
    /// None: it is still being admitted.
    run: Option<Run>,
}

impl Tree {
    /// The runs below `root`, in the order in which they were started.
    ///
    /// # Errors
    /// Nothing answers, or the request is refused.
    pub async fn below(endpoint: &Endpoint, root: &Run) -> Result<Self, Failure> {
        let mut client = endpoint.sessions()?;
        let mut tree = Self::default();
        let children = |run: &Run, depth: usize| {
            let names = run.children.iter().rev().cloned();
            names.map(move |name| (depth, name)).collect::<Vec<_>>()
        };
        let mut open = children(root, 1);
        while let Some((depth, name)) = open.pop() {
            if tree.nodes.len() == MOST {
                tree.left_out = open.len() + 1;
                break;
            }
            let run = match client.get_run(endpoint.request(GetRunRequest { name: name.clone() })).await {
                Ok(answer) => answer.into_inner().run,
                Err(status) if status.code() == Code::NotFound => None,
                Err(status) => return Err(endpoint.failure(status)),
            };
            open.extend(run.iter().flat_map(|run| children(run, depth + 1)));
            tree.nodes.push(Node { depth, name, run });
        }
        Ok(tree)
    }

    /// The tree with its root as a table; nothing where no run was started.
    pub fn lines(&self, root: &Run, ink: Ink) -> Vec<String> {
        if self.nodes.is_empty() {
            return Vec::new();
        }
        let columns = [
            ("RUN", Align::Left),
            ("TYPE", Align::Left),
            ("AGENT", Align::Left),
            ("STATE", Align::Left),
            ("STEPS", Align::Right),
            ("CALLS", Align::Right),
            ("TOKENS", Align::Right),
            ("COST", Align::Right),
            ("TASK", Align::Left),
        ];
        let below = self.nodes.iter().map(|node| row(node.depth, &node.name, node.run.as_ref()));
        let rows: Vec<_> = std::iter::once(row(0, &root.name, Some(root))).chain(below).collect();
        let mut lines = table(ink, &columns, &rows);
        if self.left_out > 0 {
            lines.push(ink.dim(&format!("… and {} runs more, and what is below them", self.left_out)));
        }
        lines.push(String::new());
        lines
    }

    /// The same as JSON: the children, each with its own.
    pub fn json(&self) -> Value {
        self.nested(&mut 0, 1)
    }

    /// How many runs were not looked up.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    fn nested(&self, at: &mut usize, depth: usize) -> Value {
        let mut found = Vec::new();
        while let Some(node) = self.nodes.get(*at).filter(|node| node.depth == depth) {
            *at += 1;
            let mut value = match &node.run {
                Some(run) => report::brief(run),
                None => json!({ "run": node.name }),
            };
            value["children"] = self.nested(at, depth + 1);
            found.push(value);
        }
        found.into()
    }
}

fn row(depth: usize, name: &str, run: Option<&Run>) -> Vec<String> {
    let id = name.rsplit('/').next().unwrap_or(name);
    let indented = format!("{}{}", "  ".repeat(depth), one_line(id, 60));
    let Some(run) = run else {
        let mut row = vec![indented, "-".to_owned(), "-".to_owned(), "not admitted yet".to_owned()];
        row.resize(9, "-".to_owned());
        return row;
    };
    let totals = run.totals.unwrap_or_default();
    let usage = totals.usage.unwrap_or_default();
    let hash: String = run.descriptor_hash.trim_start_matches("sha256:").chars().take(HASH).collect();
    vec![
        indented,
        one_line(report::task_type(run), 20),
        if hash.is_empty() { "-".to_owned() } else { hash },
        waiting::state_text(run),
        count(totals.steps),
        count(totals.tool_calls),
        count(input(&usage) + output(&usage)),
        usd(usage.cost_nano_usd),
        one_line(report::task_text(run), TASK),
    ]
}

/// What the children that have ended used, those below them included. It is part of the run's totals once all children of a
/// call have ended. None where none has.
pub fn used_by_children(events: &[Event]) -> Option<Reservation> {
    let ended = events.iter().filter_map(|event| match event.body.as_ref()?.body.as_ref()? {
        Body::ChildEnded(ended) => Some(ended.used.unwrap_or_default()),
        _ => None,
    });
    ended.reduce(|sum, used| Reservation {
        steps: sum.steps.saturating_add(used.steps),
        tool_calls: sum.tool_calls.saturating_add(used.tool_calls),
        input_tokens: sum.input_tokens.saturating_add(used.input_tokens),
        output_tokens: sum.output_tokens.saturating_add(used.output_tokens),
        cost_nano_usd: sum.cost_nano_usd.saturating_add(used.cost_nano_usd),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(depth: usize, id: &str) -> Node {
        let name = format!("sessions/s/runs/{id}");
        Node { depth, run: Some(Run { name: name.clone(), ..Run::default() }), name }
    }

    #[test]
    fn a_tree_is_indented_and_nested_as_it_is() {
        let mut nodes = vec![node(1, "a"), node(2, "a1"), node(3, "a11"), node(2, "a2"), node(1, "b")];
        nodes.push(Node { depth: 1, name: "sessions/s/runs/c".into(), run: None });
        let tree = Tree { nodes, left_out: 7 };
        let root = Run { name: "sessions/s/runs/root".into(), ..Run::default() };
        let lines = tree.lines(&root, Ink(false));
        let starts = ["RUN", "root ", "  a ", "    a1 ", "      a11 ", "    a2 ", "  b ", "  c ", "… and 7 runs more"];
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{start} in {lines:#?}");
        }
        assert!(lines[7].contains("not admitted yet"), "{lines:#?}");
        let json = tree.json();
        let run =
            |at: &str| json.pointer(at).and_then(Value::as_str).map(|name| name.trim_start_matches("sessions/s/runs/"));
        assert_eq!(run("/0/run"), Some("a"));
        assert_eq!(run("/0/children/0/children/0/run"), Some("a11"));
        assert_eq!(run("/0/children/1/run"), Some("a2"));
        assert_eq!((run("/1/run"), run("/2/run"), json.as_array().unwrap().len()), (Some("b"), Some("c"), 3));
        assert!(Tree::default().lines(&root, Ink(false)).is_empty());
    }
}
