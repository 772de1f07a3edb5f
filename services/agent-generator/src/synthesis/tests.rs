use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use mar_alignment::default_platform;
use mar_descriptor::{HaltingSection, Hash, TrustTier, verify};
use mar_proto::router::{Candidate, Price, Rejection, RejectionReason, SelectModelRequest, SelectModelResponse};
use mar_proto::tool::{ListToolsRequest, ListToolsResponse, Tool};
use mar_proto::types::{Media, Origin, Part, part::Content};
use mar_runtime::auth::Identity;
use mar_runtime::clock::ManualClock;
use proptest::prelude::*;
use time::OffsetDateTime;
use tonic::Status;

use super::*;
use crate::error::Denied;
use crate::order::ModelWish;
use crate::store;

/// Peers that answer in the order that they are given.
#[derive(Clone, Debug)]
struct Peers {
    tools: Vec<Tool>,
    page: usize,
    candidates: Vec<Candidate>,
    /// Models that somebody has looked at.
    reviewed: Vec<String>,
}

impl Peers {
    fn known(&self, candidate: &Candidate) -> Candidate {
        let trust_tier = if self.reviewed.contains(&candidate.model) { 3 } else { 1 };
        Candidate { trust_tier, ..candidate.clone() }
    }
}

#[async_trait]
impl Router for Peers {
    async fn select_model(&self, _: &Call, _: SelectModelRequest) -> Result<SelectModelResponse, Status> {
        Ok(SelectModelResponse {
            candidates: self.candidates.iter().map(|one| self.known(one)).collect(),
            catalogue_version: hash("catalogue"),
            routing_policy: "routingPolicies/balanced".into(),
            routing_policy_version: 3,
            routing_policy_hash: hash("balanced"),
        })
    }
}

#[async_trait]
impl ToolRegistry for Peers {
    async fn list_tools(&self, _: &Call, request: ListToolsRequest) -> Result<ListToolsResponse, Status> {
        let from = request.page_token.parse().unwrap_or(0);
        let to = (from + self.page).min(self.tools.len());
        Ok(ListToolsResponse {
            tools: self.tools[from..to].to_vec(),
            next_page_token: if to < self.tools.len() { to.to_string() } else { String::new() },
            unavailable: Vec::new(),
        })
    }
}

#[derive(Debug, Default)]
struct Kept(Mutex<Vec<Hash>>);

#[async_trait]
impl Store for Kept {
    async fn ping(&self) -> Result<(), store::Error> {
        Ok(())
    }

    async fn descriptor_put(
        &self,
        _: &str,
        descriptor: &SealedDescriptor,
        _: OffsetDateTime,
    ) -> Result<(), store::Error> {
        self.0.lock().unwrap().push(descriptor.hash);
        Ok(())
    }

    async fn descriptor_get(&self, _: &str, _: Hash) -> Result<Option<Stored>, store::Error> {
        Ok(None)
    }
}

fn hash(text: &str) -> String {
    Hash::of("test", text.as_bytes()).to_string()
}

fn tool(name: &str) -> Tool {
    let definition = ToolDefinition {
        name: format!("tools/{name}"),
        input_schema_json: r#"{"type":"object"}"#.into(),
        definition_hash: hash(name),
        read_only: true,
        ..ToolDefinition::default()
    };
    Tool { name: format!("tools/{name}"), definition: Some(definition), ..Tool::default() }
}

fn candidate(model: &str, price: i64) -> Candidate {
    Candidate {
        model: format!("models/{model}"),
        admitted: true,
        spec_hash: hash(model),
        price: Some(Price { input_per_million: price, output_per_million: 10 - price, ..Price::default() }),
        ..Candidate::default()
    }
}

fn peers() -> Peers {
    Peers {
        tools: ["docs.search", "docs.list", "files.a_b", "files.a.b", "web.search"].map(tool).into(),
        page: 2,
        candidates: vec![candidate("small", 1), candidate("large", 7), candidate("medium", 4)],
        reviewed: Vec::new(),
    }
}

fn text(words: &str) -> Part {
    Part { content: Some(Content::Text(words.into())), origin: Origin::Caller.into(), tainted: false }
}

fn order() -> Order {
    Order {
        brief: Brief {
            task_type: "answer".into(),
            input: vec![text("What is kept?")],
            output_schema: None,
            recipe: None,
            parameters: [("language".to_owned(), "German".to_owned())].into(),
            purpose: "support".into(),
            policy: None,
            labels: [("team".to_owned(), "search".to_owned())].into(),
        },
        selectors: vec!["*".parse().unwrap()],
        caller_tools: Vec::new(),
        parent: None,
        model: ModelWish {
            routing_policy: String::new(),
            models: Vec::new(),
            providers: Vec::new(),
            min_trust_tier: TrustTier::Unverified,
            residency: Vec::new(),
            temperature: None,
            max_output_tokens: None,
        },
        limits: HaltingSection { max_steps: 8, max_output_tokens: 10_000, ..HaltingSection::default() },
    }
}

