//! One router on a free port with its providers, gone with the test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use mar_descriptor::{
    AdmittedModel, AgentSection, Descriptor, Hash, MetadataSection, ModelRole, ModelSection, PolicyRef, Sampling,
    SealedTool, SigningKey, domain, seal,
};
use mar_proto::router::router_service_client::RouterServiceClient;
use mar_proto::router::stream_generate_response::Frame;
use mar_proto::router::{Budget, GenerateRequest, GenerateResponse, Prompt, StreamGenerateRequest, Turn, TurnDelta};
use mar_proto::types::{ErrorReason, Message, Part, Role, SealedDescriptor, Signature, ToolDefinition, part::Content};
use mar_router::catalogue::Catalogue;
use mar_router::dispatch::RetryConfig;
use mar_router::provider::openai::Bounds;
use mar_router::{Deps, ProviderConfig, RouterConfig};
use mar_runtime::ServiceName;
use mar_runtime::auth::{Caller, RunGrant, RunTokenSigner, keys};
use mar_runtime::clock::{SystemClock, SystemIds};
use mar_runtime::config::RuntimeConfig;
use mar_runtime::server::Server;
use mar_runtime::status::Reason;
use mar_testkit::rehearsal::{Rehearsal, Script};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

pub type Client = RouterServiceClient<Channel>;

/// `alpha` is dearer and better than `beta`; `con` has no native tool calls; `plain` calls no tools; all cost money but
/// `con`.
const MODELS: [(&str, &str, &str, &str); 4] = [
    ("alpha", "first", "NATIVE", "900"),
    ("beta", "second", "NATIVE", "500"),
    ("con", "first", "CONSTRAINED", "400"),
    ("plain", "first", "NONE", "300"),
];

pub struct Harness {
    pub client: Client,
    pub server: Server,
    pub catalogue: Catalogue,
    pub first: Rehearsal,
    pub second: Rehearsal,
    _folder: TempDir,
    signer: RunTokenSigner,
    _tasks: JoinSet<()>,
}

