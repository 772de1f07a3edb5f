use std::collections::{BTreeSet, HashMap, HashSet};

use cedar_policy::{Context, Entities, Entity, EntityUid, RestrictedExpression};

use super::arguments::{ArgumentFacts, Arguments, Reads};
use super::{Agent, Answer, Caller, Model, Point, Question, Request, ResultFacts, Session, Tool, TrustTier};
use crate::schema::{Vocabulary, uid, vocabulary};

type Attributes = Vec<(String, RestrictedExpression)>;

/// A request in Cedar's terms, built once and evaluated against every policy of a decision.
pub(crate) struct CedarRequest {
    pub point: Point,
    pub request: cedar_policy::Request,
    pub entities: Entities,
    /// What a rule's resource scope may name to apply: the resource and, for a tool, its upstream.
    pub resources: Vec<EntityUid>,
}

impl CedarRequest {
    /// Errors are sentences for the decision record.
    pub(crate) fn build(request: &Request, reads: Reads) -> Result<Self, String> {
        let words = vocabulary()?;
        let point = request.point();
        let principal = principal(words, &request.question)?;
        let Resource { entity, parent } = resource(words, &request.question)?;
        let context = Context::from_pairs(context(request, reads)?).map_err(|error| error.to_string())?;
        let mut resources = vec![entity.uid()];
        resources.extend(parent);
        Ok(Self {
            point,
            // Facts are typed by this module, and a test holds them against the schema: checking again costs time.
            request: cedar_policy::Request::new(principal.uid(), words.action(point)?, entity.uid(), context, None)
                .map_err(|error| error.to_string())?,
            entities: Entities::from_entities([principal, entity], None).map_err(|error| error.to_string())?,
            resources,
        })
    }
}

struct Resource {
    entity: Entity,
    parent: Option<EntityUid>,
}

fn principal(words: &Vocabulary, question: &Question) -> Result<Entity, String> {
    let (id, attributes) = match question {
        Question::StartSession { caller, .. } => (uid(&words.caller, &caller.principal), caller_facts(caller)),
        Question::SelectModel { agent, .. }
        | Question::ShapePrompt { agent, .. }
        | Question::ListTool { agent, .. }
        | Question::CallTool { agent, .. }
        | Question::ReceiveResult { agent, .. }
        | Question::GiveAnswer { agent, .. } => (uid(&words.agent, &agent.id), agent_facts(agent)),
    };
    entity(id, attributes, None)
}

fn resource(words: &Vocabulary, question: &Question) -> Result<Resource, String> {
    let (id, attributes, parent) = match question {
        Question::StartSession { session, .. } | Question::ShapePrompt { session, .. } => {
            (uid(&words.session, &session.id), session_facts(session), None)
        }
        Question::SelectModel { model, .. } => (uid(&words.model, &model.name), model_facts(model), None),
        Question::ListTool { tool, .. } | Question::CallTool { tool, .. } | Question::ReceiveResult { tool, .. } => {
            (uid(&words.tool, &tool.name), tool_facts(tool), Some(uid(&words.upstream, &tool.upstream)))
        }
        Question::GiveAnswer { answer, .. } => (uid(&words.answer, "answer"), answer_facts(answer), None),
    };
    Ok(Resource { entity: entity(id, attributes, parent.clone())?, parent })
}

fn entity(id: EntityUid, attributes: Attributes, parent: Option<EntityUid>) -> Result<Entity, String> {
    let attributes: HashMap<_, _> = attributes.into_iter().collect();
    let parents: HashSet<_> = parent.into_iter().collect();
    Entity::new(id, attributes, parents).map_err(|error| error.to_string())
}

fn context(request: &Request, reads: Reads) -> Result<Attributes, String> {
    let run = &request.run;
    let mut facts = vec![
        text("environment", request.environment()),
        long("step", run.step),
        long("tool_calls", run.tool_calls),
        boolean("taint", run.taint),
        texts("data_classes", &run.data_classes),
    ];
    match &request.question {
        Question::ShapePrompt { prompt_bytes, .. } => facts.push(long("prompt_bytes", *prompt_bytes)),
        Question::CallTool { sealed, arguments, .. } => {
            facts.push(boolean("sealed", *sealed));
            facts.extend(argument_facts(arguments, reads)?);
        }
        Question::ReceiveResult { result, .. } => facts.extend(result_facts(result)),
        Question::StartSession { .. }
        | Question::SelectModel { .. }
        | Question::ListTool { .. }
        | Question::GiveAnswer { .. } => {}
    }
    Ok(facts)
}

