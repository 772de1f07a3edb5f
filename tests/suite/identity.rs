//! Who calls: API keys, scopes, run tokens, and what a plain key does not open.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mar_proto::agent::agent_generator_service_client::AgentGeneratorServiceClient;
use mar_proto::agent::{GenerateAgentRequest, RenderPromptRequest};
use mar_proto::router::router_service_client::RouterServiceClient;
use mar_proto::router::{GenerateRequest, SelectModelRequest, StreamGenerateRequest};
use mar_proto::session::{GetRunRequest, GetSessionRequest, Session, StartRunRequest, StartSessionRequest};
use mar_proto::tool::tool_gateway_service_client::ToolGatewayServiceClient;
use mar_proto::tool::{InvokeToolRequest, ListToolsRequest};
use mar_proto::types::ErrorReason;
use mar_runtime::ServiceName;
use mar_runtime::auth::{Caller, RunGrant, RunTokenSigner, api_key, keys};
use mar_runtime::clock::{Clock, SystemClock, SystemIds};
use mar_testkit::process::{Process, built_binary};
use mar_tests::client::request_id;
use mar_tests::{Client, Deployment, Options, task};
use secrecy::ExposeSecret as _;
use tokio::process::Command;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::reading::reason;

both_ways! {
    a_key_says_who_calls
    scopes_bound_a_key
    a_plain_key_opens_neither_models_nor_tools
    forged_and_old_run_tokens_are_refused
}

/// Keys of a system: who they are for and what they are.
struct Keyring {
    toml: String,
    keys: Vec<String>,
}

impl Keyring {
    fn new(holders: &[(&str, &str, &str, &[&str])]) -> anyhow::Result<Self> {
        let mut ring = Self { toml: "[runtime.auth]\nmode = 'api_keys'\n".into(), keys: Vec::new() };
        for (index, (tenant, principal, environment, scopes)) in holders.iter().enumerate() {
            let id = format!("key-{index}");
            let (key, sha256) = api_key::generate(&id, &SystemIds);
            ring.keys.push(key);
            writeln!(
                ring.toml,
                "[[runtime.auth.api_keys]]\nid = '{id}'\nsha256 = '{sha256}'\ntenant = '{tenant}'\n\
                 principal = '{principal}'\nenvironment = '{environment}'\nscopes = {scopes:?}"
            )?;
        }
        Ok(ring)
    }

    /// A message as the holder of a key sends it.
    fn by<T>(&self, holder: usize, message: T) -> anyhow::Result<Request<T>> {
        with_credential(message, &self.keys[holder])
    }
}

fn with_credential<T>(message: T, credential: &str) -> anyhow::Result<Request<T>> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {credential}").parse()?);
    Ok(request)
}

fn start() -> StartSessionRequest {
    StartSessionRequest { request_id: request_id(), session: Some(Session::default()) }
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>) -> (Code, Option<ErrorReason>) {
    let status = outcome.unwrap_err();
    (status.code(), reason(&status))
}

async fn a_key_says_who_calls(options: Options) -> anyhow::Result<()> {
    let ring = Keyring::new(&[("acme", "ada", "staging", &["*"]), ("bolt", "bob", "prod", &["*"])])?;
    let system = Deployment::start(options.extra(ring.toml.clone())).await?;
    let mut client = system.client().await?.grpc;

    let (code, why) = refused(client.start_session(start()).await);
    assert_eq!((code, why), (Code::Unauthenticated, Some(ErrorReason::Unauthenticated)));
    for wrong in ["mar_key-0_0000", "mar_none_0000", "nonsense", &ring.keys[0][..ring.keys[0].len() - 1]] {
        assert_eq!(refused(client.start_session(with_credential(start(), wrong)?).await).0, Code::Unauthenticated);
    }

    // What a caller says about itself does not count.
    let claims = Session { principal: "root".into(), environment: "prod".into(), ..Session::default() };
    let lie = StartSessionRequest { request_id: request_id(), session: Some(claims) };
    match client.start_session(ring.by(0, lie)?).await {
        Ok(answer) => {
            let session = answer.into_inner().session.context("no session")?;
            assert_eq!((session.principal.as_str(), session.environment.as_str()), ("ada", "staging"));
        }
        Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{status:?}"),
    }
    let session = client.start_session(ring.by(0, start())?).await?.into_inner().session.context("no session")?;
    assert_eq!((session.principal.as_str(), session.environment.as_str()), ("ada", "staging"));

    // Another tenant's session does not exist.
    let other = client.get_session(ring.by(1, GetSessionRequest { name: session.name.clone() })?).await;
    let missing = GetSessionRequest { name: "sessions/01890000-0000-7000-8000-000000000000".into() };
    let none = client.get_session(ring.by(1, missing)?).await;
    assert_eq!(refused(other), refused(none));
    let run = StartRunRequest {
        request_id: request_id(),
        session: session.name.clone(),
        task: Some(task::question("Mine?")),
        ..Default::default()
    };
    assert_eq!(refused(client.start_run(ring.by(1, run.clone())?).await).0, Code::NotFound);

    // The same request id of two tenants is two requests; the run is executed as its caller.
    let started = client.start_run(ring.by(0, run)?).await?.into_inner().run.context("no run")?;
    let mut request =
        ring.by(0, mar_proto::session::WatchRunRequest { name: started.name.clone(), ..Default::default() })?;
    request.set_timeout(Duration::from_secs(30));
    let mut stream = client.watch_run(request).await?.into_inner();
    while stream.message().await?.is_some() {}
    let run = client.get_run(ring.by(0, GetRunRequest { name: started.name.clone() })?).await?.into_inner().run;
    let run = run.context("no run")?;
    assert!(run.seal.is_some(), "{run:#?}");
    assert_eq!(refused(client.get_run(ring.by(1, GetRunRequest { name: started.name })?).await).0, Code::NotFound);
    Ok(())
}

