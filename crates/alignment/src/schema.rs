use std::sync::LazyLock;

use cedar_policy::{EntityTypeName, EntityUid, Schema};

use crate::request::Point;

/// The schema and the names of it that requests use, parsed once.
pub(crate) struct Vocabulary {
    pub schema: Schema,
    pub caller: EntityTypeName,
    pub agent: EntityTypeName,
    pub upstream: EntityTypeName,
    pub tool: EntityTypeName,
    pub model: EntityTypeName,
    pub session: EntityTypeName,
    pub answer: EntityTypeName,
    actions: Vec<EntityUid>,
}

static VOCABULARY: LazyLock<Result<Vocabulary, String>> = LazyLock::new(Vocabulary::parse);

/// The embedded vocabulary. An error here is a defect of this crate, and every caller turns it into a refusal.
pub(crate) fn vocabulary() -> Result<&'static Vocabulary, String> {
    VOCABULARY.as_ref().map_err(Clone::clone)
}

impl Vocabulary {
    fn parse() -> Result<Self, String> {
        let (schema, _warnings) = Schema::from_cedarschema_str(include_str!("schema.cedarschema"))
            .map_err(|error| format!("the embedded schema is broken: {error}"))?;
        let action = entity_type("Action")?;
        let actions = Point::ALL.iter().map(|point| uid(&action, point.as_str())).collect();
        Ok(Self {
            schema,
            caller: entity_type("Caller")?,
            agent: entity_type("Agent")?,
            upstream: entity_type("Upstream")?,
            tool: entity_type("Tool")?,
            model: entity_type("Model")?,
            session: entity_type("Session")?,
            answer: entity_type("Answer")?,
            actions,
        })
    }

    pub(crate) fn action(&self, point: Point) -> Result<EntityUid, String> {
        self.actions.get(point as usize).cloned().ok_or_else(|| format!("no action for {}", point.as_str()))
    }
}

pub(crate) fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), cedar_policy::EntityId::new(id))
}

fn entity_type(name: &str) -> Result<EntityTypeName, String> {
    name.parse().map_err(|error| format!("the entity type {name} is not a name: {error}"))
}
