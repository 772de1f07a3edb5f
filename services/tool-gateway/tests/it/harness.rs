//! A gateway over real gRPC, callers with run tokens, and the scripted server.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mar_descriptor::descriptor::{ON_UNKNOWN_ASK_HUMAN, ON_UNKNOWN_TELL_MODEL};
use mar_descriptor::{Descriptor, Doubt, PolicyLayer, Probe, SealedTool, SigningKey, seal};
use mar_proto::tool as pb;
use mar_proto::tool::invoke_tool_response::Outcome;
use mar_proto::tool::tool_gateway_service_client::ToolGatewayServiceClient;
use mar_proto::types::{self, Part, part};
use mar_runtime::ServiceName;
use mar_runtime::auth::{Caller, RunGrant, RunTokenSigner, keys};
use mar_runtime::clock::{SystemClock, SystemIds};
use mar_runtime::config::RuntimeConfig;
use mar_runtime::server::{Server, Stack};
use mar_tool_gateway::config::Kind;
use mar_tool_gateway::{Config, Deps, Gateway, UpstreamConfig};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A running gateway.
pub struct Bench {
    pub client: ToolGatewayServiceClient<Channel>,
    pub folder: tempfile::TempDir,
    gateway: Gateway,
    signer: RunTokenSigner,
    key: SigningKey,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

pub fn scripted() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/scripted_mcp")
}

pub fn stdio(folder: &Path) -> UpstreamConfig {
    UpstreamConfig {
        command: Some(scripted().to_string_lossy().into_owned()),
        args: vec!["stdio".into(), folder.to_string_lossy().into_owned()],
        trust_tier: Some(mar_alignment::TrustTier::Aligned),
        restart: mar_tool_gateway::config::Restart {
            min: mar_runtime::config::Span(Duration::from_millis(50)),
            max: mar_runtime::config::Span(Duration::from_secs(1)),
        },
        ..UpstreamConfig::new(Kind::McpStdio)
    }
}

pub fn search(folder: &Path) -> UpstreamConfig {
    UpstreamConfig {
        folder: Some(folder.into()),
        rescan: Some(mar_runtime::config::Span(Duration::from_millis(50))),
        ..UpstreamConfig::new(Kind::Search)
    }
}

