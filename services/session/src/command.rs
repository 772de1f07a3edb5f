//! What callers want of runs, as it is kept until the run has taken it.

use bytes::Bytes;
use mar_proto::session::{Answer, ChildEnded};
use mar_proto::types::{Part, ToolResult};
use prost::Message as _;

use crate::run::{ChildEnd, Command, Reply, Resolution, Submission};
use crate::store;

/// Exactly one is set.
#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(message, optional, tag = "1")]
    cancel: Option<Cancel>,
    #[prost(message, optional, tag = "2")]
    pause: Option<Pause>,
    #[prost(message, optional, tag = "3")]
    resume: Option<Resume>,
    #[prost(message, optional, tag = "4")]
    resolve: Option<Resolve>,
    #[prost(message, optional, tag = "5")]
    submitted: Option<Submitted>,
    #[prost(message, optional, tag = "6")]
    input: Option<Input>,
    #[prost(message, optional, tag = "20")]
    renew: Option<Renew>,
    #[prost(message, optional, tag = "21")]
    halt_with_parent: Option<Resume>,
    #[prost(message, optional, tag = "22")]
    child_ended: Option<Ended>,
}

/// How a child ended, in the form of its parent's log.
#[derive(Clone, PartialEq, prost::Message)]
struct Ended {
    #[prost(message, optional, tag = "1")]
    leaf: Option<ChildEnded>,
    #[prost(message, optional, tag = "2")]
    answer: Option<Answer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Cancel {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    principal: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pause {
    #[prost(string, tag = "1")]
    principal: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resume {}

#[derive(Clone, PartialEq, prost::Message)]
struct Renew {}

#[derive(Clone, PartialEq, prost::Message)]
struct Resolve {
    #[prost(string, tag = "1")]
    approval: String,
    #[prost(string, tag = "2")]
    digest: String,
    #[prost(bool, tag = "3")]
    approved: bool,
    #[prost(string, tag = "4")]
    principal: String,
    #[prost(string, tag = "5")]
    comment: String,
}

/// Before the gateway was asked about it.
#[derive(Clone, PartialEq, prost::Message)]
struct Submitted {
    #[prost(message, optional, tag = "1")]
    result: Option<ToolResult>,
    #[prost(string, tag = "2")]
    principal: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Input {
    #[prost(message, repeated, tag = "1")]
    parts: Vec<Part>,
    #[prost(string, tag = "2")]
    call_id: String,
    #[prost(string, tag = "3")]
    principal: String,
}

/// A command as bytes.
pub fn encode(command: &Command) -> Bytes {
    let mut stored = Stored::default();
    match command.clone() {
        Command::Cancel { reason, principal } => stored.cancel = Some(Cancel { reason, principal }),
        Command::Pause { principal } => stored.pause = Some(Pause { principal }),
        Command::Resume => stored.resume = Some(Resume {}),
        Command::Renew => stored.renew = Some(Renew {}),
        Command::Resolve(Resolution { approval, digest, approved, principal, comment }) => {
            stored.resolve = Some(Resolve { approval, digest, approved, principal, comment });
        }
        Command::ToolResult(given) => {
            stored.submitted = Some(Submitted { result: Some(given.result), principal: given.principal });
        }
        Command::Input(Reply { call_id, parts, principal }) => {
            stored.input = Some(Input { parts, call_id, principal });
        }
        Command::HaltWithParent => stored.halt_with_parent = Some(Resume {}),
        Command::ChildEnded { run, end } => {
            stored.child_ended = Some(Ended { leaf: Some(end.to_leaf(run)), answer: end.answer });
        }
    }
    stored.encode_to_vec().into()
}

/// A stored command.
///
/// # Errors
/// The bytes hold none that this version knows.
pub fn decode(bytes: &Bytes) -> Result<Command, store::Error> {
    let corrupt = || store::Error::Corrupt("command");
    let stored = Stored::decode(bytes.clone()).map_err(|_| corrupt())?;
    let cancel = stored.cancel.map(|Cancel { reason, principal }| Command::Cancel { reason, principal });
    let pause = stored.pause.map(|Pause { principal }| Command::Pause { principal });
    let resume = stored.resume.map(|Resume {}| Command::Resume);
    let renew = stored.renew.map(|Renew {}| Command::Renew);
    let resolve = stored.resolve.map(|Resolve { approval, digest, approved, principal, comment }| {
        Command::Resolve(Resolution { approval, digest, approved, principal, comment })
    });
    let result = stored.submitted.map(|Submitted { result, principal }| {
        let result = result.unwrap_or_default();
        Command::ToolResult(Box::new(Submission { result, principal, ..Submission::default() }))
    });
    let input =
        stored.input.map(|Input { parts, call_id, principal }| Command::Input(Reply { call_id, parts, principal }));
    let halt = stored.halt_with_parent.map(|Resume {}| Command::HaltWithParent);
    let ended = stored.child_ended.and_then(|ended| {
        let leaf = ended.leaf?;
        let run = leaf.run.parse().ok()?;
        Some(Command::ChildEnded { run, end: Box::new(ChildEnd::of_leaf(&leaf, ended.answer)) })
    });
    cancel.or(halt).or(ended).or(pause).or(resume).or(renew).or(resolve).or(result).or(input).ok_or_else(corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_what_was_wanted() {
        let resolution = Resolution {
            approval: "1-0".into(),
            digest: "sha256:d".into(),
            approved: true,
            principal: "user:bob".into(),
            comment: "fine".into(),
        };
        let leaf =
            ChildEnded { state: 6, halt_reason: 1, tainted: true, head: vec![1; 32].into(), ..Default::default() };
        let end = ChildEnd::of_leaf(&leaf, Some(Answer { json: "{}".into(), ..Answer::default() }));
        let commands = [
            Command::Cancel { reason: "CANCELLED_BY_CALLER".into(), principal: "user:ada".into() },
            Command::Pause { principal: String::new() },
            Command::Resume,
            Command::Resolve(resolution),
            Command::ToolResult(Box::new(Submission {
                result: ToolResult { call_id: "r/1/0".into(), ..ToolResult::default() },
                principal: "user:ada".into(),
                ..Submission::default()
            })),
            Command::Input(Reply { call_id: "r/1/0".into(), parts: Vec::new(), principal: "user:ada".into() }),
            Command::HaltWithParent,
            Command::ChildEnded { run: uuid::Uuid::from_u128(9), end: Box::new(end) },
        ];
        for command in commands {
            assert_eq!(decode(&encode(&command)).unwrap(), command);
        }
        for garbage in [&b""[..], b"\xff\xff", b"\x3a\x00"] {
            assert!(decode(&Bytes::from_static(garbage)).is_err(), "{garbage:?}");
        }
    }
}
