//! What a turn is asked for with.

use std::sync::Arc;

use mar_proto::router::{Budget, Prompt, ResolvedBlob, StreamGenerateRequest};
use mar_proto::session::Agent;
use mar_proto::types::{Message, SealedDescriptor};

/// A generation's request. What grows with the run is shared with it, and is copied only where it is sent.
#[derive(Debug, Clone, Default)]
pub struct TurnRequest {
    /// `{run}/{step}/{attempt}`
    pub generation_id: String,
    /// The model's role in the descriptor; empty for the agent's own.
    pub model_role: String,
    /// The conversation.
    pub messages: Vec<Arc<Message>>,
    /// Whose tools the model is told of.
    pub tools_of: Option<Arc<Agent>>,
    /// JSON Schema of the answer; empty for free text.
    pub output_schema_json: Arc<str>,
    /// Blobs that the conversation names.
    pub blobs: Vec<ResolvedBlob>,
    /// What the generation may use.
    pub budget: Budget,
    /// `models/{model}` to be tried after all others.
    pub try_last: Vec<String>,
}

impl TurnRequest {
    /// As it is sent.
    pub fn to_wire(&self, descriptor: Option<SealedDescriptor>) -> StreamGenerateRequest {
        let prompt = Prompt {
            messages: self.messages.iter().map(|message| (**message).clone()).collect(),
            tools: self.tools_of.as_ref().map(|agent| agent.tools.clone()).unwrap_or_default(),
            output_schema_json: self.output_schema_json.to_string(),
            blobs: self.blobs.clone(),
        };
        StreamGenerateRequest {
            generation_id: self.generation_id.clone(),
            model_role: self.model_role.clone(),
            prompt: Some(prompt),
            budget: Some(self.budget),
            descriptor,
            try_last: self.try_last.clone(),
        }
    }
}