impl Bench {
    pub async fn start(upstreams: impl FnOnce(&Path) -> Vec<(&'static str, UpstreamConfig)>) -> Self {
        Self::under(None, upstreams).await
    }

    /// A gateway whose platform policy is this one.
    pub async fn under(
        platform: Option<&str>,
        upstreams: impl FnOnce(&Path) -> Vec<(&'static str, UpstreamConfig)>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pair = keys::generate(&SystemIds).unwrap();
        let public = folder.path().join("run-token.pem");
        std::fs::write(&public, &pair.public_pem).unwrap();
        let mut runtime = RuntimeConfig::default();
        runtime.run_tokens.verification_key_files = vec![public];
        let clock = Arc::new(SystemClock::new());
        let key = SigningKey::from_seed(&[7; 32]);
        let deps = Deps { clock: clock.clone(), descriptor_keys: key.verifying_keys(), ..Deps::default() };
        let upstreams = upstreams(folder.path()).into_iter().map(|(name, config)| (name.to_owned(), config)).collect();
        let platform_policy = platform.map(|text| {
            let path = folder.path().join("platform.cedar");
            std::fs::write(&path, text).unwrap();
            path
        });
        let gateway = Gateway::try_new(Config { upstreams, platform_policy, ..Config::default() }, deps).unwrap();
        let stack = Stack::with_clock(ServiceName::ToolGateway, &runtime, clock.clone(), Arc::new(SystemIds)).unwrap();
        let server = Server::try_new(stack, gateway.routes()).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let stop = shutdown.clone();
        tasks.spawn(async move { server.serve(listener, stop).await.unwrap() });
        let client = ToolGatewayServiceClient::connect(url).await.unwrap().max_decoding_message_size(16 << 20);
        let signer = RunTokenSigner::try_new(pair.private_pem.expose_secret(), clock).unwrap();
        Self { client, folder, gateway, signer, key, shutdown, tasks }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.gateway.close().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub async fn list(&self) -> pb::ListToolsResponse {
        self.client.clone().list_tools(pb::ListToolsRequest::default()).await.unwrap().into_inner()
    }

    /// Waits until these upstreams are up.
    pub async fn up(&self, names: &[&str]) -> Vec<pb::Tool> {
        for _ in 0..400 {
            let list = self.list().await;
            let up = |name: &&str| {
                list.tools.iter().any(|tool| tool.upstream == **name && !tool.stale)
                    && !list.unavailable.iter().any(|down| down.upstream == **name)
            };
            if names.iter().all(up) {
                return list.tools;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("not up: {:?}", self.list().await.unavailable);
    }

    /// An agent that holds every tool that is offered now, under this policy of its own.
    pub async fn agent(&self, policy: Option<&str>) -> Agent<'_> {
        self.agent_of(self.everything().await, policy)
    }

    /// A descriptor of every tool that is offered now.
    pub async fn everything(&self) -> Descriptor {
        let tools = self.list().await.tools;
        let mut descriptor = Descriptor::default();
        descriptor.agent.role = "tester".into();
        descriptor.agent.tools = tools
            .iter()
            .enumerate()
            .map(|(at, tool)| {
                let definition = tool.definition.as_ref().unwrap();
                SealedTool {
                    name: tool.name.strip_prefix("tools/").unwrap().to_owned(),
                    alias: format!("t{at}"),
                    definition_hash: definition.definition_hash.parse().unwrap(),
                    idempotent: definition.idempotent,
                    read_only: definition.read_only,
                    doubt: sealed_doubt(definition.doubt.as_ref()),
                }
            })
            .collect();
        descriptor
    }

    pub fn agent_of(&self, descriptor: Descriptor, policy: Option<&str>) -> Agent<'_> {
        let platform = mar_alignment::default_platform();
        let mut layers = vec![PolicyLayer::new("platform", platform.name, platform.version, platform.text)];
        layers.extend(policy.map(|text| PolicyLayer::new("agent", "own", 1, text)));
        self.agent_under(descriptor, layers)
    }

    /// An agent that was sealed with these policies.
    pub fn agent_under(&self, mut descriptor: Descriptor, layers: Vec<PolicyLayer>) -> Agent<'_> {
        descriptor.policy.alignment_policy = layers;
        let sealed = seal(&descriptor.normalised(), &self.key).unwrap();
        Agent { bench: self, sealed, epoch: 1, tainted: false, run: "run-1".into() }
    }
}

/// A run that calls tools.
#[derive(Clone)]
pub struct Agent<'a> {
    pub bench: &'a Bench,
    pub sealed: mar_descriptor::SealedDescriptor,
    pub epoch: u64,
    pub tainted: bool,
    pub run: String,
}

impl Agent<'_> {
    fn offered(&self) -> types::SealedDescriptor {
        types::SealedDescriptor {
            hash: self.sealed.hash.to_string(),
            canonical: self.sealed.canonical.clone().into(),
            signatures: self
                .sealed
                .signatures
                .iter()
                .map(|one| types::Signature { key_id: one.key_id.clone(), sig: one.sig.to_vec().into() })
                .collect(),
        }
    }

    pub fn request(&self, tool: &str, arguments: &Value) -> Request<pb::InvokeToolRequest> {
        let mut request = Request::new(pb::InvokeToolRequest {
            call_id: "run-1/1/0".into(),
            tool: format!("tools/{tool}"),
            arguments_json: arguments.to_string(),
            idempotency_key: "key-1".into(),
            facts: Some(pb::CallFacts { step: 1, tool_calls: 0, tainted: self.tainted }),
            descriptor: Some(self.offered()),
            approval: None,
            definition: None,
            probe: false,
            decide_only: false,
            recorded: None,
        });
        self.authorize(&mut request);
        request
    }

