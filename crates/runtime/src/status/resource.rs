//! What a status can be about, under one name each.

use std::fmt;

/// The type of a resource: what `ResourceInfo.resource_type` holds, the same whichever service answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "as the API names them")]
pub enum Resource {
    Session,
    Run,
    Approval,
    Blob,
    Hook,
    DeadNotice,
    Model,
    RoutingPolicy,
    Agent,
    Recipe,
    Tool,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Session,
        Self::Run,
        Self::Approval,
        Self::Blob,
        Self::Hook,
        Self::DeadNotice,
        Self::Model,
        Self::RoutingPolicy,
        Self::Agent,
        Self::Recipe,
        Self::Tool,
    ];

    /// The full name of the message that holds it; in the same form where the API has none.
    #[must_use]
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::Session => "agentruntime.session.v1.Session",
            Self::Run => "agentruntime.session.v1.Run",
            Self::Approval => "agentruntime.session.v1.Approval",
            Self::Blob => "agentruntime.session.v1.Blob",
            Self::Hook => "agentruntime.session.v1.Hook",
            Self::DeadNotice => "agentruntime.session.v1.DeadNotice",
            Self::Model => "agentruntime.router.v1.ModelSpec",
            Self::RoutingPolicy => "agentruntime.router.v1.RoutingPolicy",
            Self::Agent => "agentruntime.type.v1.SealedDescriptor",
            Self::Recipe => "agentruntime.agent.v1.Recipe",
            Self::Tool => "agentruntime.tool.v1.Tool",
        }
    }

    /// What people call it.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Run => "run",
            Self::Approval => "approval",
            Self::Blob => "blob",
            Self::Hook => "hook",
            Self::DeadNotice => "notice",
            Self::Model => "model",
            Self::RoutingPolicy => "routing policy",
            Self::Agent => "agent",
            Self::Recipe => "recipe",
            Self::Tool => "tool",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.noun())
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn types_are_messages_of_the_api() {
        let files = FileDescriptorSet::decode(mar_proto::FILE_DESCRIPTOR_SET).unwrap().file;
        let messages: Vec<_> = files
            .iter()
            .flat_map(|file| file.message_type.iter().map(move |one| format!("{}.{}", file.package(), one.name())))
            .collect();
        // No RPC answers with one of these.
        let bare = [Resource::Blob, Resource::Hook, Resource::RoutingPolicy, Resource::Recipe];
        for resource in Resource::ALL {
            let name = resource.type_name();
            assert_eq!(messages.iter().any(|message| message == name), !bare.contains(&resource), "{name}");
            let package = name.rsplit_once('.').unwrap().0;
            assert!(files.iter().any(|file| file.package() == package), "{name}");
        }
    }

    #[test]
    fn names_are_told_apart() {
        for (at, one) in Resource::ALL.iter().enumerate() {
            for other in &Resource::ALL[at + 1..] {
                assert_ne!(one.type_name(), other.type_name());
                assert_ne!(one.to_string(), other.to_string());
            }
        }
    }
}