fn argument_facts(arguments: &Arguments, reads: Reads) -> Result<Attributes, String> {
    let ArgumentFacts { names, text: lines, values } = arguments.facts(reads)?;
    let values = values
        .into_iter()
        .map(|(path, value)| {
            RestrictedExpression::new_record([
                ("path".to_owned(), RestrictedExpression::new_string(path)),
                ("text".to_owned(), RestrictedExpression::new_string(value)),
            ])
            .map_err(|error| error.to_string())
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(vec![
        long("argument_bytes", arguments.bytes),
        texts("argument_names", &names),
        ("argument_text".to_owned(), RestrictedExpression::new_string(lines)),
        ("arguments".to_owned(), RestrictedExpression::new_set(values)),
    ])
}

fn result_facts(result: &ResultFacts) -> Attributes {
    vec![
        long("result_bytes", result.bytes),
        boolean("result_is_error", result.is_error),
        texts("findings", &result.findings),
    ]
}

fn caller_facts(caller: &Caller) -> Attributes {
    let mut facts = vec![
        text("tenant", &caller.tenant),
        text("environment", &caller.environment),
        texts("groups", &caller.groups),
        texts("scopes", &caller.scopes),
    ];
    if let Some(end_user) = &caller.end_user {
        facts.push(text("end_user", end_user));
    }
    facts
}

fn agent_facts(agent: &Agent) -> Attributes {
    let mut facts = caller_facts(&agent.caller);
    facts.push(text("caller", &agent.caller.principal));
    facts.push(text("role", &agent.role));
    facts.push(text("purpose", &agent.purpose));
    facts.push(text("task_type", &agent.task_type));
    facts
}

fn tool_facts(tool: &Tool) -> Attributes {
    let [tier, rank] = trust_facts(tool.trust_tier);
    vec![
        text("name", &tool.name),
        text("upstream", &tool.upstream),
        boolean("read_only", tool.read_only),
        boolean("idempotent", tool.idempotent),
        tier,
        rank,
    ]
}

fn model_facts(model: &Model) -> Attributes {
    let [tier, rank] = trust_facts(model.trust_tier);
    vec![text("name", &model.name), text("provider", &model.provider), texts("residency", &model.residency), tier, rank]
}

fn session_facts(session: &Session) -> Attributes {
    vec![text("purpose", &session.purpose), texts("labels", &session.labels)]
}

fn answer_facts(answer: &Answer) -> Attributes {
    vec![long("bytes", answer.bytes), long("citations", answer.citations), boolean("structured", answer.structured)]
}

fn trust_facts(tier: TrustTier) -> [(String, RestrictedExpression); 2] {
    [text("trust_tier", tier.as_str()), long("trust_rank", tier as u64)]
}

fn text(name: &str, value: &str) -> (String, RestrictedExpression) {
    (name.to_owned(), RestrictedExpression::new_string(value.to_owned()))
}

fn boolean(name: &str, value: bool) -> (String, RestrictedExpression) {
    (name.to_owned(), RestrictedExpression::new_bool(value))
}

/// Cedar counts in i64; a larger count stays the largest.
fn long(name: &str, value: u64) -> (String, RestrictedExpression) {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    (name.to_owned(), RestrictedExpression::new_long(value))
}

fn texts(name: &str, values: &BTreeSet<String>) -> (String, RestrictedExpression) {
    let values = values.iter().cloned().map(RestrictedExpression::new_string);
    (name.to_owned(), RestrictedExpression::new_set(values))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::RunFacts;

    fn filled() -> (Agent, Tool, Session) {
        let caller = Caller {
            tenant: "acme".to_owned(),
            principal: "backend".to_owned(),
            environment: "prod".to_owned(),
            groups: BTreeSet::from(["a".to_owned(), "b".to_owned()]),
            scopes: BTreeSet::from(["run".to_owned()]),
            end_user: Some("ada".to_owned()),
        };
        let agent = Agent { id: "sha256:aa".to_owned(), caller, ..Agent::default() };
        let tool = Tool { name: "docs.search".to_owned(), upstream: "docs".to_owned(), ..Tool::default() };
        let session = Session { labels: BTreeSet::from(["team=a".to_owned()]), ..Session::default() };
        (agent, tool, session)
    }

    /// One question per decision point, once with every optional fact and once with none.
    fn questions() -> Vec<Question> {
        [filled(), <(Agent, Tool, Session)>::default()]
            .into_iter()
            .flat_map(|(agent, tool, session)| {
                let arguments = Arguments::new(json!({"a": [1, {"b": "x"}], "c": null}), "d", u64::MAX);
                [
                    Question::StartSession { caller: agent.caller.clone(), session: session.clone() },
                    Question::SelectModel { agent: agent.clone(), model: Model::default() },
                    Question::ShapePrompt { agent: agent.clone(), session, prompt_bytes: 3 },
                    Question::ListTool { agent: agent.clone(), tool: tool.clone() },
                    Question::CallTool { agent: agent.clone(), tool: tool.clone(), sealed: true, arguments },
                    Question::ReceiveResult { agent: agent.clone(), tool, result: ResultFacts::default() },
                    Question::GiveAnswer { agent, answer: Answer::default() },
                ]
            })
            .collect()
    }

    #[test]
    fn every_request_fits_the_schema() {
        let schema = &vocabulary().unwrap().schema;
        let all = Reads { names: true, text: true, values: true };
        let mut points = BTreeSet::new();
        for question in questions() {
            let run = RunFacts { data_classes: BTreeSet::from(["pii".to_owned()]), ..RunFacts::default() };
            let built = CedarRequest::build(&Request::new(question).in_run(run), all).unwrap();
            let plain = &built.request;
            cedar_policy::Request::new(
                plain.principal().unwrap().clone(),
                plain.action().unwrap().clone(),
                plain.resource().unwrap().clone(),
                plain.context().unwrap().clone(),
                Some(schema),
            )
            .unwrap();
            Entities::from_entities(built.entities.iter().cloned(), Some(schema)).unwrap();
            points.insert(built.point);
        }
        assert_eq!(points, BTreeSet::from(Point::ALL));
    }

    #[test]
    fn the_schema_has_the_actions_that_points_name() {
        let words = vocabulary().unwrap();
        let declared: HashSet<_> = words.schema.actions().cloned().collect();
        let named: HashSet<_> = Point::ALL.iter().map(|point| words.action(*point).unwrap()).collect();
        assert_eq!(declared, named);
    }
}
