//! An MCP server for the gateway's tests: `scripted_mcp stdio <folder>` or `scripted_mcp http <folder>`, which prints its
//! port. The folder takes its journal (`journal`: a line a call; `effects`: a file a key, a line an effect) and may hold
//! `description`, the text of the tool `echo`, and `status`, what the tool `status` says instead of the truth.

#![expect(clippy::disallowed_methods, reason = "a slow tool is slow in real time")]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, JsonObject, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, ServerHandler, ServiceExt as _};
use serde_json::{Value, json};

#[derive(Clone)]
struct Scripted {
    folder: Arc<PathBuf>,
}

impl Scripted {
    fn journal(&self, line: &str) -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(self.folder.join("journal"))?;
        writeln!(file, "{line}")
    }

    /// Leaves a line in `effects/<key>`: `apply` where there is none yet, `append` in any case.
    fn effect(&self, tool: &str, key: &str) -> std::io::Result<String> {
        let effects = self.folder.join("effects");
        std::fs::create_dir_all(&effects)?;
        let mut options = OpenOptions::new();
        let opened = match tool {
            "apply" => options.write(true).create_new(true),
            _ => options.append(true).create(true),
        }
        .open(effects.join(key));
        match opened {
            Ok(mut file) => writeln!(file, "{tool}")?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(key.to_owned())
    }

    /// The truth about a key, or what the folder's `status` says instead; `hang` says nothing, `die` ends the server.
    async fn status(&self, key: &str) -> String {
        let told = std::fs::read_to_string(self.folder.join("status")).unwrap_or_default();
        let journal = std::fs::read_to_string(self.folder.join("journal")).unwrap_or_default();
        match told.trim() {
            "" if journal.contains(&format!("count {key} ")) => {
                json!({"outcome": "HAPPENED", "result": "counted before"}).to_string()
            }
            "" => json!({"outcome": "DID_NOT_HAPPEN"}).to_string(),
            "hang" => {
                tokio::time::sleep(Duration::from_secs(600)).await;
                String::new()
            }
            "die" => std::process::abort(),
            other => other.to_owned(),
        }
    }

    fn tools(&self) -> Vec<Tool> {
        let text = |name: &str| json!({"type": "object", "properties": {name: {"type": "string"}}, "required": [name]});
        let number =
            |name: &str| json!({"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]});
        let echo = std::fs::read_to_string(self.folder.join("description")).unwrap_or_else(|_| "Says it again.".into());
        [
            ("echo", echo.as_str(), text("text")),
            ("slow", "Takes its time.", number("ms")),
            ("crash", "Ends the server.", json!({"type": "object"})),
            ("huge", "Answers so many bytes.", number("bytes")),
            ("many", "Answers so many pieces of text.", number("pieces")),
            ("fail", "Fails.", json!({"type": "object"})),
            ("refuse", "Refuses by the protocol.", json!({"type": "object"})),
            ("count", "Remembers the keys.", json!({"type": "object"})),
            ("apply", "Has one effect for each key, however often it is called.", json!({"type": "object"})),
            ("append", "Has an effect each time.", json!({"type": "object"})),
            ("status", "Says whether `count` was called with a key.", text("key")),
            ("bad name", "Cannot be offered.", json!({"type": "object"})),
            ("remote", "Cannot be offered either.", json!({"$ref": "https://example.com/schema.json"})),
        ]
        .into_iter()
        .map(|(name, description, schema)| Tool::new(name.to_owned(), description.to_owned(), object(schema)))
        .collect()
    }
}

fn object(value: Value) -> JsonObject {
    value.as_object().cloned().unwrap_or_default()
}

impl ServerHandler for Scripted {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        // Two pages, so that paging is real.
        let mut tools = self.tools();
        let rest = tools.split_off(3);
        let mut list = ListToolsResult::default();
        if page.and_then(|page| page.cursor).is_some() {
            list.tools = rest;
        } else {
            list.tools = tools;
            list.next_cursor = Some("second".into());
        }
        Ok(list)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        let number = |name: &str| arguments.get(name).and_then(Value::as_u64).unwrap_or(0);
        let meta = serde_json::to_value(&context.meta).unwrap_or_default();
        let key = meta["agentruntime/idempotency-key"].as_str().unwrap_or("-").to_owned();
        let _ = self.journal(&format!("{} {key} {}", request.name, meta["traceparent"].as_str().unwrap_or("-")));
        let text = match &*request.name {
            "echo" => arguments.get("text").and_then(Value::as_str).unwrap_or_default().to_owned(),
            "slow" => tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(number("ms"))) => "done".to_owned(),
                () = context.ct.cancelled() => {
                    let _ = self.journal(&format!("cancelled {key}"));
                    "cancelled".to_owned()
                }
            },
            "crash" => std::process::abort(),
            "huge" => "x".repeat(usize::try_from(number("bytes")).unwrap_or(0)),
            "many" => {
                let pieces = usize::try_from(number("pieces")).unwrap_or(0);
                return Ok(CallToolResult::success(vec![
                    ContentBlock::text(
                        "one of many pieces, each of them as short"
                    );
                    pieces
                ])
                .into());
            }
            "fail" => return Ok(CallToolResult::error(vec![ContentBlock::text("it did not work")]).into()),
            "refuse" => return Err(ErrorData::invalid_params("not like this", None)),
            "count" => std::fs::read_to_string(self.folder.join("journal"))
                .unwrap_or_default()
                .lines()
                .filter(|line| line.starts_with(&format!("count {key} ")))
                .count()
                .to_string(),
            "apply" | "append" => self.effect(&request.name, &key).unwrap_or_else(|error| error.to_string()),
            "status" => self.status(arguments.get("key").and_then(Value::as_str).unwrap_or_default()).await,
            _ => return Err(ErrorData::invalid_params("no such tool", None)),
        };
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let (mode, folder) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let server = Scripted { folder: Arc::new(Path::new(&folder).to_owned()) };
    server.journal(&format!("started {}", std::process::id()))?;
    if mode == "stdio" {
        eprint_hello();
        server.serve(rmcp::transport::stdio()).await?.waiting().await?;
        return Ok(());
    }
    let config = StreamableHttpServerConfig::default();
    let service =
        StreamableHttpService::new(move || Ok(server.clone()), Arc::new(LocalSessionManager::default()), config);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let mut out = std::io::stdout();
    writeln!(out, "port {}", listener.local_addr()?.port())?;
    out.flush()?;
    axum::serve(listener, axum::Router::new().nest_service("/mcp", service)).await?;
    Ok(())
}

/// Servers talk on standard error, and sometimes in bytes that are no text.
fn eprint_hello() {
    let _ = std::io::stderr().write_all(b"hello \xff\n");
}
