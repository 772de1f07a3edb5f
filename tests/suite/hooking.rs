//! Hooks: what happens is told at least once and in order, whatever the other side does, and never what was said.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time for real processes")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_proto::extension::event_sink_service_server::{EventSinkService, EventSinkServiceServer};
use mar_proto::extension::{DeliverRequest, DeliverResponse};
use mar_proto::session::{DeadNotice, EndSessionRequest, ListDeadNoticesRequest, RetryDeadNoticeRequest, RunState};
use mar_session::hooks::Key;
use mar_testkit::wait;
use mar_tests::{Client, Deployment, Options, task};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::verifying::rows::Rows;

mod telling;

both_ways! {
    notices_come_in_order_and_signed
    a_hook_that_fails_gets_everything_in_the_end
    what_no_hook_takes_is_dead_and_can_be_sent_again
    a_hook_that_hangs_slows_nothing
    a_notice_whose_taking_was_not_noted_comes_again
    an_event_sink_is_told_over_grpc
}

const QUESTION: &str = "When is the lighthouse lit?";
const SECRET: &str = "a secret of the operator's";
/// Where a hook's secret is, in its configuration.
const SECRET_FILE: &str = "{ file = \"{folder}/hook.secret\" }";
const LONG: Duration = Duration::from_secs(60);

/// What the receiver does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Answers(u16),
    Hangs,
    SaysGarbage,
    Closes,
}

/// What was sent.
#[derive(Debug, Clone)]
struct Sent {
    id: String,
    timestamp: i64,
    signature: String,
    body: Vec<u8>,
    does: Does,
}

impl Sent {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Kind, state and reason.
    fn told(&self) -> (String, String, String) {
        let json = self.json();
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        (text("kind"), text("state"), text("reason"))
    }
}

#[derive(Debug, Default)]
struct State {
    first: VecDeque<Does>,
    then: Option<Does>,
    sent: Vec<Sent>,
}