async fn scopes_bound_a_key(options: Options) -> anyhow::Result<()> {
    let holders: [(&str, &str, &str, &[&str]); 3] = [
        ("acme", "reader", "dev", &["sessions.read"]),
        ("acme", "writer", "dev", &["sessions.write"]),
        ("acme", "nobody", "dev", &[]),
    ];
    let ring = Keyring::new(&holders)?;
    let system = Deployment::start(options.extra(ring.toml.clone())).await?;
    let mut client = system.client().await?.grpc;
    let session = client.start_session(ring.by(1, start())?).await?.into_inner().session.context("no session")?;
    let get = || GetSessionRequest { name: session.name.clone() };
    client.get_session(ring.by(0, get())?).await?;
    for (who, outcome) in [
        ("reader writes", refused(client.start_session(ring.by(0, start())?).await)),
        ("writer reads", refused(client.get_session(ring.by(1, get())?).await)),
        ("nobody writes", refused(client.start_session(ring.by(2, start())?).await)),
        ("nobody reads", refused(client.get_session(ring.by(2, get())?).await)),
    ] {
        assert_eq!(outcome, (Code::PermissionDenied, Some(ErrorReason::ScopeMissing)), "{who}");
    }
    Ok(())
}

struct Others {
    router: RouterServiceClient<Channel>,
    generator: AgentGeneratorServiceClient<Channel>,
    gateway: ToolGatewayServiceClient<Channel>,
}

impl Others {
    async fn of(system: &Deployment) -> anyhow::Result<Self> {
        Ok(Self {
            router: RouterServiceClient::connect(system.endpoint(1)).await?,
            generator: AgentGeneratorServiceClient::connect(system.endpoint(2)).await?,
            gateway: ToolGatewayServiceClient::connect(system.endpoint(3)).await?,
        })
    }
}

async fn a_plain_key_opens_neither_models_nor_tools(options: Options) -> anyhow::Result<()> {
    let ring = Keyring::new(&[("acme", "ada", "dev", &["*"])])?;
    let system = Deployment::start(options.extra(ring.toml.clone())).await?;
    let mut others = Others::of(&system).await?;
    let denied = (Code::PermissionDenied, Some(ErrorReason::NoStandingDescriptor));
    let invoke = InvokeToolRequest {
        call_id: "r/1/0".into(),
        tool: "tools/docs.search".into(),
        arguments_json: r#"{"query":"x"}"#.into(),
        ..Default::default()
    };
    assert_eq!(refused(others.gateway.invoke_tool(ring.by(0, invoke.clone())?).await), denied);
    assert_eq!(refused(others.router.generate(ring.by(0, GenerateRequest::default())?).await), denied);
    let streamed = match others.router.stream_generate(ring.by(0, StreamGenerateRequest::default())?).await {
        Ok(stream) => stream.into_inner().message().await.map(|_| ()),
        Err(status) => Err(status),
    };
    assert_eq!(refused(streamed), denied);
    assert_eq!(system.rehearsal.request_count(), 0);

    // Without a credential nothing answers at all; what reads only is open to a key.
    assert_eq!(refused(others.gateway.invoke_tool(invoke).await).0, Code::Unauthenticated);
    assert_eq!(refused(others.gateway.list_tools(ListToolsRequest::default()).await).0, Code::Unauthenticated);
    assert_eq!(refused(others.generator.render_prompt(RenderPromptRequest::default()).await).0, Code::Unauthenticated);
    others.gateway.list_tools(ring.by(0, ListToolsRequest::default())?).await?;
    others.router.select_model(ring.by(0, SelectModelRequest::default())?).await?;
    Ok(())
}

/// A clock that stands at some distance from the real one.
#[derive(Debug)]
struct Shifted(SystemClock, time::Duration);