fn synthesis(peers: Peers, now: i64) -> Synthesis {
    let clock = ManualClock::default();
    clock.advance(Duration::from_secs(now.unsigned_abs()));
    Synthesis {
        recipes: Catalogue::embedded().unwrap(),
        platform: Arc::new(Policy::parse(default_platform()).unwrap()),
        key: SigningKey::from_seed(&[5; 32]),
        router: Arc::new(peers.clone()),
        registry: Arc::new(peers),
        store: Arc::new(Kept::default()),
        clock: Arc::new(clock),
        max_tools: 10,
    }
}

fn generate(peers: Peers, caller: &Caller, order: &Order) -> Result<Agent, Error> {
    let call = Call { identity: Identity::new(caller.clone(), None), deadline: None };
    let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tokio.block_on(synthesis(peers, 17).generate(&call, order))
}

fn sealed_as(peers: Peers, order: &Order) -> Hash {
    generate(peers, &Caller::dev(), order).unwrap().descriptor.hash
}

#[test]
fn every_section_is_sealed() {
    let agent = generate(peers(), &Caller::dev(), &order()).unwrap();
    let verified = verify(&agent.descriptor, &SigningKey::from_seed(&[5; 32]).verifying_keys()).unwrap();
    let descriptor = verified.descriptor();
    let role = &descriptor.model.roles["reason"];
    let admitted: Vec<_> = role.admitted.iter().map(|one| one.model.as_str()).collect();
    assert_eq!(admitted, ["models/large", "models/medium", "models/small"]);
    assert!(role.requirement.tools && role.requirement.structured_output && role.requirement.streaming);
    assert_eq!((role.sampling.temperature.as_deref(), role.sampling.max_output_tokens), (Some("0.2"), 512));
    assert_eq!(descriptor.model.routing_policy.name, "routingPolicies/balanced");
    assert_eq!(descriptor.prompt.recipe.as_ref().unwrap().name, "answer-with-sources");
    assert_eq!(
        (descriptor.prompt.examples.len(), &descriptor.prompt.parameters[..]),
        (3, &["language".to_owned()][..])
    );
    let tools: Vec<_> = descriptor.agent.tools.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(tools, ["docs.list", "docs.search", "files.a.b", "files.a_b", "web.search"]);
    for definition in &agent.tools {
        let sealed = descriptor.agent.tool_by_alias(&definition.alias).unwrap();
        assert_eq!(definition.name, format!("tools/{}", sealed.name));
    }
    assert_eq!(descriptor.policy.alignment_policy[0].text, default_platform().text);
    assert_eq!(descriptor.halting, order().limits);
    assert_eq!(descriptor.metadata.environment, "dev");
    assert_eq!((agent.price.input_per_million, agent.price.output_per_million), (7, 9));
}

#[test]
fn who_may_sum_up_is_sealed_with_what_it_is_told() {
    let rejected = |model: &str, price: i64, reasons: &[RejectionReason]| {
        let rejections = reasons.iter().map(|reason| Rejection { reason: (*reason).into(), detail: String::new() });
        Candidate { admitted: false, rejections: rejections.collect(), ..candidate(model, price) }
    };
    let mut peers = peers();
    for (one, context_tokens) in peers.candidates.iter_mut().zip([8_000, 32_000, 16_000]) {
        one.context_tokens = context_tokens;
    }
    use RejectionReason::{Modality, Provider, StructuredOutput, Tools};
    let plain = Candidate { context_tokens: 64_000, ..rejected("plain", 9, &[Tools, StructuredOutput, Modality]) };
    peers.candidates.extend([plain, rejected("foreign", 10, &[Tools, Provider])]);
    let agent = generate(peers, &Caller::dev(), &order()).unwrap();
    let descriptor = Descriptor::parse(&agent.descriptor.canonical).unwrap();
    let names =
        |role: &str| descriptor.model.roles[role].admitted.iter().map(|one| one.model.clone()).collect::<Vec<_>>();
    assert_eq!(names("reason"), ["models/large", "models/medium", "models/small"]);
    assert_eq!(names("summarise"), ["models/large", "models/medium", "models/plain", "models/small"]);
    let (reason, summarise) = (&descriptor.model.roles["reason"], &descriptor.model.roles["summarise"]);
    assert!(
        !summarise.requirement.tools && !summarise.requirement.structured_output && summarise.requirement.streaming
    );
    assert_eq!(summarise.requirement.min_trust_tier, reason.requirement.min_trust_tier);
    assert_eq!(summarise.sampling.max_output_tokens, 1_024);
    let told = &descriptor.prompt.roles["summarise"];
    assert!(told.text.contains("summary") && told.hash == RolePrompt::text_hash(&told.text));
    assert_eq!(agent.price.input_per_million, 9, "the dearest in any role");
    assert_eq!(agent.context_tokens, 32_000, "of those who reason");
}

