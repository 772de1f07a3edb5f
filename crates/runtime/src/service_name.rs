//! The four services by name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A service of the runtime: who is called, who serves, for whom a run token is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceName {
    /// Sessions, runs, events.
    Session,
    /// Models.
    Router,
    /// Agents, prompts, policies.
    AgentGenerator,
    /// Tools.
    ToolGateway,
}

impl ServiceName {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Session, Self::Router, Self::AgentGenerator, Self::ToolGateway];

    /// The name of its binary, its audience and its telemetry: `agent-generator`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Router => "router",
            Self::AgentGenerator => "agent-generator",
            Self::ToolGateway => "tool-gateway",
        }
    }

    /// The name of its table in the configuration: `agent_generator`.
    pub const fn table(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Router => "router",
            Self::AgentGenerator => "agent_generator",
            Self::ToolGateway => "tool_gateway",
        }
    }

    /// The full name of its gRPC service.
    pub const fn grpc(self) -> &'static str {
        match self {
            Self::Session => "agentruntime.session.v1.SessionService",
            Self::Router => "agentruntime.router.v1.RouterService",
            Self::AgentGenerator => "agentruntime.agent.v1.AgentGeneratorService",
            Self::ToolGateway => "agentruntime.tool.v1.ToolGatewayService",
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}
