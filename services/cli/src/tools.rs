//! `mar tools`: what agents can call.

use mar_proto::tool::{ListToolsRequest, Tool, UpstreamKind};
use serde_json::{Value, json};

use crate::args::{ToolsCommand, ToolsListArgs};
use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::{Out, one_line};
use crate::progress::describe::tool_name;
use crate::table::{Align, table};

const PAGE: i32 = 500;

/// `mar tools`.
///
/// # Errors
/// Nothing answers, or the request is refused.
pub async fn tools(command: ToolsCommand, out: Out) -> Result<Exit, Failure> {
    let ToolsCommand::List(args) = command;
    list(&args, out).await
}

async fn list(args: &ToolsListArgs, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let mut client = endpoint.tools()?;
    let (mut tools, mut page_token) = (Vec::new(), String::new());
    let unavailable = loop {
        let request = ListToolsRequest { page_size: PAGE, page_token, patterns: args.patterns.clone() };
        let page = client.list_tools(endpoint.request(request)).await.map_err(|status| endpoint.failure(status))?;
        let page = page.into_inner();
        tools.extend(page.tools);
        if page.next_page_token.is_empty() {
            break page.unavailable;
        }
        page_token = page.next_page_token;
    };
    if args.json {
        let down: Vec<_> =
            unavailable.iter().map(|state| json!({"upstream": state.upstream, "detail": state.detail})).collect();
        let tools: Vec<_> = tools.iter().map(to_json).collect();
        out.json(&json!({ "tools": tools, "unavailable": down }));
        return Ok(Exit::Done);
    }
    if tools.is_empty() {
        out.note(if args.patterns.is_empty() {
            "No tools. Offer a folder to search with: mar up --docs FOLDER"
        } else {
            "No tool has such a name. All of them: mar tools list"
        });
    } else {
        let columns =
            [("TOOL", Align::Left), ("KIND", Align::Left), ("STATE", Align::Left), ("DESCRIPTION", Align::Left)];
        let rows: Vec<_> = tools.iter().map(row).collect();
        out.lines(table(out.result, &columns, &rows));
    }
    for state in &unavailable {
        let text = format!("{} is down: {}", state.upstream, state.detail);
        out.note(out.remark.warn(&one_line(&text, 300)));
    }
    Ok(Exit::Done)
}

fn row(tool: &Tool) -> Vec<String> {
    let definition = tool.definition.clone().unwrap_or_default();
    vec![
        tool_name(&tool.name),
        kind(tool).to_lowercase().replace('_', " "),
        if tool.stale { "stale".into() } else { "ready".into() },
        one_line(&definition.description, 70),
    ]
}

fn kind(tool: &Tool) -> String {
    let kind = UpstreamKind::try_from(tool.upstream_kind).unwrap_or_default().as_str_name();
    kind.trim_start_matches("UPSTREAM_KIND_").to_owned()
}

fn to_json(tool: &Tool) -> Value {
    let definition = tool.definition.clone().unwrap_or_default();
    let schema = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    json!({
        "name": tool.name,
        "upstream": tool.upstream,
        "kind": kind(tool),
        "stale": tool.stale,
        "description": definition.description,
        "input_schema": schema(&definition.input_schema_json),
        "output_schema": schema(&definition.output_schema_json),
        "definition_hash": definition.definition_hash,
        "idempotent": definition.idempotent,
        "read_only": definition.read_only,
    })
}
