//! Lines of JSON-RPC with a bounded memory: a line that is too long, or that is no MCP message, becomes an error in the
//! place of the answer that it would have been, so that the call ends at once and the session lives on.

use mar_descriptor::canonical;
use rmcp::ErrorData;
use rmcp::model::{ErrorCode, JsonRpcMessage, RequestId};
use rmcp::service::{RoleClient, RxJsonRpcMessage};
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

use super::clip::Clip;
use super::{NOT_MCP, OWN_ERROR, TOO_DEEP, TOO_LARGE};

/// What is kept of the ends of a line that is too long, to find whose answer it is.
const KEPT: usize = 256;

/// What came in.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A message, or the error in its place.
    Message(Box<RxJsonRpcMessage<RoleClient>>),
    /// A line that no call waits for, such as a log line.
    Noise,
    /// A line that is too long and cannot be told whose answer it is: nothing after it can be trusted.
    Lost,
    /// The end of the stream.
    End,
}

/// Reads lines. Cancel-safe: a read that is dropped goes on where it was.
#[derive(Debug)]
pub(super) struct Lines<R> {
    from: R,
    limit: usize,
    clip: Clip,
    /// What is kept of the piece in hand.
    kept: Vec<u8>,
    line: Vec<u8>,
    /// The last bytes of a line that is too long; the first stay in `line`.
    tail: Option<Vec<u8>>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) fn new(from: R, limit: usize) -> Self {
        Self { from, limit, clip: Clip::of_lines(), kept: Vec::new(), line: Vec::new(), tail: None }
    }

    pub(super) async fn next(&mut self) -> Incoming {
        loop {
            let available = match self.from.fill_buf().await {
                Ok([]) | Err(_) => return Incoming::End,
                Ok(available) => available,
            };
            let newline = available.iter().position(|byte| *byte == b'\n');
            let used = newline.map_or(available.len(), |at| at + 1);
            self.kept.clear();
            self.clip.pass(&available[..used], &mut self.kept);
            let piece = self.kept.strip_suffix(b"\n").unwrap_or(&self.kept);
            match &mut self.tail {
                Some(tail) => keep_tail(tail, piece),
                None if self.line.len() + piece.len() > self.limit => {
                    let mut tail = Vec::new();
                    keep_tail(&mut tail, &self.line);
                    keep_tail(&mut tail, piece);
                    self.line.extend_from_slice(&piece[..piece.len().min(KEPT)]);
                    self.line.truncate(KEPT);
                    self.line.shrink_to_fit();
                    self.tail = Some(tail);
                }
                None => self.line.extend_from_slice(piece),
            }
            self.from.consume(used);
            if newline.is_some() {
                return self.end_line();
            }
        }
    }

    fn end_line(&mut self) -> Incoming {
        let line = std::mem::take(&mut self.line);
        match self.tail.take() {
            None => read(&line),
            Some(tail) => match id_at_ends(&line, &tail) {
                Some(id) => own_error(id, TOO_LARGE),
                None => Incoming::Lost,
            },
        }
    }
}

fn keep_tail(tail: &mut Vec<u8>, piece: &[u8]) {
    tail.extend_from_slice(&piece[piece.len().saturating_sub(KEPT)..]);
    tail.drain(..tail.len().saturating_sub(KEPT));
}

fn read(line: &[u8]) -> Incoming {
    match serde_json::from_slice(line) {
        Ok(message) => Incoming::Message(Box::new(message)),
        Err(_) => match serde_json::from_slice::<Value>(line) {
            Ok(value) => not_mcp(&value),
            Err(error) if canonical::is_too_deep(&error) => {
                id_at_ends(line, line).map_or(Incoming::Noise, |id| own_error(id, TOO_DEEP))
            }
            Err(_) => Incoming::Noise,
        },
    }
}

/// JSON that is no message of the protocol fails the call whose answer it claims to be.
fn not_mcp(value: &Value) -> Incoming {
    let id = value.get("id").and_then(Value::as_i64).filter(|_| value.get("method").is_none());
    id.map_or(Incoming::Noise, |id| own_error(RequestId::Number(id), NOT_MCP))
}

