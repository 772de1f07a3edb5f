use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use mar_proto::types::part;
use proptest::prelude::*;

use super::*;
use crate::prompt::{Prompt, Schema, Tool};
use crate::provider::openai::constrained::ActionSpace;
use crate::provider::openai::request::Codec;
use crate::provider::openai::response;
use crate::provider::{Answer, DeltaKind, FailureClass, Finish};

const NATIVE: &str = concat!(
    ": a comment\r\n\r\n",
    "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"Hm — \"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"ja\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Grüße 😀, \"},\"logprobs\":null}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"look:\"}}]}\r\n\r\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"search\",\"arguments\":\"\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"query\\\":\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":1,\"id\":\"c2\",\"function\":{\"name\":\"other\",\"arguments\":\"{}\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"\\\"é\\\"}\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":30,\"prompt_tokens_details\":{\"cached_tokens\":40},\"completion_tokens_details\":{\"reasoning_tokens\":10}}}\n\n",
    "data: [DONE]\n\n",
);

const CONSTRAINED: &str = concat!(
    "data: {\"choices\":[{\"delta\":{\"content\":\"{\\\"action\\\": \\\"ans\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"wer\\\", \\\"answer\\\": \\\"one\\\\nt\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"wo\\\"}\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
);

fn prompt() -> Arc<Prompt> {
    let text = r#"{"type":"object","properties":{"query":{"type":"string"}}}"#;
    let tool = Tool {
        name: "tools/docs.search".into(),
        alias: "search".into(),
        description: String::new(),
        input_schema: Schema { text: text.into(), value: serde_json::from_str(text).unwrap() },
        definition_hash: String::new(),
    };
    Arc::new(Prompt { tools: vec![tool], ..Prompt::default() })
}

fn native() -> Builder {
    Builder::new(prompt(), Codec::Plain, Vec::new())
}

fn constrained() -> Builder {
    Builder::new(prompt(), Codec::Constrained(ActionSpace::new(&prompt())), Vec::new())
}

fn run(builder: Builder, pieces: Vec<Vec<u8>>) -> Vec<Result<Event, Failure>> {
    let body = stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from(piece))));
    futures::executor::block_on(events(body, builder).collect())
}

fn whole(builder: Builder, text: &str) -> Vec<Result<Event, Failure>> {
    run(builder, vec![text.as_bytes().to_vec()])
}

fn answer(events: &[Result<Event, Failure>]) -> Answer {
    match events.last() {
        Some(Ok(Event::Finished(answer))) => answer.as_ref().clone(),
        other => panic!("{other:?}"),
    }
}

fn failure(events: &[Result<Event, Failure>]) -> Failure {
    events.last().unwrap().clone().unwrap_err()
}

/// What the deltas of a part say together; each begins where the one before ended.
fn said(events: &[Result<Event, Failure>], at: usize) -> (Option<DeltaKind>, String) {
    let (mut kind, mut text) = (None, String::new());
    for event in events.iter().flatten() {
        if let Event::Delta(delta) = event
            && delta.part == at
        {
            assert_eq!(delta.offset, text.len());
            text.push_str(&delta.text);
            kind = Some(delta.kind);
        }
    }
    (kind, text)
}

#[test]
fn a_stream_becomes_a_turn() {
    let events = whole(native(), NATIVE);
    assert_eq!(events[0], Ok(Event::Began));
    let answer = answer(&events);
    let contents: Vec<_> = answer.parts.iter().map(|part| part.content.clone().unwrap()).collect();
    let [
        part::Content::Reasoning(thought),
        part::Content::Text(text),
        part::Content::ToolCall(search),
        part::Content::ToolCall(other),
    ] = &contents[..]
    else {
        panic!("{contents:?}")
    };
    assert_eq!((thought.text.as_str(), text.as_str()), ("Hm — ja", "Grüße 😀, look:"));
    assert_eq!((search.tool.as_str(), search.provider_call_id.as_str()), ("tools/docs.search", "c1"));
    assert_eq!(search.arguments_json, r#"{"query":"é"}"#);
    assert_eq!((other.tool.as_str(), other.arguments_json.as_str()), ("other", "{}"));
    assert_eq!(answer.finish, Finish::ToolCalls);
    let tokens = answer.tokens.unwrap();
    assert_eq!((tokens.input, tokens.cached_input, tokens.output, tokens.reasoning), (60, 40, 20, 10));
    assert_eq!(said(&events, 0), (Some(DeltaKind::Reasoning), thought.text.clone()));
    assert_eq!(said(&events, 1), (Some(DeltaKind::Text), text.clone()));
    assert_eq!(said(&events, 2), (Some(DeltaKind::ToolArguments), search.arguments_json.clone()));
}

#[test]
fn a_constrained_answer_streams_as_its_text() {
    let events = whole(constrained(), CONSTRAINED);
    let answer = answer(&events);
    assert_eq!(answer.parts[0].content, Some(part::Content::Text("one\ntwo".into())));
    assert_eq!(said(&events, 0), (Some(DeltaKind::Text), "one\ntwo".into()));
    assert_eq!(answer.tokens, None);
}

proptest! {
    #[test]
    fn any_cutting_gives_the_same_turn(cuts in prop::collection::vec(1_usize..60, 0..80), form in 0..2) {
        let (builder, text): (fn() -> Builder, _) = if form == 0 { (native, NATIVE) } else { (constrained, CONSTRAINED) };
        let mut rest = text.as_bytes();
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece.to_vec());
            rest = after;
        }
        pieces.push(rest.to_vec());
        prop_assert_eq!(run(builder(), pieces), whole(builder(), text));
    }

    #[test]
    fn garbage_never_panics(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8)) {
        let events = run(native(), pieces);
        prop_assert!(events.last().unwrap().is_err());
    }

    #[test]
    fn a_stream_that_is_cut_is_broken_or_whole(end in 0_usize..NATIVE.len()) {
        let events = run(native(), vec![NATIVE.as_bytes()[..end].to_vec()]);
        let finished = NATIVE.find("\"finish_reason\"").unwrap();
        match events.last().unwrap() {
            Ok(_) => prop_assert!(end > finished),
            Err(failure) => prop_assert_eq!(failure.class, FailureClass::Broken),
        }
    }
}

