//! The rehearsal server over real HTTP.

use std::path::Path;
use std::time::Duration;

use eventsource_stream::Eventsource;
use futures::StreamExt;
use mar_testkit::rehearsal::{Rehearsal, Script};
use serde_json::{Value, json};

async fn server(script: &str) -> Rehearsal {
    Rehearsal::start(Script::parse(script).unwrap()).await.unwrap()
}

fn client() -> reqwest::Client {
    // Without a provider reqwest refuses to build a client, TLS or not.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap()
}

async fn post(server: &Rehearsal, body: &Value) -> reqwest::Response {
    let url = format!("{}/chat/completions", server.api_url());
    client().post(url).json(body).send().await.unwrap()
}

async fn answer(server: &Rehearsal, body: &Value) -> Value {
    let response = post(server, body).await;
    assert_eq!(response.status(), 200);
    response.json().await.unwrap()
}

fn ask(text: &str) -> Value {
    json!({"model": "rehearsal", "messages": [{"role": "user", "content": text}]})
}

fn streamed(mut body: Value) -> Value {
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    body
}

/// The data of all events, and whether the body ended without an error.
async fn events(response: reqwest::Response) -> (Vec<String>, bool) {
    let mut stream = response.bytes_stream().eventsource();
    let mut seen = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => seen.push(event.data),
            Err(_) => return (seen, false),
        }
    }
    (seen, true)
}

async fn chunks(server: &Rehearsal, body: Value) -> Vec<Value> {
    let response = post(server, &streamed(body)).await;
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let (mut seen, whole) = events(response).await;
    assert!(whole);
    assert_eq!(seen.pop().as_deref(), Some("[DONE]"));
    seen.iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[tokio::test]
async fn a_text_answer_has_the_shape_of_the_api() {
    let server = server("[[rule]]\nreply = { text = \"Hello you!\" }").await;
    let body = answer(&server, &ask("hi there")).await;
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["choices"][0]["message"]["content"], "Hello you!");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"], json!({"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}));
    let models: Value =
        client().get(format!("{}/models", server.api_url())).send().await.unwrap().json().await.unwrap();
    assert_eq!(models["data"][0]["id"], "rehearsal");
    let health = client().get(format!("{}/health", server.url())).send().await.unwrap();
    assert_eq!(health.status(), 200);
}