fn own_error(id: RequestId, what: &str) -> Incoming {
    let error = ErrorData::new(ErrorCode::INTERNAL_ERROR, what.to_owned(), Some(json!({ OWN_ERROR: what })));
    Incoming::Message(Box::new(JsonRpcMessage::error(error, Some(id))))
}

/// Servers write the id before the result or after it; our ids are whole numbers.
fn id_at_ends(head: &[u8], tail: &[u8]) -> Option<RequestId> {
    let head = String::from_utf8_lossy(head);
    let before = head.find("\"result\"").or_else(|| head.find("\"error\"")).map_or(&*head, |at| &head[..at]);
    let tail = String::from_utf8_lossy(tail);
    number_after_id(before, before.find("\"id\"")).or_else(|| number_after_id(&tail, tail.rfind("\"id\"")))
}

fn number_after_id(text: &str, at: Option<usize>) -> Option<RequestId> {
    let rest = text[at? + 4..].trim_start().strip_prefix(':')?.trim_start();
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    rest[..digits].parse().ok().map(RequestId::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: String, limit: usize) -> Vec<Incoming> {
        let mut lines = Lines::new(tokio::io::BufReader::with_capacity(7, std::io::Cursor::new(text)), limit);
        let mut found = Vec::new();
        loop {
            match lines.next().await {
                Incoming::End => return found,
                other => found.push(other),
            }
        }
    }

    fn error_of(incoming: &Incoming) -> (i64, &str) {
        let Incoming::Message(message) = incoming else { panic!("{incoming:?}") };
        let JsonRpcMessage::Error(error) = &**message else { panic!("{incoming:?}") };
        let Some(RequestId::Number(id)) = error.id else { panic!() };
        (id, super::super::own_error(&error.error).unwrap())
    }

    #[tokio::test]
    async fn a_long_line_fails_its_own_call() {
        let long = "x".repeat(5_000);
        let text = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{{\"text\":\"{long}\"}}}}\n\
             {{\"result\":{{\"text\":\"{long}\"}},\"jsonrpc\":\"2.0\",\"id\":8}}\n\
             {{\"jsonrpc\":\"2.0\",\"id\":9,\"result\":{{\"content\":[]}}}}\n"
        );
        let found = all(text, 1_000).await;
        assert_eq!(error_of(&found[0]), (7, TOO_LARGE));
        assert_eq!(error_of(&found[1]), (8, TOO_LARGE));
        assert!(matches!(&found[2], Incoming::Message(_)));
    }

    #[tokio::test]
    async fn a_deep_line_fails_its_own_call() {
        let deep = format!("{}1{}", r#"{"not":"#.repeat(200), "}".repeat(200));
        let text = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{deep}}}\n\
             {{\"result\":{deep},\"jsonrpc\":\"2.0\",\"id\":8}}\n\
             {deep}\n"
        );
        let found = all(text, 10_000).await;
        assert_eq!(error_of(&found[0]), (7, TOO_DEEP));
        assert_eq!(error_of(&found[1]), (8, TOO_DEEP));
        assert!(matches!(found[2], Incoming::Noise));
    }

    #[tokio::test]
    async fn memory_stays_bounded() {
        let text = format!("{}\n", "x".repeat(100_000));
        let mut lines = Lines::new(tokio::io::BufReader::new(std::io::Cursor::new(text)), 1_000);
        assert!(matches!(lines.next().await, Incoming::Lost));
        assert!(lines.line.capacity() <= 1_000);
    }

    #[tokio::test]
    async fn noise_and_foreign_json_end_no_session() {
        let found = all("starting…\n\n{\"id\":3,\"nothing\":1}\n{\"a\":1}\n\u{0}\n".to_owned(), 1_000).await;
        assert!(matches!(found[0], Incoming::Noise) && matches!(found[1], Incoming::Noise));
        assert_eq!(error_of(&found[2]), (3, NOT_MCP));
        assert!(matches!(found[3], Incoming::Noise));
    }
}