impl Clock for Shifted {
    fn now(&self) -> time::OffsetDateTime {
        self.0.now() + self.1
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn sleep_until(&self, at: Duration) -> futures::future::BoxFuture<'static, ()> {
        self.0.sleep_until(at)
    }
}

fn token(private_pem: &str, shift: time::Duration, audience: &[ServiceName]) -> anyhow::Result<String> {
    let signer = RunTokenSigner::try_new(private_pem, Arc::new(Shifted(SystemClock::new(), shift)))?;
    let caller = Caller {
        tenant: "acme".into(),
        principal: "ada".into(),
        end_user: None,
        groups: Default::default(),
        scopes: ["*".to_owned()].into(),
        environment: "dev".into(),
    };
    let grant = RunGrant {
        session: "01890000-0000-7000-8000-000000000001".into(),
        run: "01890000-0000-7000-8000-000000000002".into(),
        descriptor_hash: None,
        epoch: 1,
    };
    Ok(signer.sign(&caller, &grant, audience)?)
}

async fn forged_and_old_run_tokens_are_refused(options: Options) -> anyhow::Result<()> {
    let ring = Keyring::new(&[("acme", "ada", "dev", &["*"])])?;
    let system = Deployment::start(options.extra(ring.toml.clone())).await?;
    let mut others = Others::of(&system).await?;
    let own = std::fs::read_to_string(system.folder().join("session.pem"))?;
    let strange = keys::generate(&SystemIds)?;
    let now = time::Duration::ZERO;
    let all = [ServiceName::Router, ServiceName::AgentGenerator, ServiceName::ToolGateway];

    // Session's own opens what needs no descriptor.
    let good = token(&own, now, &all)?;
    others.gateway.list_tools(with_credential(ListToolsRequest::default(), &good)?).await?;

    let mut edited = good.clone().into_bytes();
    let at = edited.iter().position(|byte| *byte == b'.').context("no token")? + 20;
    edited[at] = if edited[at] == b'A' { b'B' } else { b'A' };
    let bad = [
        ("of another key", token(strange.private_pem.expose_secret(), now, &all)?),
        ("expired", token(&own, -time::Duration::minutes(10), &all)?),
        ("not valid yet", token(&own, time::Duration::minutes(10), &all)?),
        ("for another service", token(&own, now, &[ServiceName::Session])?),
        ("edited", String::from_utf8(edited)?),
    ];
    for (which, bad) in &bad {
        let denied = (Code::PermissionDenied, Some(ErrorReason::RunTokenInvalid));
        let outcome = others.gateway.list_tools(with_credential(ListToolsRequest::default(), bad)?).await;
        assert_eq!(refused(outcome), denied, "{which}");
        let outcome = others.router.select_model(with_credential(SelectModelRequest::default(), bad)?).await;
        assert_eq!(refused(outcome), denied, "{which}");
        let outcome = others.generator.generate_agent(with_credential(GenerateAgentRequest::default(), bad)?).await;
        assert_eq!(refused(outcome), denied, "{which}");
    }
    let outcome = others.gateway.invoke_tool(with_credential(InvokeToolRequest::default(), &good)?).await;
    assert_eq!(refused(outcome).0, Code::PermissionDenied, "a token without a descriptor calls no tool");
    Ok(())
}

/// Every binary refuses to be reached from elsewhere without authentication, before it binds.
#[tokio::test]
async fn other_addresses_need_authentication() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for name in ["session", "router", "agent-generator", "tool-gateway", "mar"] {
        let port = mar_testkit::ports::free()?;
        let mut command = Command::new(built_binary(name)?);
        if name == "mar" {
            command.arg("up").arg("--data").arg(folder.path());
        }
        command.args(["--listen", &format!("0.0.0.0:{port}")]).current_dir(folder.path()).env_remove("MAR_CONFIG");
        let mut process = Process::spawn(name, command)?;
        process.wait_for_line("runtime.auth.mode", Duration::from_secs(30)).await?;
        let status = process.wait(Duration::from_secs(30)).await?;
        assert_eq!(status.code(), Some(64), "{name}: {:?}", process.log());
        assert!(tokio::net::TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await.is_err(), "{name}");
    }
    Ok(())
}

/// A caller without a key is the developer at this machine, and only in the mode that says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loopback_needs_no_key_in_dev_mode() -> anyhow::Result<()> {
    let options = Options::new(mar_tests::Shape::One, mar_tests::Stores::Embedded);
    let system = Deployment::start(options).await?;
    let mut client: Client = system.client().await?;
    let session = client.grpc.start_session(start()).await?.into_inner().session.context("no session")?;
    assert_eq!(session.environment, "dev");
    assert_eq!(refused(client.grpc.start_session(with_credential(start(), "mar_x_0")?).await).0, Code::Unauthenticated);
    Ok(())
}