#[tokio::test]
async fn a_stream_brings_role_pieces_reason_and_usage() {
    let server = server("[[rule]]\nreply = { text = \"Grüße, du\", chunk_size = 4 }").await;
    let seen = chunks(&server, ask("hi")).await;
    assert_eq!(seen[0]["choices"][0]["delta"]["role"], "assistant");
    let pieces: Vec<&str> = seen.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(pieces, ["", "Grüß", "e, d", "u"]);
    let [.., last, usage] = seen.as_slice() else { panic!("too few chunks") };
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["usage"], Value::Null);
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn usage_can_be_overridden_or_missing() {
    let script = "[[rule]]\ntimes = 2\nreply = { text = \"a\", usage = { input = 70, output = 9 } }\n[[rule]]\nreply = { text = \"a\", no_usage = true }";
    let server = server(script).await;
    assert_eq!(answer(&server, &ask("x")).await["usage"]["total_tokens"], 79);
    assert_eq!(chunks(&server, ask("x")).await.last().unwrap()["usage"]["prompt_tokens"], 70);
    assert!(answer(&server, &ask("x")).await.get("usage").is_none());
    assert!(chunks(&server, ask("x")).await.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[tokio::test]
async fn tool_calls_stream_as_argument_fragments() {
    let script = r#"
        [[rule]]
        match = { last_role = "user" }
        [rule.reply]
        chunk_size = 5
        tool_calls = [
            { name = "search", arguments = { query = "{{last_user}}" } },
            { name = "broken", arguments = "{not json", id = "mine" },
        ]
        [[rule]]
        match = { last_role = "tool", tool_result_contains = "42" }
        reply = { from_tool_result = "It says {{ last_tool_result }} to {{last_user}}." }
    "#;
    let server = server(script).await;
    let seen = chunks(&server, ask("why \"so\"?")).await;
    let mut calls = [(String::new(), String::new(), String::new()), Default::default()];
    for call in seen.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].get(0)) {
        let made = &mut calls[usize::try_from(call["index"].as_u64().unwrap()).unwrap()];
        made.0.push_str(call["id"].as_str().unwrap_or(""));
        made.1.push_str(call["function"]["name"].as_str().unwrap_or(""));
        made.2.push_str(call["function"]["arguments"].as_str().unwrap_or(""));
    }
    assert_eq!((calls[0].0.as_str(), calls[0].1.as_str()), ("call_0_0", "search"));
    assert_eq!(serde_json::from_str::<Value>(&calls[0].2).unwrap(), json!({"query": "why \"so\"?"}));
    assert_eq!(calls[1], ("mine".into(), "broken".into(), "{not json".into()));
    let finish = seen.iter().filter_map(|chunk| chunk["choices"][0]["finish_reason"].as_str()).next_back();
    assert_eq!(finish, Some("tool_calls"));
    let whole = answer(&server, &ask("why?")).await;
    assert_eq!(whole["choices"][0]["message"]["content"], Value::Null);
    assert_eq!(whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], "{\"query\":\"why?\"}");

    let follow_up = json!({"model": "rehearsal", "messages": [
        {"role": "user", "content": "why?"}, whole["choices"][0]["message"],
        {"role": "tool", "tool_call_id": "call_0_0", "content": "42"}, {"role": "tool", "tool_call_id": "mine", "content": "it is 42"}]});
    let said = answer(&server, &follow_up).await;
    assert_eq!(said["choices"][0]["message"]["content"], "It says it is 42 to why?.");
}

#[tokio::test]
async fn an_error_carries_status_body_and_retry_after() {
    let script = r#"
        [[rule]]
        times = 1
        reply = { error = { status = 429, retry_after = "1500ms", body = { error = { message = "slow down" } } } }
        [[rule]]
        times = 1
        reply = { error = { status = 502, body = "<html>bad gateway" } }
        [[rule]]
        reply = { error = { status = 503 } }
    "#;
    let server = server(script).await;
    let response = post(&server, &ask("x")).await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "2");
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["message"], "slow down");
    let response = post(&server, &streamed(ask("x"))).await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.text().await.unwrap(), "<html>bad gateway");
    let response = post(&server, &ask("x")).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["type"], "server_error");
}

#[tokio::test]
async fn a_cut_drops_the_connection_after_so_many_chunks() {
    let server = server("[[rule]]\nreply = { text = \"one two three four\", chunk_size = 4, cut_after = 3 }").await;
    let (seen, whole) = events(post(&server, &streamed(ask("x"))).await).await;
    assert_eq!(seen.len(), 3);
    assert!(!whole);
    assert!(post(&server, &ask("x")).await.bytes().await.is_err());
    assert_eq!((server.in_flight(), server.abandoned()), (0, 0));
}

#[tokio::test]
async fn garbage_is_sent_as_it_stands() {
    let script =
        "[[rule]]\ntimes = 2\nreply = { garbage = \"data: {oops\" }\n[[rule]]\nreply = { garbage_hex = \"ff fe 00\" }";
    let server = server(script).await;
    assert_eq!(post(&server, &ask("x")).await.text().await.unwrap(), "data: {oops");
    assert_eq!(post(&server, &streamed(ask("x"))).await.text().await.unwrap(), "data: {oops");
    assert_eq!(post(&server, &ask("x")).await.bytes().await.unwrap().as_ref(), [0xff, 0xfe, 0]);
}