pub fn catalogue() -> String {
    let entry = |(name, provider, tools, quality): (&str, &str, &str, &str)| {
        let price = if name == "con" { ("0", "0") } else { ("1", "2") };
        format!(
            r#"
[[model]]
name = "{name}"
provider = "{provider}"
provider_model = "{name}-at-provider"
display_name = "{name}"
context_tokens = 8192
max_output_tokens = 1024
input_modalities = ["text"]
output_modalities = ["text"]
streaming = true
tool_calling = "{tools}"
structured_output = true
price = {{ input = "{}", output = "{}" }}
latency_class = "FAST"
trust_tier = "EXPERIMENTAL"
residency = ["eu"]
retention_days = 0
tokenizer = "cl100k_base"
tokenizer_exact = true
quality = {{ default = {quality} }}
source = "a test"
as_of = "2026-01-31"
"#,
            price.0, price.1
        )
    };
    MODELS.map(entry).concat()
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

impl Harness {
    /// The same script for both providers.
    pub async fn start(script: &str) -> Self {
        Self::with(script, script).await
    }

    pub async fn with(first: &str, second: &str) -> Self {
        Self::configured(first, second, |_| ()).await
    }

    pub async fn configured(first: &str, second: &str, change: impl FnOnce(&mut RouterConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalogue.toml");
        std::fs::write(&path, catalogue()).unwrap();
        let first = Rehearsal::start(Script::parse(first).unwrap()).await.unwrap();
        let second = Rehearsal::start(Script::parse(second).unwrap()).await.unwrap();
        let bounds = Bounds {
            first_byte: Duration::from_millis(600),
            idle: Duration::from_millis(600),
            total: Duration::from_secs(5),
            ..Bounds::default()
        };
        let provider = |at: &Rehearsal| ProviderConfig { bounds, ..ProviderConfig::at(at.api_url()) };
        let mut config = RouterConfig {
            catalogue: Some(path),
            providers: [("first".to_owned(), provider(&first)), ("second".to_owned(), provider(&second))].into(),
            retry: RetryConfig { base: Duration::from_millis(10), max: Duration::from_millis(1_500), rounds: 3 },
            ..RouterConfig::default()
        };
        change(&mut config);
        Self::serve(config, first, second, folder).await
    }

    async fn serve(config: RouterConfig, first: Rehearsal, second: Rehearsal, folder: TempDir) -> Self {
        let pair = keys::generate(&SystemIds).unwrap();
        let public = folder.path().join("session.pub.pem");
        std::fs::write(&public, &pair.public_pem).unwrap();
        let mut runtime = RuntimeConfig::default();
        runtime.run_tokens.verification_key_files = vec![public];
        let clock = Arc::new(SystemClock::new());
        let signer = RunTokenSigner::try_new(pair.private_pem.expose_secret(), clock.clone()).unwrap();
        let catalogue = config.load_catalogue().unwrap();
        let deps = Deps { clock, descriptor_keys: key().verifying_keys(), ..Deps::default() };
        let server = mar_router::server(config, &runtime, deps).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = connect(listener.local_addr().unwrap());
        let served = server.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { served.serve(listener, CancellationToken::new()).await.unwrap() });
        Self { client, server, catalogue, first, second, _folder: folder, signer, _tasks: tasks }
    }

    /// A descriptor that admits these models, with the tool `search`.
    pub fn descriptor(&self, models: &[&str]) -> Descriptor {
        let mut admitted: Vec<_> = models
            .iter()
            .map(|name| {
                let name = format!("models/{name}");
                let spec_hash = self.catalogue.model(&name).map_or(Hash::ZERO, |model| model.spec_hash);
                AdmittedModel { model: name, spec_hash }
            })
            .collect();
        admitted.sort_by(|a, b| a.model.cmp(&b.model));
        let role = ModelRole {
            admitted,
            sampling: Sampling { temperature: Some("0.5".into()), max_output_tokens: 256, ..Sampling::default() },
            ..ModelRole::default()
        };
        let tool = SealedTool {
            name: "docs.search".into(),
            alias: "search".into(),
            definition_hash: tool_hash(),
            idempotent: true,
            read_only: true,
            doubt: None,
        };
        Descriptor {
            model: ModelSection {
                roles: [("reason".to_owned(), role)].into(),
                routing_policy: PolicyRef { name: "balanced".into(), version: 1, hash: Hash::ZERO },
            },
            agent: AgentSection { role: "helper".into(), tools: vec![tool] },
            metadata: MetadataSection { environment: "dev".into(), ..MetadataSection::default() },
            ..Descriptor::default()
        }
    }

    /// A request of the run `run` in an epoch, under a sealed descriptor.
    pub fn authorised<T>(&self, body: T, hash: Option<String>, epoch: u64) -> Request<T> {
        let grant = RunGrant { session: "s".into(), run: "r".into(), descriptor_hash: hash, epoch };
        let token = self.signer.sign(&Caller::dev(), &grant, &[ServiceName::Router]).unwrap();
        let mut request = Request::new(body);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    }

    /// A generation under a descriptor that admits these models.
    pub fn call<T: From<Ask>>(&self, models: &[&str], ask: Ask) -> Request<T> {
        let sealed = sealed(&self.descriptor(models));
        let hash = sealed.hash.clone();
        self.authorised(T::from(Ask { descriptor: Some(sealed), ..ask }), Some(hash), 1)
    }

    pub async fn generate(&self, models: &[&str], ask: Ask) -> Result<Turn, Status> {
        let request: Request<GenerateRequest> = self.call(models, ask);
        let response: GenerateResponse = self.client.clone().generate(request).await?.into_inner();
        Ok(response.turn.unwrap())
    }

    pub async fn stream(&self, models: &[&str], ask: Ask) -> Result<Streamed, Status> {
        let request: Request<StreamGenerateRequest> = self.call(models, ask);
        let mut frames = self.client.clone().stream_generate(request).await?.into_inner();
        let mut streamed = Streamed::default();
        while let Some(frame) = frames.next().await {
            match frame.map(|frame| frame.frame.unwrap()) {
                Ok(Frame::Attempt(attempt)) => {
                    streamed.attempts.push(attempt.model);
                    streamed.deltas.clear();
                }
                Ok(Frame::Delta(delta)) => streamed.deltas.push(delta),
                Ok(Frame::Turn(turn)) => streamed.turn = Some(turn),
                Err(status) => streamed.error = Some(status),
            }
        }
        Ok(streamed)
    }
}

/// What came over a stream.
#[derive(Debug, Default)]
pub struct Streamed {
    pub attempts: Vec<String>,
    pub deltas: Vec<TurnDelta>,
    pub turn: Option<Turn>,
    pub error: Option<Status>,
}

impl Streamed {
    pub fn text(&self, part: i32) -> String {
        let mut text = String::new();
        for delta in self.deltas.iter().filter(|delta| delta.part == part) {
            assert_eq!(usize::try_from(delta.offset).unwrap(), text.len());
            text.push_str(&delta.text);
        }
        text
    }
}

/// What both RPCs take.
#[derive(Clone, Debug)]
pub struct Ask {
    pub prompt: Prompt,
    pub budget: Budget,
    pub role: String,
    pub descriptor: Option<SealedDescriptor>,
    pub try_last: Vec<String>,
}

impl Ask {
    pub fn new(question: &str) -> Self {
        let messages = vec![said(Role::System, "Be brief."), said(Role::User, question)];
        Self {
            prompt: Prompt { messages, ..Prompt::default() },
            budget: Budget {
                max_cost_nano_usd: 1_000_000_000,
                max_input_tokens: 100_000,
                max_output_tokens: 500,
                max_attempts: 0,
            },
            role: String::new(),
            descriptor: None,
            try_last: Vec::new(),
        }
    }

    pub fn with_tools(mut self) -> Self {
        self.prompt.tools = vec![search()];
        self
    }

    pub fn with_schema(mut self, schema: &str) -> Self {
        self.prompt.output_schema_json = schema.into();
        self
    }

    pub fn last(mut self, models: &[&str]) -> Self {
        self.try_last = models.iter().map(|name| format!("models/{name}")).collect();
        self
    }

    pub fn attempts(mut self, attempts: i32) -> Self {
        self.budget.max_attempts = attempts;
        self
    }
}

impl From<Ask> for GenerateRequest {
    fn from(ask: Ask) -> Self {
        Self {
            generation_id: "r/1/1".into(),
            model_role: ask.role,
            prompt: Some(ask.prompt),
            budget: Some(ask.budget),
            descriptor: ask.descriptor,
            try_last: ask.try_last,
        }
    }
}

impl From<Ask> for StreamGenerateRequest {
    fn from(ask: Ask) -> Self {
        Self {
            generation_id: "r/1/1".into(),
            model_role: ask.role,
            prompt: Some(ask.prompt),
            budget: Some(ask.budget),
            descriptor: ask.descriptor,
            try_last: ask.try_last,
        }
    }
}

fn connect(address: SocketAddr) -> Client {
    Client::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy())
}