    /// The request that has the result of a call that others make decided on.
    pub fn brought(
        &self,
        definition: &types::ToolDefinition,
        result: types::ToolResult,
    ) -> Request<pb::ReceiveResultRequest> {
        let mut request = Request::new(pb::ReceiveResultRequest {
            call_id: "run-1/1/0".into(),
            tool: definition.name.clone(),
            result: Some(result),
            facts: Some(pb::CallFacts { step: 1, tool_calls: 0, tainted: self.tainted }),
            descriptor: Some(self.offered()),
            definition: Some(definition.clone()),
        });
        self.authorize(&mut request);
        request
    }

    fn authorize<T>(&self, request: &mut Request<T>) {
        let grant = RunGrant {
            session: "session-1".into(),
            run: self.run.clone(),
            descriptor_hash: Some(self.sealed.hash.to_string()),
            epoch: self.epoch,
        };
        let caller = Caller { groups: BTreeSet::new(), ..Caller::dev() };
        let token = self.bench.signer.sign(&caller, &grant, &[ServiceName::ToolGateway]).unwrap();
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request.set_timeout(Duration::from_secs(60));
    }

    pub async fn send(&self, request: Request<pb::InvokeToolRequest>) -> Result<pb::InvokeToolResponse, Status> {
        Ok(self.bench.client.clone().invoke_tool(request).await?.into_inner())
    }

    pub async fn call(&self, tool: &str, arguments: &Value) -> pb::InvokeToolResponse {
        let response = self.send(self.request(tool, arguments)).await.unwrap();
        let record: Value = serde_json::from_str(&response.decision_json).unwrap();
        assert_eq!(record["tool"], tool, "every decision leaves a record");
        response
    }

    pub async fn text(&self, tool: &str, arguments: &Value) -> String {
        match self.call(tool, arguments).await.outcome {
            Some(Outcome::Result(result)) => text(&result.content),
            other => panic!("{other:?}"),
        }
    }

    pub async fn denied(&self, tool: &str, arguments: &Value) -> pb::Denied {
        match self.call(tool, arguments).await.outcome {
            Some(Outcome::Denied(denied)) => denied,
            other => panic!("{other:?}"),
        }
    }

    pub async fn failed(&self, tool: &str, arguments: &Value) -> pb::Failed {
        match self.call(tool, arguments).await.outcome {
            Some(Outcome::Failed(failed)) => failed,
            other => panic!("{other:?}"),
        }
    }
}

fn sealed_doubt(told: Option<&types::Doubt>) -> Option<Doubt> {
    let told = told?;
    let asks = told.on_unknown() == types::OnUnknown::AskHuman;
    Some(Doubt {
        probe: told.probe.as_ref().map(|probe| Probe {
            tool: probe.tool.strip_prefix("tools/").unwrap().to_owned(),
            definition_hash: probe.definition_hash.parse().unwrap(),
            key_argument: probe.key_argument.clone(),
            settles_after_ms: probe.settles_after_ms,
        }),
        on_unknown: if asks { ON_UNKNOWN_ASK_HUMAN } else { ON_UNKNOWN_TELL_MODEL }.to_owned(),
        group: told.group.clone(),
        expires_after_ms: told.expires_after_ms,
    })
}

pub fn text(parts: &[Part]) -> String {
    let texts = parts.iter().filter_map(|part| match &part.content {
        Some(part::Content::Text(text)) => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// Lines of the scripted server's journal.
pub fn journal(folder: &Path) -> Vec<String> {
    std::fs::read_to_string(folder.join("journal")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Waits for a condition.
pub async fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..400 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never: {what}");
}

pub fn alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