#[test]
fn broken_streams_are_told_apart_from_odd_ones() {
    let chunk = |text: &str| format!("data: {text}\n\n");
    for broken in [
        chunk("[DONE]"),
        chunk(r#"{"choices":[{"delta":{"content":"x"}}]}"#) + &chunk("[DONE]"),
        chunk(r#"{"error":{"message":"overloaded","code":503}}"#),
        chunk(r#"{"choices":"none"}"#),
        chunk("[1,2]"),
        String::new(),
    ] {
        let failure = failure(&whole(native(), &broken));
        assert_eq!(failure.class, FailureClass::Broken, "{broken}");
        assert!(!failure.detail.contains("overloaded"));
    }
    let odd = chunk(
        r#"{"choices":[{"delta":{"content":"x","function_call":{"name":"f"}},"finish_reason":"bored"},{"index":1,"delta":{"content":"y"}}],"usage":{"prompt_tokens":-1,"completion_tokens":2}}"#,
    );
    let answer = answer(&whole(native(), &odd));
    assert_eq!(answer.finish, Finish::Stop);
    assert_eq!(answer.tokens, None);
    assert_eq!(answer.warnings.len(), 4, "{:?}", answer.warnings);
}

#[test]
fn a_call_without_a_name_can_be_sent_back() {
    let text = concat!(
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"\",\"arguments\":\"{}\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
    );
    let called = answer(&whole(native(), text));
    let Some(part::Content::ToolCall(call)) = &called.parts[0].content else { panic!("{:?}", called.parts) };
    assert_eq!(call.tool, "nameless");
}

#[test]
fn refusals_and_calls_without_index_are_read() {
    let text = concat!(
        "data: {\"choices\":[{\"delta\":{\"refusal\":\"I will \"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"refusal\":\"not\"},\"finish_reason\":\"content_filter\"}]}\n\n",
    );
    let refused = answer(&whole(native(), text));
    assert_eq!(refused.parts[0].content, Some(part::Content::Refusal("I will not".into())));
    assert_eq!(refused.finish, Finish::ContentFilter);

    let text = concat!(
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":\"search\",\"arguments\":{\"query\":\"x\"}}},",
        "{\"id\":\"b\",\"function\":{\"name\":\"search\",\"arguments\":\"{}\"}}]},\"finish_reason\":\"stop\"}]}\n\n",
    );
    let called = answer(&whole(native(), text));
    assert_eq!((called.parts.len(), called.finish), (2, Finish::ToolCalls));
}

#[test]
fn an_answer_in_one_piece_reads_the_same() {
    let body = r#"{"object":"chat.completion","system_fingerprint":"f","choices":[{"index":0,"message":{"role":"assistant","content":[{"type":"text","text":"Hi"}],"tool_calls":[{"id":"c1","type":"function","function":{"name":"search","arguments":"{\"query\":\"x\"}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
    let pieces = body.as_bytes().chunks(7).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    let events: Vec<_> = futures::executor::block_on(response::events(stream::iter(pieces), native()).collect());
    let answer = answer(&events);
    assert_eq!(answer.parts.len(), 2);
    assert_eq!(answer.tokens.unwrap().all_output(), 4);
}

#[test]
fn a_byte_order_mark_before_the_first_event_is_none_of_it() {
    let marked = format!("\u{feff}{NATIVE}");
    let whole = run(native(), vec![NATIVE.as_bytes().to_vec()]);
    for cut in 0..8 {
        let (first, rest) = marked.as_bytes().split_at(cut);
        assert_eq!(format!("{:?}", run(native(), vec![first.to_vec(), rest.to_vec()])), format!("{whole:?}"), "{cut}");
    }
    let alone = run(native(), vec!["\u{feff}".as_bytes().to_vec()]);
    assert!(matches!(alone[..], [Err(_)]), "{alone:?}");
}

#[test]
fn a_usage_that_cannot_be_counts_as_none() {
    for absurd in ["9000000000000000000", "1000000000001", "-1"] {
        let reported = NATIVE.replace("\"prompt_tokens\":100", &format!("\"prompt_tokens\":{absurd}"));
        assert_ne!(reported, NATIVE);
        let answer = answer(&whole(native(), &reported));
        assert_eq!(answer.tokens, None, "{absurd}");
    }
}