#[tokio::test]
async fn a_hang_lasts_until_the_client_leaves_or_the_server_stops() {
    let script = "[[rule]]\nmatch = { stream = true }\nreply = { text = \"abcdef\", chunk_size = 1, hang_after = 2 }\n[[rule]]\nreply = { hang = true }";
    let server = server(script).await;
    let url = format!("{}/chat/completions", server.api_url());
    for body in [ask("x"), streamed(ask("x"))] {
        let request = client().post(&url).json(&body).timeout(Duration::from_millis(200));
        let failed = match request.send().await {
            Ok(response) => response.bytes().await.unwrap_err(),
            Err(error) => error,
        };
        assert!(failed.is_timeout(), "{failed}");
    }
    let gone = mar_testkit::wait::until(Duration::from_secs(5), || async { server.abandoned() == 2 }).await;
    gone.unwrap();
    assert_eq!(server.in_flight(), 0);

    let client = client();
    let hanging = client.post(&url).json(&ask("x")).send();
    let stopping = async {
        mar_testkit::wait::until(Duration::from_secs(5), || async { server.in_flight() == 1 }).await.unwrap();
        server.shutdown().await;
    };
    let (response, ()) = tokio::join!(hanging, stopping);
    assert_eq!(response.unwrap().status(), 503);
}

#[tokio::test]
async fn delays_keep_to_the_clock() {
    let server =
        server("[[rule]]\nreply = { text = \"abcd\", chunk_size = 1, delay = \"120ms\", chunk_delay = \"20ms\" }")
            .await;
    let seen = tokio::time::timeout(Duration::from_millis(150), chunks(&server, ask("x"))).await;
    assert!(seen.is_err(), "8 events need 120 ms and 7 times 20 ms");
    assert_eq!(chunks(&server, ask("x")).await.len(), 7);
}

