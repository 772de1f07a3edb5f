//! The built-in upstream `search`: full text search over a folder of documents.
//!
//! Files are split into passages ([`passages`]), indexed in memory ([`index`]) and looked at for changes on a timer. A
//! missing folder is an upstream that is down; an empty one gives empty results that say so.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mar_proto::tool::Dispatch;
use mar_proto::types::Passage;
use mar_runtime::clock::Clock;
use serde_json::{Map, Value, json};

use self::folder::Folder;
use self::index::{Entry, Hit, Index};
use crate::config::UpstreamConfig;
use crate::definition::Described;
use crate::outcome::{Answer, Call, Failure, Reason, tool_text};
use crate::upstream::{ConnectError, Connector, Session};

pub mod folder;
pub mod html;
pub mod index;
pub mod passages;
pub mod query;

const DEFAULT_LIMIT: i64 = 5;
const MAX_LIMIT: i64 = 10;
const PAGE: i64 = 50;
const DEFAULT_RESCAN: Duration = Duration::from_secs(2);
const DEFAULT_FILE_BYTES: u64 = 1 << 20;
const DEFAULT_EXTENSIONS: [&str; 5] = ["md", "markdown", "txt", "html", "htm"];

/// Opens the index of a configured folder.
#[derive(Debug)]
pub struct FolderSearch {
    folder: Folder,
    rescan: Duration,
    clock: Arc<dyn Clock>,
}

impl FolderSearch {
    /// The folder that `config` names, looked at for changes by `clock`.
    pub fn new(config: &UpstreamConfig, clock: Arc<dyn Clock>) -> Self {
        let extensions = match &config.extensions {
            Some(own) => own.iter().map(|one| one.trim_start_matches('.').to_ascii_lowercase()).collect(),
            None => DEFAULT_EXTENSIONS.map(str::to_owned).to_vec(),
        };
        Self {
            folder: Folder {
                root: config.folder.clone().unwrap_or_default(),
                extensions,
                max_file_bytes: config.max_file_bytes.map_or(DEFAULT_FILE_BYTES, |size| size.bytes()),
            },
            rescan: config.rescan.map_or(DEFAULT_RESCAN, |span| span.0),
            clock,
        }
    }
}

#[async_trait]
impl Connector for FolderSearch {
    async fn connect(&self) -> Result<Arc<dyn Session>, ConnectError> {
        let index = Index::open().await.map_err(|error| ConnectError::new("the index cannot be made", error))?;
        let (folder, clock) = (self.folder.clone(), Arc::clone(&self.clock));
        let session = SearchSession { folder, rescan: self.rescan, clock, index };
        session.refresh().await?;
        Ok(Arc::new(session))
    }
}

/// The open index of a folder.
#[derive(Debug)]
struct SearchSession {
    folder: Folder,
    rescan: Duration,
    clock: Arc<dyn Clock>,
    index: Index,
}

impl SearchSession {
    async fn refresh(&self) -> Result<(), ConnectError> {
        let folder = self.folder.clone();
        let listed = tokio::task::spawn_blocking(move || folder.list()).await;
        let listing = listed
            .map_err(|error| ConnectError::new("the folder cannot be listed", error))?
            .map_err(|error| ConnectError::new("the folder is missing or cannot be read", error))?;
        let changed = self.index.update(&self.folder, listing).await;
        match changed.map_err(|error| ConnectError::new("the index cannot be updated", error))? {
            0 => {}
            count => tracing::debug!(search.documents = count, "documents indexed"),
        }
        Ok(())
    }

    async fn search(&self, arguments: &Map<String, Value>) -> Result<Answer, sqlx::Error> {
        let query = arguments.get("query").and_then(Value::as_str).unwrap_or_default();
        let limit = arguments.get("limit").and_then(integer).unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
        let hits = self.index.find(query, limit).await?;
        if hits.is_empty() {
            return Ok(nothing(match self.index.count().await? {
                0 => "No documents: the searched folder is empty. There is no source to answer from.".to_owned(),
                count => format!("No passage matches this query; {count} documents were searched. Try other words."),
            }));
        }
        let found: Vec<Value> = hits.iter().map(hit_json).collect();
        Ok(Answer { passages: hits.iter().map(hit_passage).collect(), ..json_answer(&Value::Array(found)) })
    }