#[test]
fn production_takes_reviewed_models_and_tools_alone() {
    let caller = Caller { environment: "prod".into(), ..Caller::dev() };
    let Err(Error::PolicyDenied { denied, policies }) = generate(peers(), &caller, &order()) else {
        panic!("unverified models in production")
    };
    assert_eq!(denied, Denied::Models(["models/large", "models/medium", "models/small"].map(str::to_owned).into()));
    assert_eq!(policies, ["platform-default/platform.unverified-models"]);

    let mut peers = peers();
    peers.reviewed = vec!["models/medium".into()];
    peers.tools[0].trust_tier = mar_proto::types::TrustTier::Aligned.into();
    let agent = generate(peers, &caller, &order()).unwrap();
    let descriptor = Descriptor::parse(&agent.descriptor.canonical).unwrap();
    let admitted: Vec<_> = descriptor.model.roles["reason"].admitted.iter().map(|one| one.model.as_str()).collect();
    assert_eq!(admitted, ["models/medium"]);
    assert_eq!(
        (agent.price.input_per_million, agent.price.output_per_million),
        (4, 6),
        "the price is that of what is left"
    );
    let tools: Vec<_> = descriptor.agent.tools.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(tools, ["docs.search"]);
}

#[test]
fn a_dearer_wish_is_bound_by_the_run() {
    let mut order = order();
    order.model.max_output_tokens = Some(64_000);
    let agent = generate(peers(), &Caller::dev(), &order).unwrap();
    let descriptor = Descriptor::parse(&agent.descriptor.canonical).unwrap();
    assert_eq!(descriptor.model.roles["reason"].sampling.max_output_tokens, 10_000);
}

#[test]
fn broken_peers_are_not_believed() {
    let broken = |change: fn(&mut Peers)| {
        let mut peers = peers();
        change(&mut peers);
        matches!(generate(peers, &Caller::dev(), &order()), Err(Error::PeerBroken { .. }))
    };
    assert!(broken(|peers| peers.candidates[0].spec_hash = "md5:1".into()));
    assert!(broken(|peers| peers.tools[0].definition = None));
    assert!(broken(|peers| peers.tools[0].definition.as_mut().unwrap().definition_hash.clear()));
    // Pages that never end.
    assert!(broken(|peers| {
        peers.page = 0;
    }));
}

#[test]
fn too_many_tools_are_refused() {
    let mut peers = peers();
    peers.tools.extend((0..20).map(|n| tool(&format!("more.t{n}"))));
    assert!(matches!(generate(peers, &Caller::dev(), &order()), Err(Error::Invalid(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn same_inputs_same_hash(
        tools in Just(peers().tools).prop_shuffle(),
        candidates in Just(peers().candidates).prop_shuffle(),
        page in 1_usize..6,
        input in "[a-z{}% ]{1,40}",
        language in "[a-zA-Z]{1,10}",
        tenant in "[a-z]{1,8}",
        prices in 0_i64..10,
    ) {
        let expected = sealed_as(peers(), &order());
        let mut order = order();
        order.brief.input = vec![text(&input)];
        order.brief.parameters.insert("language".into(), language);
        let mut shuffled = Peers { tools, page, candidates, reviewed: Vec::new() };
        shuffled.candidates[0].price = Some(Price { input_per_million: prices, ..Price::default() });
        let caller = Caller { principal: format!("p-{tenant}"), tenant, end_user: Some("ada".into()), ..Caller::dev() };
        let agent = generate(shuffled, &caller, &order).unwrap();
        prop_assert_eq!(agent.descriptor.hash, expected);
    }
}

#[test]
fn other_inputs_other_hash() {
    let orders: [fn(&mut Order); 12] = [
        |order| order.brief.purpose = "sales".into(),
        |order| order.brief.task_type = "chat2".into(),
        |order| order.brief.parameters.clear(),
        |order| order.brief.output_schema = Some(Arc::new(crate::schema::OutputSchema::parse("{}").unwrap())),
        |order| {
            order.brief.input.push(Part {
                content: Some(Content::Media(Media { media_type: "image/png".into(), source: None, size_bytes: 0 })),
                ..Part::default()
            })
        },
        |order| order.selectors = vec!["docs.*".parse().unwrap()],
        |order| order.model.temperature = Some("0.3".into()),
        |order| order.model.max_output_tokens = Some(64),
        |order| order.model.residency = vec!["eu".into()],
        |order| order.limits.max_steps = 9,
        |order| order.brief.labels.clear(),
        |order| {
            order.brief.policy = Some(Arc::new(
                Policy::parse(PolicyText {
                    layer: mar_alignment::Layer::Task,
                    name: "task".into(),
                    version: 1,
                    text: "permit (principal, action, resource);".into(),
                })
                .unwrap(),
            ))
        },
    ];
    let mut seen = std::collections::BTreeSet::from([sealed_as(peers(), &order())]);
    for change in orders {
        let mut order = order();
        change(&mut order);
        if order.brief.task_type == "chat2" {
            order.brief.parameters.clear();
        }
        assert!(seen.insert(sealed_as(peers(), &order)), "{order:?}");
    }
    let changes: [fn(&mut Peers); 3] = [
        |peers| peers.candidates[1].spec_hash = hash("changed"),
        |peers| peers.candidates[1].admitted = false,
        |peers| peers.tools[1].definition.as_mut().unwrap().definition_hash = hash("changed"),
    ];
    for change in changes {
        let mut peers = peers();
        change(&mut peers);
        assert!(seen.insert(sealed_as(peers, &order())));
    }
}