#[tokio::test]
async fn rules_are_used_in_order_and_as_often_as_they_say() {
    let script = r#"
        [[rule]]
        times_per_conversation = 1
        match = { regex = "^Q\\d" }
        reply = { text = "first" }
        [[rule]]
        match = { turn = 1 }
        reply = { text = "second turn" }
        [[rule]]
        match = { model = "other" }
        reply = { echo = true }
        [[rule]]
        match = { contains = "schema", has_schema = true, has_tools = false }
        reply = { json = { said = ["{{last_user}}"], n = 3 } }
        [[rule]]
        times = 1
        match = { contains = "Q" }
        reply = { text = "later", finish_reason = "content_filter" }
    "#;
    let server = server(script).await;
    let text = |body: Value| body["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert_eq!(text(answer(&server, &ask("Q1")).await), "first");
    assert_eq!(text(answer(&server, &ask("Q2")).await), "first");
    let later = answer(&server, &ask("Q1")).await;
    assert_eq!(later["choices"][0]["finish_reason"], "content_filter");
    let mut body = ask("hello");
    body["model"] = json!("other");
    assert_eq!(text(answer(&server, &body).await), "hello");
    let mut body = ask("schema");
    body["response_format"] =
        json!({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}});
    let said: Value = serde_json::from_str(&text(answer(&server, &body).await)).unwrap();
    assert_eq!(said, json!({"said": ["schema"], "n": 3}));
    let turns = json!({"model": "rehearsal", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": [{"type": "text", "text": "c"}]}]});
    assert_eq!(text(answer(&server, &turns).await), "second turn");
    let unmatched = post(&server, &ask("Q1")).await;
    assert_eq!(unmatched.status(), 400);
    assert_eq!(unmatched.json::<Value>().await.unwrap()["error"]["code"], "no_rule_matches");
}

#[tokio::test]
async fn a_key_is_demanded_and_never_shown() {
    let script = Script::parse("models = [\"a\"]\n[[rule]]\nreply = { echo = true }").unwrap().with_api_key("s3cret");
    let server = Rehearsal::start(script).await.unwrap();
    assert_eq!(post(&server, &ask("x")).await.status(), 401);
    assert_eq!(client().get(format!("{}/models", server.api_url())).send().await.unwrap().status(), 401);
    let url = format!("{}/chat/completions", server.api_url());
    let send =
        |body: Value| client().post(&url).bearer_auth("s3cret").header("traceparent", "00-ab").json(&body).send();
    assert_eq!(send(ask("x")).await.unwrap().status(), 404);
    let mut known = ask("x");
    known["model"] = json!("a");
    assert_eq!(send(known.clone()).await.unwrap().status(), 200);
    let kept = server.requests();
    assert_eq!((kept.len(), server.request_count()), (3, 3));
    assert_eq!((kept[0].rule.as_deref(), kept[2].rule.as_deref()), (None, Some("rule 1")));
    assert_eq!(kept[2].headers["traceparent"], "00-ab");
    assert_eq!(kept[2].body, known);
    let shown =
        client().get(format!("{}/rehearsal/requests", server.url())).send().await.unwrap().text().await.unwrap();
    assert!(shown.contains("traceparent") && !shown.contains("s3cret"), "{shown}");
}

#[tokio::test]
async fn bad_requests_are_refused_as_the_api_does() {
    let server = server("[[rule]]\nreply = { echo = true }").await;
    let url = format!("{}/chat/completions", server.api_url());
    let raw = client().post(&url).body(vec![b'{', 0xff, b'}']).send().await.unwrap();
    assert_eq!(raw.status(), 400);
    let user = json!({"role": "user", "content": "x"});
    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
    let result = json!({"role": "tool", "tool_call_id": "c", "content": "r"});
    for (body, param) in [
        (json!([]), Value::Null),
        (json!({"messages": [user]}), json!("model")),
        (json!({"model": "m", "messages": []}), json!("messages")),
        (json!({"model": "m", "messages": [{"role": "robot", "content": ""}]}), json!("messages")),
        (json!({"model": "m", "messages": [user, result]}), json!("messages")),
        (json!({"model": "m", "messages": [user, call, user]}), json!("messages")),
        (json!({"model": "m", "messages": [user, call]}), json!("messages")),
        (json!({"model": "m", "messages": [user], "tools": [{"function": {"name": "a.b"}}]}), json!("tools")),
        (
            json!({"model": "m", "messages": [user], "response_format": {"type": "json_schema"}}),
            json!("response_format"),
        ),
    ] {
        let response = post(&server, &body).await;
        assert_eq!(response.status(), 400, "{body}");
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["param"], param, "{body}");
    }
    assert_eq!(post(&server, &json!({"model": "m", "messages": [user, call, result]})).await.status(), 200);
    assert_eq!(client().get(format!("{}/nothing", server.url())).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn max_tokens_shortens_a_text() {
    let server = server("[[rule]]\nreply = { text = \"0123456789\" }").await;
    let mut body = ask("x");
    body["max_tokens"] = json!(2);
    let short = answer(&server, &body).await;
    assert_eq!(short["choices"][0]["message"]["content"], "01234567");
    assert_eq!(short["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn serve_ends_with_its_shutdown() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/health", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = Rehearsal::serve(listener, Script::default(), async { drop(stopped.await) });
    let using = async {
        assert_eq!(client().get(&url).send().await.unwrap().status(), 200);
        stop.send(()).unwrap();
    };
    let (served, ()) = tokio::join!(serving, using);
    served.unwrap();
    assert!(client().get(&url).send().await.is_err());
}

#[tokio::test]
async fn the_default_script_searches_and_then_cites_with_native_tools() {
    let server = Rehearsal::start(Script::default()).await.unwrap();
    let schema = json!({"type": "object", "required": ["answer", "citations"], "additionalProperties": false, "properties": {
        "answer": {"type": "string", "minLength": 1}, "citations": {"type": "array", "items": {"type": "string"}}}});
    let tool = |name: &str, description: &str| {
        let parameters = json!({"type": "object", "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}}, "required": ["query"]});
        json!({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}})
    };
    let mut body = ask("Do cats purr?");
    body["tools"] = json!([tool("list", "Lists"), tool("docs__lookup", "Search documents")]);
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
    let first = answer(&server, &body).await["choices"][0]["message"].take();
    assert_eq!(first["tool_calls"][0]["function"]["name"], "docs__lookup");
    assert_eq!(first["tool_calls"][0]["function"]["arguments"], "{\"query\":\"Do cats purr?\"}");
    let found =
        json!([{"id": "cats.md#3", "title": "Cats", "text": "Cats purr when content.", "score": 1.5}]).to_string();
    let mut empty = body.clone();
    for (body, result) in [(&mut body, found.as_str()), (&mut empty, "[]")] {
        let messages = body["messages"].as_array_mut().unwrap();
        messages.extend([first.clone(), json!({"role": "tool", "tool_call_id": "call_0_0", "content": result})]);
    }
    let said = answer(&server, &body).await["choices"][0]["message"]["content"].take();
    let said: Value = serde_json::from_str(said.as_str().unwrap()).unwrap();
    assert_eq!(said, json!({"answer": "Cats purr when content.", "citations": ["cats.md#3"]}));
    let said = answer(&server, &empty).await["choices"][0]["message"]["content"].take();
    let said: Value = serde_json::from_str(said.as_str().unwrap()).unwrap();
    assert_eq!(said, json!({"answer": "No source was found for this question.", "citations": []}));
    body["response_format"] = Value::Null;
    let said = answer(&server, &body).await["choices"][0]["message"]["content"].take();
    assert_eq!(said, "Cats purr when content. [cats.md#3]");
}

#[tokio::test]
async fn the_default_script_fills_a_constrained_choice() {
    let server = Rehearsal::start(Script::default()).await.unwrap();
    let branch = |tool: &str, arguments: Value| {
        json!({"type": "object", "required": ["tool", "arguments"], "additionalProperties": false,
        "properties": {"tool": {"const": tool}, "arguments": arguments}})
    };
    let text = json!({"type": "string"});
    let schema = json!({"anyOf": [
        branch("list", json!({"type": "object"})),
        branch("search", json!({"type": "object", "required": ["query"], "properties": {"query": text}})),
        branch("answer", json!({"type": "object", "required": ["answer", "citations"], "properties": {"answer": text, "citations": {"type": "array", "items": text}}}))]});
    let mut body = ask("Do cats purr?");
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "step", "schema": schema}});
    let first = answer(&server, &body).await["choices"][0]["message"]["content"].take();
    let chosen: Value = serde_json::from_str(first.as_str().unwrap()).unwrap();
    assert_eq!(chosen, json!({"tool": "search", "arguments": {"query": "Do cats purr?"}}));
    let result = "Result of search: [{\"id\":\"cats.md#3\",\"title\":\"Cats\",\"text\":\"Cats purr.\",\"score\":1}]";
    let messages = body["messages"].as_array_mut().unwrap();
    messages.extend([json!({"role": "assistant", "content": first}), json!({"role": "user", "content": result})]);
    let last = answer(&server, &body).await["choices"][0]["message"]["content"].take();
    let chosen: Value = serde_json::from_str(last.as_str().unwrap()).unwrap();
    assert_eq!(chosen["tool"], "answer");
    assert_eq!(chosen["arguments"], json!({"answer": "Cats purr.", "citations": ["cats.md#3"]}));
}

#[test]
fn the_documented_example_is_a_script() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    Script::load(&root.join("examples/rehearsal.toml")).unwrap();
    let page = std::fs::read_to_string(root.join("rehearsal.md")).unwrap();
    let examples: Vec<&str> = page.split("```toml\n").skip(1).filter_map(|part| part.split("```").next()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        Script::parse(example).unwrap_or_else(|error| panic!("{error}\n{example}"));
    }
    assert!(Script::load(&root.join("missing.toml")).unwrap_err().to_string().contains("missing.toml"));
}