    async fn list(&self, arguments: &Map<String, Value>) -> Result<Answer, sqlx::Error> {
        let after = arguments.get("after").and_then(Value::as_str).unwrap_or_default();
        let mut entries = self.index.documents(after, PAGE + 1).await?;
        if entries.is_empty() {
            return Ok(nothing(match after {
                "" => "No documents: the searched folder is empty.".to_owned(),
                _ => "No more documents.".to_owned(),
            }));
        }
        let more = entries.len() > usize::try_from(PAGE).unwrap_or(usize::MAX);
        entries.truncate(usize::try_from(PAGE).unwrap_or(usize::MAX));
        let last = entries.last().map(|entry| entry.path.clone());
        let documents: Vec<Value> = entries.iter().map(entry_json).collect();
        Ok(json_answer(&json!({ "documents": documents, "next_after": last.filter(|_| more) })))
    }
}

#[async_trait]
impl Session for SearchSession {
    async fn tools(&self) -> Result<Vec<Described>, ConnectError> {
        Ok(vec![search_tool(), list_tool()])
    }

    async fn call(&self, call: Call) -> Result<Answer, Failure> {
        call.sent.mark();
        let answer = match call.tool.as_str() {
            "search" => self.search(&call.arguments).await,
            "list" => self.list(&call.arguments).await,
            _ => return Err(Failure::new(Reason::Broken, Dispatch::NotSent, "there is no such tool")),
        };
        answer.map_err(|error| {
            tracing::warn!(%error, "search failed");
            Failure::new(Reason::Broken, Dispatch::Sent, "the index failed")
        })
    }

    async fn ended(&self) -> String {
        loop {
            self.clock.sleep(self.rescan).await;
            if let Err(error) = self.refresh().await {
                return error.to_string();
            }
        }
    }

    async fn changed(&self) {
        std::future::pending::<()>().await;
    }

    async fn close(&self) {}
}

/// JSON has one kind of number: 3 and 3.0 are the same integer.
fn integer(value: &Value) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "the schema bounds the value")]
    value.as_i64().or_else(|| value.as_f64().map(|number| number as i64))
}

fn json_answer(value: &Value) -> Answer {
    let text = value.to_string();
    Answer { size: text.len(), parts: vec![tool_text(text)], ..Answer::default() }
}

fn nothing(text: String) -> Answer {
    Answer { size: text.len(), parts: vec![tool_text(text)], ..Answer::default() }
}

fn hit_json(hit: &Hit) -> Value {
    let score = (hit.score * 1_000.0).round() / 1_000.0;
    json!({ "id": passage_id(hit), "title": hit.title, "text": hit.text, "score": score })
}

fn hit_passage(hit: &Hit) -> Passage {
    Passage { passage_id: passage_id(hit), document: hit.path.clone(), title: hit.title.clone() }
}

fn passage_id(hit: &Hit) -> String {
    format!("{}#{}", hit.path, hit.n)
}

fn entry_json(entry: &Entry) -> Value {
    json!({ "document": entry.path, "title": entry.title, "passages": entry.passages })
}

fn described(tool: &str, description: &str, schema: Value) -> Described {
    let input_schema = match schema {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    Described { tool: tool.to_owned(), description: description.to_owned(), input_schema, output_schema: None }
}

fn search_tool() -> Described {
    described(
        "search",
        "Searches the documents for a few words and returns the best passages, each with an id to cite. Use the words \
         that the documents would use; a whole sentence is not needed.",
        json!({
            "type": "object",
            "properties": {
                "query": {
                    "type": "string", "minLength": 1, "maxLength": 1000,
                    "description": "The words to look for."
                },
                "limit": {
                    "type": "integer", "minimum": 1, "maximum": MAX_LIMIT,
                    "description": "How many passages to return; 5 when left out."
                }
            },
            "required": ["query"],
            "additionalProperties": false
        }),
    )
}

fn list_tool() -> Described {
    described(
        "list",
        "Lists the documents that can be searched, by name and title, 50 at a time.",
        json!({
            "type": "object",
            "properties": {
                "after": {
                    "type": "string", "maxLength": 4096,
                    "description": "The value of next_after of the page before; left out for the first page."
                }
            },
            "additionalProperties": false
        }),
    )
}

#[cfg(test)]
mod tests;
