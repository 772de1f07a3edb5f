//! Requests that break rules.

use bytes::Bytes;
use mar_proto::session::*;
use mar_proto::types::{HaltingPolicy, Part, part::Content};
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, Shape, Stores, task};
use prost_types::Duration;
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;

use crate::refused::Refused;
use crate::story::{self, end};

/// What every refusal of a body says.
const INVALID: (Code, &str) = (Code::InvalidArgument, "INVALID_REQUEST");

async fn system() -> anyhow::Result<Deployment> {
    let script = r#"
[[rule]]
match = { contains = "[hang]" }
reply = { hang = true }
[[rule]]
reply = { text = "Fine." }
"#;
    Deployment::start(Options::new(Shape::One, Stores::Embedded).script(script)).await
}

fn start(session: &str, task: Task) -> StartRunRequest {
    StartRunRequest { request_id: request_id(), session: session.into(), task: Some(task), ..Default::default() }
}

fn halting(change: impl FnOnce(&mut HaltingPolicy)) -> Task {
    let mut limits = HaltingPolicy::default();
    change(&mut limits);
    task::limited(task::question("why?"), limits)
}

fn span(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

/// Tasks that are refused before they are admitted, and the fields that are named.
fn refused_tasks() -> Vec<(&'static str, Task, Vec<&'static str>)> {
    let plain = || task::question("why?");
    let schema = |text: &str| Task { output_schema_json: text.into(), ..plain() };
    let model = |change: fn(&mut ModelConstraints)| {
        let mut model = ModelConstraints::default();
        change(&mut model);
        Task { model: Some(model), ..plain() }
    };
    vec![
        ("no input", Task { input: vec![], ..plain() }, vec!["task.input"]),
        ("empty prompt", task::question(""), vec!["task.input[0].text"]),
        ("blank prompt", task::question(" \n\t"), vec!["task.input[0].text"]),
        ("part without content", Task { input: vec![Part::default()], ..plain() }, vec!["task.input[0]"]),
        (
            "a tool result as input",
            Task {
                input: vec![Part { content: Some(Content::ToolResult(Default::default())), ..Part::default() }],
                ..plain()
            },
            vec!["task.input[0]"],
        ),
        ("too many parts", Task { input: vec![plain().input[0].clone(); 101], ..plain() }, vec!["task.input"]),
        ("too large together", task::question(&"x".repeat((4 << 20) + 1)), vec!["task.input"]),
        ("schema that is no JSON", schema("{"), vec!["task.output_schema_json"]),
        ("schema that does not compile", schema(r#"{"type":"strnig"}"#), vec!["task.output_schema_json"]),
        ("schema that is no schema", schema("42"), vec!["task.output_schema_json"]),
        ("schema with half a character", schema(r#"{"title":"\ud800"}"#), vec!["task.output_schema_json"]),
        ("schema with a key twice", schema(r#"{"type":"object","type":"string"}"#), vec!["task.output_schema_json"]),
        (
            "schema with a foreign reference",
            schema(r#"{"$ref":"https://example.com/s.json"}"#),
            vec!["task.output_schema_json"],
        ),
        ("bad type", Task { r#type: "Chat!".into(), ..plain() }, vec!["task.type"]),
        ("bad recipe", Task { recipe: "no recipe".into(), ..plain() }, vec!["task.recipe"]),
        ("bad selector", Task { tools: task::selectors(&["docs"]), ..plain() }, vec!["task.tools[0].pattern"]),
        ("bad policy", Task { alignment_policy: "permit (".into(), ..plain() }, vec!["task.alignment_policy"]),
        ("bad model name", model(|model| model.models = vec!["rehearsal".into()]), vec!["task.model.models[0]"]),
        ("negative output", model(|model| model.max_output_tokens = -1), vec!["task.model.max_output_tokens"]),
        ("hot", model(|model| model.temperature = "3".into()), vec!["task.model.temperature"]),
        ("unknown tier", model(|model| model.min_trust_tier = 99), vec!["task.model.min_trust_tier"]),
        ("no steps", halting(|limits| limits.max_steps = Some(0)), vec!["task.halting.max_steps"]),
        ("negative steps", halting(|limits| limits.max_steps = Some(-1)), vec!["task.halting.max_steps"]),
        ("absurd steps", halting(|limits| limits.max_steps = Some(i64::MAX)), vec!["task.halting.max_steps"]),
        ("negative calls", halting(|limits| limits.max_tool_calls = Some(-1)), vec!["task.halting.max_tool_calls"]),
        ("deep", halting(|limits| limits.max_depth = Some(9)), vec!["task.halting.max_depth"]),
        (
            "negative cost",
            halting(|limits| limits.max_cost_nano_usd = Some(i64::MIN)),
            vec!["task.halting.max_cost_nano_usd"],
        ),
        ("no input tokens", halting(|limits| limits.max_input_tokens = Some(0)), vec!["task.halting.max_input_tokens"]),
        (
            "no output tokens",
            halting(|limits| limits.max_output_tokens = Some(0)),
            vec!["task.halting.max_output_tokens"],
        ),
        ("no time", halting(|limits| limits.max_active_time = span(0)), vec!["task.halting.max_active_time"]),
        ("a negative end", halting(|limits| limits.expire_after = span(-5)), vec!["task.halting.expire_after"]),
        ("an absurd end", halting(|limits| limits.expire_after = span(i64::MAX)), vec!["task.halting.expire_after"]),
        (
            "nanos that are none",
            halting(|limits| limits.expire_after = Some(Duration { seconds: 5, nanos: -1 })),
            vec!["task.halting.expire_after"],
        ),
        ("unknown on_budget", halting(|limits| limits.on_budget = 9), vec!["task.halting.on_budget"]),
        (
            "everything at once",
            Task {
                r#type: "Chat!".into(),
                input: vec![Part::default()],
                output_schema_json: "{".into(),
                tools: task::selectors(&["docs.*", "no dot"]),
                halting: Some(HaltingPolicy { max_steps: Some(-1), max_depth: Some(-1), ..HaltingPolicy::default() }),
                ..plain()
            },
            vec![
                "task.type",
                "task.input[0]",
                "task.output_schema_json",
                "task.tools[1].pattern",
                "task.halting.max_steps",
                "task.halting.max_depth",
            ],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tasks_are_refused_with_every_field() -> anyhow::Result<()> {
    let system = system().await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    for (case, task, fields) in refused_tasks() {
        let refused = Refused::by(client.grpc.start_run(start(&session, task.clone())).await);
        assert_eq!((refused.why(), sorted(&refused.fields)), (INVALID, sorted(&fields)), "{case}: {refused:?}");
        let request = RunTaskRequest {
            request_id: request_id(),
            session: session.clone(),
            task: Some(task),
            ..Default::default()
        };
        let streamed = Refused::by(client.grpc.run_task(request).await);
        assert_eq!(streamed, refused, "{case}");
    }
    // Outside of the task, too, and all in one answer.
    let broken =
        StartRunRequest { request_id: String::new(), session: "sessions/x".into(), task: None, concurrency: 7 };
    let refused = Refused::by(client.grpc.start_run(broken).await);
    assert_eq!(refused.fields, ["request_id", "session", "task", "concurrency"]);
    // Nothing was admitted, and the service is well.
    let runs =
        client.grpc.list_runs(ListRunsRequest { parent: session.clone(), ..Default::default() }).await?.into_inner();
    assert!(runs.runs.is_empty());
    assert_eq!(client.run_in(&session, task::question("why?")).await?.text(), "Fine.");
    Ok(())
}

fn sorted<T: AsRef<str>>(fields: &[T]) -> Vec<String> {
    let mut fields: Vec<String> = fields.iter().map(|field| field.as_ref().to_owned()).collect();
    fields.sort();
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_fails_the_run_with_its_reason() -> anyhow::Result<()> {
    let system = system().await?;
    let mut client = system.client().await?;
    let plain = || task::question("why?");
    let model = |name: &str| Some(ModelConstraints { models: vec![name.into()], ..ModelConstraints::default() });
    let cases = [
        ("unknown model", Task { model: model("models/nobody"), ..plain() }, "FAILED NOT_FOUND", "models/nobody"),
        (
            "unknown model beside one that is known",
            Task {
                model: Some(ModelConstraints {
                    models: vec!["models/rehearsal".into(), "models/nobody".into()],
                    ..ModelConstraints::default()
                }),
                ..plain()
            },
            "FAILED NOT_FOUND",
            "models/nobody",
        ),
        (
            "unknown tool",
            Task { tools: task::selectors(&["docs.nothing"]), ..plain() },
            "FAILED NOT_FOUND",
            "docs.nothing",
        ),
        (
            "unknown upstream",
            Task { tools: task::selectors(&["nobody.nothing"]), ..plain() },
            "FAILED NOT_FOUND",
            "nobody.nothing",
        ),
        ("unknown recipe", Task { recipe: "recipes/nothing".into(), ..plain() }, "FAILED NOT_FOUND", "nothing"),
    ];
    for (case, task, expected, why) in cases {
        let followed = client.run(task).await?;
        assert_eq!(end(&followed.run), expected, "{case}: {:#?}", followed.run.failure);
        assert_eq!(followed.story(), ["RunAdmitted", "RunEnded"], "{case}");
        let failure = followed.run.failure.unwrap_or_default();
        assert!(failure.message.contains(why), "{case}: {}", failure.message);
    }
    let everything = Task {
        model: model("models/nobody"),
        tools: task::selectors(&["docs.nothing"]),
        recipe: "recipes/nothing".into(),
        ..plain()
    };
    let followed = client.run(everything).await?;
    assert_eq!(end(&followed.run), "FAILED NOT_FOUND", "{:#?}", followed.run.failure);
    let failure = followed.run.failure.unwrap_or_default();
    for name in ["recipes/nothing", "models/nobody", "tools/docs.nothing"] {
        assert!(failure.message.contains(name), "{name}: {}", failure.message);
    }
    assert_eq!(system.rehearsal.request_count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_and_bytes_that_do_not_fit_the_wire() -> anyhow::Result<()> {
    let system = system().await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let prompt = task::question(&"x".repeat(10 << 20));
    let refused = Refused::by(client.grpc.start_run(start(&session, prompt)).await);
    assert_eq!(refused.why(), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"), "{refused:?}");
    // 4 MiB exactly is a prompt.
    let most = start(&session, task::question(&"x".repeat(4 << 20)));
    let run = client.grpc.start_run(most).await?.into_inner().run.unwrap_or_default();
    let run = story::until(&client, &run.name, story::is_over).await?;
    assert!(end(&run).starts_with("HALTED INPUT_TOKENS") || end(&run).starts_with("FAILED"), "{}", end(&run));

    // Field 1 of GetSessionRequest and StartRunRequest is a string.
    let bodies: [(&str, &[u8]); 6] = [
        ("invalid UTF-8", b"\x0a\x04\xff\xfe\xc3\x28"),
        ("an overlong form", b"\x0a\x02\xc0\xaf"),
        ("a surrogate", b"\x0a\x03\xed\xa0\x80"),
        ("a length beyond the end", b"\x0a\x7f\x61"),
        ("a wire type that is none", b"\x0f\x01"),
        ("noise", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
    ];
    for method in ["GetSession", "StartRun", "RunTask", "ListEvents", "CancelRun", "WatchRun"] {
        for (case, body) in bodies {
            let refused = raw(&system, method, body).await?;
            assert_eq!(refused.why(), INVALID, "{method}, {case}: {refused:?}");
        }
    }
    assert_eq!(client.run_in(&session, task::question("still there?")).await?.text(), "Fine.");
    Ok(())
}

/// Sends a body as it stands.
async fn raw(system: &Deployment, method: &str, body: &'static [u8]) -> anyhow::Result<Refused> {
    let channel = tonic::transport::Endpoint::new(system.endpoint(0))?.connect().await?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let path: PathAndQuery = format!("/agentruntime.session.v1.SessionService/{method}").parse()?;
    let request = tonic::Request::new(Bytes::from_static(body));
    Ok(Refused::by(grpc.unary(request, path, RawCodec).await))
}

/// Bytes as they are, in both directions.
struct RawCodec;

impl tonic::codec::Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for RawCodec {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, item: Bytes, buffer: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
        bytes::BufMut::put(buffer, item);
        Ok(())
    }
}

impl tonic::codec::Decoder for RawCodec {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_tokens_and_cursors() -> anyhow::Result<()> {
    let system = system().await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    let run = client.run_in(&session, task::question("why?")).await?.run;
    let none = "00000000-0000-7000-8000-000000000000";

    let bad = [
        "",
        "sessions",
        "sessions/",
        "sessions/x",
        "session/x",
        &format!("sessions/{}", none.to_uppercase().replace('0', "A")),
        &format!("{session}/"),
        &run.name,
    ];
    for name in bad {
        let refused = Refused::by(client.grpc.get_session(GetSessionRequest { name: name.into() }).await);
        assert_eq!((refused.why(), refused.fields.clone()), (INVALID, vec!["name".to_owned()]), "{name:?}");
    }
    let bad =
        ["", "runs/x", &session, &format!("{session}/runs/"), &format!("{session}/runs/x"), &format!("{}/", run.name)];
    for name in bad {
        let refused = Refused::by(client.grpc.get_run(GetRunRequest { name: name.into() }).await);
        assert_eq!((refused.why(), refused.fields.clone()), (INVALID, vec!["name".to_owned()]), "{name:?}");
    }

    let unknown = format!("sessions/{none}");
    let refused = Refused::by(client.grpc.start_run(start(&unknown, task::question("why?"))).await);
    assert_eq!(refused.why(), (Code::NotFound, "NOT_FOUND"));
    assert_eq!(refused.resource, Some(("agentruntime.session.v1.Session".into(), unknown)));
    // A run of another session is not there.
    let other = client.session().await?;
    let strange = run.name.replace(&session, &other);
    let refused = Refused::by(client.grpc.get_run(GetRunRequest { name: strange.clone() }).await);
    assert_eq!(refused.why(), (Code::NotFound, "NOT_FOUND"));
    let watch = WatchRunRequest { name: strange, ..Default::default() };
    assert_eq!(Refused::by(client.grpc.watch_run(watch).await).why(), (Code::NotFound, "NOT_FOUND"));

    let watch = |from_seq| WatchRunRequest { name: run.name.clone(), from_seq, ..Default::default() };
    let refused = Refused::by(client.grpc.watch_run(watch(-1)).await);
    assert_eq!((refused.why(), refused.fields.clone()), (INVALID, vec!["from_seq".to_owned()]));
    for beyond in [run.next_seq + 1, i64::MAX] {
        let refused = Refused::by(client.grpc.watch_run(watch(beyond)).await);
        assert_eq!(refused.why(), (Code::OutOfRange, "CURSOR_OUT_OF_RANGE"), "{beyond}");
    }
    assert!(client.watch(&run.name, run.next_seq).await?.events().is_empty());
    let events = client.events(&run.name).await?;
    let after = |from_seq, hash: &[u8]| WatchRunRequest { after_hash: hash.to_vec().into(), ..watch(from_seq) };
    for (from_seq, hash) in [(1, &[7; 31][..]), (0, &[7; 32])] {
        let refused = Refused::by(client.grpc.watch_run(after(from_seq, hash)).await);
        assert_eq!((refused.why(), refused.fields.clone()), (INVALID, vec!["after_hash".to_owned()]), "{from_seq}");
    }
    // Who has seen another log than the stored one, or more of it, is told so.
    for from_seq in [1, run.next_seq, run.next_seq + 3] {
        let refused = Refused::by(client.grpc.watch_run(after(from_seq, &[7; 32])).await);
        assert_eq!(refused.why(), (Code::DataLoss, "LOG_TAIL_LOST"), "{from_seq}");
        assert!(refused.message.contains("cursor is of another run"), "{}", refused.message);
    }
    let rest = client.grpc.watch_run(after(1, &events[0].hash)).await;
    assert!(rest.is_ok(), "{rest:?}");
    page_tokens(&mut client, &session, &run).await
}

async fn page_tokens(client: &mut Client, session: &str, run: &Run) -> anyhow::Result<()> {
    let page = |page_token: &str, page_size| ListEventsRequest {
        parent: run.name.clone(),
        page_size,
        page_token: page_token.into(),
        include_leaf: false,
    };
    let token = client.grpc.list_events(page("", 1)).await?.into_inner().next_page_token;
    assert!(!token.is_empty());
    let last = token.chars().next_back().unwrap_or('A');
    let altered = format!("{}{}", &token[..token.len() - 1], if last == 'A' { 'B' } else { 'A' });
    let of_runs = {
        client.run_in(session, task::question("another")).await?;
        let request = ListRunsRequest { parent: session.into(), page_size: 1, ..Default::default() };
        client.grpc.list_runs(request).await?.into_inner().next_page_token
    };
    assert!(!of_runs.is_empty());
    for (case, wrong) in
        [("noise", "!!"), ("altered", &altered), ("of another list", &of_runs), ("cut", &token[..token.len() / 2])]
    {
        let refused = Refused::by(client.grpc.list_events(page(wrong, 1)).await);
        assert_eq!((refused.why(), refused.fields.clone()), (INVALID, vec!["page_token".to_owned()]), "{case}");
    }
    // Under another filter, or another parent, it is foreign.
    let filtered = ListRunsRequest {
        parent: session.into(),
        page_token: of_runs.clone(),
        state: RunState::Failed.into(),
        ..Default::default()
    };
    assert_eq!(Refused::by(client.grpc.list_runs(filtered).await).fields, ["page_token"]);
    let all = ListRunsRequest { parent: "sessions/-".into(), page_token: of_runs, ..Default::default() };
    assert_eq!(Refused::by(client.grpc.list_runs(all).await).fields, ["page_token"]);
    assert_eq!(Refused::by(client.grpc.list_events(page("", -1)).await).fields, ["page_size"]);
    // More than the most is the most.
    assert!(!client.grpc.list_events(page("", i32::MAX)).await?.into_inner().events.is_empty());
    let both = Refused::by(client.grpc.list_events(page("!!", -1)).await);
    assert_eq!(sorted(&both.fields), ["page_size", "page_token"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_repeated_and_ended() -> anyhow::Result<()> {
    let system = system().await?;
    let mut client = system.client().await?;
    let session = client.session().await?;

    let first = start(&session, task::question("[hang] please"));
    let run = client.grpc.start_run(first.clone()).await?.into_inner().run.unwrap_or_default();
    let again = client.grpc.start_run(first.clone()).await?.into_inner().run.unwrap_or_default();
    assert_eq!(again.name, run.name, "a repetition finds the same run");
    let other = StartRunRequest { task: Some(task::question("something else")), ..first };
    assert_eq!(Refused::by(client.grpc.start_run(other).await).why(), (Code::AlreadyExists, "REQUEST_ID_REUSED"));
    let open = StartSessionRequest { request_id: "mine".into(), session: None };
    let one = client.grpc.start_session(open.clone()).await?.into_inner().session.unwrap_or_default();
    let two = client.grpc.start_session(open.clone()).await?.into_inner().session.unwrap_or_default();
    assert_eq!(one.name, two.name);
    let wish = Session { purpose: "another".into(), ..Session::default() };
    let reused = StartSessionRequest { session: Some(wish), ..open };
    assert_eq!(Refused::by(client.grpc.start_session(reused).await).why(), (Code::AlreadyExists, "REQUEST_ID_REUSED"));

    let busy = Refused::by(client.grpc.start_run(start(&session, task::question("me too"))).await);
    assert_eq!(busy.why(), (Code::FailedPrecondition, "SESSION_BUSY"));
    assert_eq!(busy.resource, Some(("agentruntime.session.v1.Run".into(), run.name.clone())));
    // PARALLEL is for runs among their like.
    let parallel = |session: &str, text: &str| StartRunRequest {
        concurrency: Concurrency::Parallel.into(),
        ..start(session, task::question(text))
    };
    let busy = Refused::by(client.grpc.start_run(parallel(&session, "beside")).await);
    assert_eq!(busy.why(), (Code::FailedPrecondition, "SESSION_BUSY"));
    let other = client.session().await?;
    client.grpc.start_run(parallel(&other, "[hang] one")).await?;
    let beside = client.grpc.start_run(parallel(&other, "beside")).await?.into_inner().run.unwrap_or_default();
    let beside = story::until(&client, &beside.name, story::is_over).await?;
    assert_eq!(end(&beside), "SUCCEEDED");
    let busy = Refused::by(client.grpc.start_run(start(&other, task::question("alone"))).await);
    assert_eq!(busy.why(), (Code::FailedPrecondition, "SESSION_BUSY"));
    let open = story::until(&client, &run.name, |run| run.state() == RunState::Running).await?;
    assert_eq!(open.state(), RunState::Running);

    client.grpc.end_session(EndSessionRequest { name: session.clone(), ..Default::default() }).await?;
    let ended = Refused::by(client.grpc.start_run(start(&session, task::question("late"))).await);
    assert_eq!(ended.why(), (Code::FailedPrecondition, "SESSION_ENDED"));
    let change = UpdateSessionRequest {
        request_id: request_id(),
        session: Some(Session { name: session, purpose: "new".into(), ..Session::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["purpose".into()] }),
    };
    let ended = Refused::by(client.grpc.update_session(change).await);
    assert_eq!(ended.why(), (Code::FailedPrecondition, "SESSION_ENDED"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_text_is_text() -> anyhow::Result<()> {
    let script = "[[rule]]\nreply = { echo = true }\n";
    let system = Deployment::start(Options::new(Shape::Four, Stores::Servers).script(script)).await?;
    let mut client = system.client().await?;
    let odd = "nothing \0 here, \u{202e}backwards\u{202c}, e\u{301}, 🦀, \u{feff}, {{ 7 * 7 }} {% for %}";
    let labels = [("odd".to_owned(), odd.to_owned())].into();
    let session = Session { purpose: odd.into(), labels, ..Session::default() };
    let request = StartSessionRequest { request_id: request_id(), session: Some(session.clone()) };
    let started = client.grpc.start_session(request).await?.into_inner().session.unwrap_or_default();
    assert_eq!((started.purpose, started.labels), (session.purpose, session.labels.clone()));
    let asked = Task { labels: session.labels, ..task::question(odd) };
    let followed = client.run_in(&started.name, asked).await?;
    assert_eq!(end(&followed.run), "SUCCEEDED", "{:#?}", followed.run.failure);
    assert!(followed.text().contains(odd), "{:?}", followed.text());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_cannot_be_is_refused() -> anyhow::Result<()> {
    let system = Deployment::start(Options::new(Shape::One, Stores::Embedded)).await?;
    let mut client = system.client().await?;
    let session = Session {
        idle_timeout: Some(Duration { seconds: 0, nanos: 0 }),
        budget: Some(SessionBudget { max_runs: Some(0), max_cost_nano_usd: Some(-1) }),
        ..Session::default()
    };
    let request = StartSessionRequest { request_id: request_id(), session: Some(session) };
    let refused = Refused::by(client.grpc.start_session(request).await);
    assert_eq!(refused.why(), (Code::InvalidArgument, "INVALID_REQUEST"));
    assert_eq!(refused.fields, ["session.idle_timeout", "session.budget.max_cost_nano_usd", "session.budget.max_runs"]);
    Ok(())
}