/// A webhook. It goes with its task.
#[derive(Clone)]
struct Receiver {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    /// Does these first, and then what `then` says, each time.
    async fn start(first: &[Does], then: Does) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let state =
            Arc::new(Mutex::new(State { first: first.iter().copied().collect(), then: Some(then), sent: Vec::new() }));
        let receiver = Self { port, state };
        let serving = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        Ok(receiver)
    }

    async fn serve(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        let head = loop {
            let read = stream.read(&mut buffer).await?;
            ensure!(read > 0, "no request");
            bytes.extend_from_slice(&buffer[..read]);
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let text = String::from_utf8(bytes[..head].to_vec())?;
        let header = |name: &str| {
            let line = text.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let length: usize = header("content-length").context("no length")?.parse()?;
        while bytes.len() < head + length {
            let read = stream.read(&mut buffer).await?;
            ensure!(read > 0, "half a request");
            bytes.extend_from_slice(&buffer[..read]);
        }
        let does = {
            let mut state = self.state.lock().unwrap();
            let does = state.first.pop_front().or(state.then).context("nothing to do")?;
            state.sent.push(Sent {
                id: header("webhook-id").context("no id")?,
                timestamp: header("webhook-timestamp").context("no time")?.parse()?,
                signature: header("webhook-signature").context("no signature")?,
                body: bytes[head..].to_vec(),
                does,
            });
            does
        };
        let answer = match does {
            Does::Hangs => std::future::pending().await,
            Does::Closes => return Ok(()),
            Does::SaysGarbage => "\u{1}\u{2} this is no HTTP at all\r\n\r\n".to_owned(),
            Does::Answers(code) => {
                let elsewhere = format!("location: http://127.0.0.1:{}/elsewhere\r\n", self.port);
                format!("HTTP/1.1 {code} whatever\r\n{elsewhere}content-length: 0\r\nconnection: close\r\n\r\n")
            }
        };
        stream.write_all(answer.as_bytes()).await?;
        Ok(stream.shutdown().await?)
    }

    fn sent(&self) -> Vec<Sent> {
        self.state.lock().unwrap().sent.clone()
    }

    /// What was taken, each once.
    fn taken(&self) -> Vec<Sent> {
        let mut taken: Vec<Sent> = Vec::new();
        for sent in self.sent() {
            if sent.does == Does::Answers(200) && !taken.iter().any(|before| before.id == sent.id) {
                taken.push(sent);
            }
        }
        taken
    }

    fn henceforth(&self, does: Does) {
        let mut state = self.state.lock().unwrap();
        state.first.clear();
        state.then = Some(does);
    }

    async fn takes(&self, kind: &str) -> anyhow::Result<()> {
        let taken = || async { self.taken().iter().any(|sent| sent.told().0 == kind) };
        wait::until(LONG, taken).await.with_context(|| format!("{kind} never came: {:?}", self.sent()))?;
        Ok(())
    }
}

/// The configuration of a hook.
fn hook(url: &str) -> String {
    format!(
        "[session.tenants.dev.hooks.audit]\nurl = \"{url}\"\nsecret = {SECRET_FILE}\n\
         retry = \"10ms\"\ntimeout = \"300ms\"\nmax_attempts = 100\n"
    )
}

async fn start(options: Options) -> anyhow::Result<Deployment> {
    let mut system = Deployment::prepare(options).await?;
    std::fs::write(system.folder().join("hook.secret"), SECRET)?;
    system.start_all().await?;
    system.wait_for_tools(&["docs"]).await?;
    Ok(system)
}

fn webhook(options: Options, receiver: &Receiver) -> Options {
    options.extra(hook(&format!("http://127.0.0.1:{}/take", receiver.port)))
}

/// A session with one run, ended.
async fn one_run(client: &mut Client) -> anyhow::Result<String> {
    let session = client.session().await?;
    let run = client.run_in(&session, task::with_sources(QUESTION)).await?.run;
    assert_eq!(run.state(), RunState::Succeeded);
    client.grpc.end_session(EndSessionRequest { name: session.clone(), ..Default::default() }).await?;
    Ok(session)
}

/// What one session with one run tells.
fn expected() -> Vec<(String, String, String)> {
    let told = [
        ("session.started", "OPEN", ""),
        ("run.state", "PENDING", ""),
        ("run.state", "RUNNING", ""),
        ("run.state", "SUCCEEDED", ""),
        ("session.ended", "ENDED", "CALLER"),
    ];
    told.map(|(kind, state, reason)| (kind.to_owned(), state.to_owned(), reason.to_owned())).into()
}

fn told(sent: &[Sent]) -> Vec<(String, String, String)> {
    sent.iter().map(Sent::told).collect()
}

async fn notices_come_in_order_and_signed(options: Options) -> anyhow::Result<()> {
    let receiver = Receiver::start(&[], Does::Answers(200)).await?;
    let system = start(webhook(options, &receiver)).await?;
    let mut client = system.client().await?;
    let session = one_run(&mut client).await?;
    receiver.takes("session.ended").await?;
    let sent = receiver.sent();
    assert_eq!(told(&sent), expected());
    let key = Key::parse(SECRET).map_err(anyhow::Error::msg)?;
    for one in &sent {
        assert_eq!(one.signature, key.sign(&one.id, one.timestamp, &one.body));
        let json = one.json();
        assert_eq!((json["id"].as_str(), json["session"].as_str()), (Some(one.id.as_str()), Some(session.as_str())));
        assert_eq!(json["tenant"], "dev");
        let text = String::from_utf8(one.body.clone())?;
        for payload in ["lighthouse", "lit", "oil", SECRET] {
            ensure!(!text.contains(payload), "{payload} is in {text}");
        }
    }
    // Nothing is told twice where nothing fails.
    client.session().await?;
    let second = || async { receiver.sent().len() == 6 };
    wait::until(LONG, second).await?;
    Ok(())
}

async fn a_hook_that_fails_gets_everything_in_the_end(options: Options) -> anyhow::Result<()> {
    let trouble = [
        Does::Answers(500),
        Does::Hangs,
        Does::SaysGarbage,
        Does::Closes,
        Does::Answers(200),
        Does::Answers(302),
        Does::Answers(404),
        Does::Answers(429),
    ];
    let receiver = Receiver::start(&trouble, Does::Answers(200)).await?;
    let system = start(webhook(options, &receiver)).await?;
    let mut client = system.client().await?;
    one_run(&mut client).await?;
    receiver.takes("session.ended").await?;
    assert_eq!(told(&receiver.taken()), expected());
    // The next one is not sent before the one before was taken, and no redirect was followed.
    let sent = receiver.sent();
    for pair in sent.windows(2) {
        ensure!(
            pair[0].does == Does::Answers(200) || pair[1].id == pair[0].id,
            "{:?} overtakes {:?}",
            pair[1],
            pair[0]
        );
    }
    assert_eq!(sent.len(), expected().len() + 7);
    assert_eq!(dead(&mut client).await?, []);
    Ok(())
}

async fn dead(client: &mut Client) -> anyhow::Result<Vec<DeadNotice>> {
    let request = ListDeadNoticesRequest { parent: "hooks/-".into(), ..Default::default() };
    Ok(client.grpc.list_dead_notices(request).await?.into_inner().notices)
}

async fn what_no_hook_takes_is_dead_and_can_be_sent_again(options: Options) -> anyhow::Result<()> {
    let receiver = Receiver::start(&[Does::Answers(410)], Does::Answers(503)).await?;
    let url = format!("http://127.0.0.1:{}/", receiver.port);
    let few = hook(&url).replace("max_attempts = 100", "max_attempts = 3");
    let system = start(options.extra(few)).await?;
    let mut client = system.client().await?;
    one_run(&mut client).await?;
    let given_up = || async { dead(&mut client.clone()).await.is_ok_and(|dead| dead.len() == expected().len()) };
    wait::until(LONG, given_up).await.with_context(|| format!("{:?}", receiver.sent()))?;
    let notices = dead(&mut client).await?;
    let gone = notices.iter().find(|dead| dead.failure == "HTTP 410").context("410 is not for good")?;
    assert_eq!(gone.attempts, 1);
    let others: Vec<_> = notices.iter().filter(|dead| dead.name != gone.name).collect();
    assert!(others.iter().all(|dead| (dead.failure.as_str(), dead.attempts) == ("HTTP 503", 3)), "{others:?}");

    let retry = |client: &Client, name: &str| {
        let (mut grpc, request) = (client.grpc.clone(), RetryDeadNoticeRequest { name: name.into() });
        async move { grpc.retry_dead_notice(request).await }
    };
    let refused = retry(&client, &gone.name).await.err().context("it was let through")?;
    assert_eq!(refused.get_details_error_info().context("no reason")?.reason, "HOOK_UNAVAILABLE");
    receiver.henceforth(Does::Answers(200));
    for notice in &notices {
        retry(&client, &notice.name).await?;
    }
    assert_eq!(dead(&mut client).await?, []);
    assert_eq!(receiver.taken().len(), notices.len());
    let nothing = retry(&client, &gone.name).await.err().context("it is still there")?;
    assert_eq!(nothing.code(), tonic::Code::NotFound);
    for wrong in ["", "hooks/audit", "hooks/AUDIT/notices/1", "hooks/audit/notices/"] {
        assert_eq!(retry(&client, wrong).await.err().map(|status| status.code()), Some(tonic::Code::InvalidArgument));
    }
    Ok(())
}

async fn a_hook_that_hangs_slows_nothing(options: Options) -> anyhow::Result<()> {
    let (hanging, taking) = (Receiver::start(&[], Does::Hangs).await?, Receiver::start(&[], Does::Answers(200)).await?);
    let other = hook(&format!("http://127.0.0.1:{}/", taking.port)).replace("hooks.audit", "hooks.other");
    // One that takes as long as it may, with its sessions piling up.
    let slow = hook(&format!("http://127.0.0.1:{}/", hanging.port)).replace("300ms", "20s");
    let system = start(options.extra(slow + &other)).await?;
    let mut client = system.client().await?;
    for _ in 0..4 {
        one_run(&mut client).await?;
    }
    let all = || async { taking.taken().len() == 4 * expected().len() };
    wait::until(LONG, all).await.with_context(|| format!("{:?}", taking.sent()))?;
    ensure!(hanging.sent().len() <= 8, "{:?}", hanging.sent());
    // Back again, it gets all of it.
    hanging.henceforth(Does::Answers(200));
    let caught_up = || async { hanging.taken().len() == 4 * expected().len() };
    wait::until(2 * LONG, caught_up).await.with_context(|| format!("{:?}", hanging.sent()))?;
    Ok(())
}

/// The process dies between the hook's answer and the note of it.
async fn a_notice_whose_taking_was_not_noted_comes_again(options: Options) -> anyhow::Result<()> {
    let receiver = Receiver::start(&[], Does::Answers(200)).await?;
    let mut system = start(webhook(options, &receiver).env("MAR_CRASH_AT", "hook.taken@2")).await?;
    let mut client = system.client().await?;
    let session = client.session().await?;
    // It may die before or after the run was admitted.
    drop(client.run_in(&session, task::with_sources(QUESTION)).await);
    system.wait_for_crash().await?;
    assert_eq!(receiver.sent().len(), 2);
    system.restart(0).await?;
    let rows = Rows::open(&system.store_url()).await?;
    rows.make_hooks_due().await?;
    let mut client = system.client().await?;
    client.grpc.end_session(EndSessionRequest { name: session, ..Default::default() }).await?;
    receiver.takes("session.ended").await?;
    let sent = receiver.sent();
    assert_eq!(sent[1].id, sent[2].id, "{sent:?}");
    let positions: Vec<_> = receiver.taken().iter().map(|sent| sent.id.clone()).collect();
    assert_eq!(positions.len() + 1, sent.len(), "one came twice");
    Ok(())
}

/// An operator's sink.
#[derive(Default)]
struct Taking(Arc<Mutex<Vec<DeliverRequest>>>);

#[tonic::async_trait]
impl EventSinkService for Taking {
    async fn deliver(&self, request: Request<DeliverRequest>) -> Result<Response<DeliverResponse>, Status> {
        let mut taken = self.0.lock().unwrap();
        taken.push(request.into_inner());
        // The second one is refused for good, and another once.
        match taken.len() {
            2 => Err(Status::failed_precondition("not this one")),
            3 => Err(Status::unavailable("not now")),
            _ => Ok(Response::new(DeliverResponse {})),
        }
    }
}

async fn an_event_sink_is_told_over_grpc(options: Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let service = EventSinkServiceServer::new(Taking(Arc::clone(&taken)));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let system = start(options.extra(hook(&format!("grpc://127.0.0.1:{port}")))).await?;
    let mut client = system.client().await?;
    one_run(&mut client).await?;
    let all = || async { taken.lock().unwrap().len() == expected().len() + 1 };
    wait::until(LONG, all).await.with_context(|| format!("{:?}", taken.lock().unwrap()))?;
    let requests = taken.lock().unwrap().clone();
    let key = Key::parse(SECRET).map_err(anyhow::Error::msg)?;
    for request in &requests {
        assert_eq!(request.signature, key.sign(&request.id, request.timestamp, &request.notice));
    }
    assert_eq!(requests[2].id, requests[3].id);
    let dead = dead(&mut client).await?;
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!(dead[0].failure, "gRPC FailedPrecondition");
    ensure!(dead[0].name.ends_with(&requests[1].id), "{dead:?}");
    Ok(())
}