pub fn tool_hash() -> Hash {
    Hash::of(domain::TOOL_DEFINITION, b"search")
}

pub fn search() -> ToolDefinition {
    ToolDefinition {
        name: "tools/docs.search".into(),
        alias: "search".into(),
        description: "Searches the documents.".into(),
        input_schema_json: r#"{"type":"object","properties":{"query":{"type":"string"}},"required":["query"]}"#.into(),
        definition_hash: tool_hash().to_string(),
        ..ToolDefinition::default()
    }
}

pub fn text(words: &str) -> Part {
    part(Content::Text(words.into()))
}

pub fn part(content: Content) -> Part {
    Part { content: Some(content), ..Part::default() }
}

pub fn said(role: Role, words: &str) -> Message {
    Message { role: role.into(), parts: vec![text(words)] }
}

pub fn sealed(descriptor: &Descriptor) -> SealedDescriptor {
    let sealed = seal(descriptor, &key()).unwrap();
    let signatures = sealed.signatures.into_iter();
    SealedDescriptor {
        hash: sealed.hash.to_string(),
        canonical: sealed.canonical.into(),
        signatures: signatures
            .map(|signature| Signature { key_id: signature.key_id, sig: signature.sig.into() })
            .collect(),
    }
}

/// The contents of a turn's parts.
pub fn contents(turn: &Turn) -> Vec<Content> {
    let parts = turn.message.as_ref().unwrap().parts.iter();
    parts.map(|part| part.content.clone().unwrap()).collect()
}

pub fn reason(status: &Status) -> ErrorReason {
    Reason::of(status).unwrap_or_else(|| panic!("no reason in {status:?}"))
}
