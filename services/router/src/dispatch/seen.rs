//! What came of an answer before it broke off.

use mar_proto::types::{Part, Reasoning, part};

use crate::provider::{Delta, DeltaKind};

/// The output that an attempt has shown so far.
#[derive(Debug, Default)]
pub struct Seen {
    began: bool,
    text: String,
    reasoning: String,
}

impl Seen {
    /// The model has begun to write.
    pub fn begin(&mut self) {
        self.began = true;
    }

    /// A piece of the answer.
    pub fn add(&mut self, delta: &Delta) {
        self.began = true;
        match delta.kind {
            DeltaKind::Reasoning => self.reasoning.push_str(&delta.text),
            DeltaKind::Text | DeltaKind::ToolArguments => self.text.push_str(&delta.text),
        }
    }

    /// Whether the model has begun to write.
    pub fn began(&self) -> bool {
        self.began
    }

    /// The same as parts, for counting; none when nothing came.
    pub fn into_parts(self) -> Vec<Part> {
        let text = part::Content::Text(self.text);
        let reasoning = part::Content::Reasoning(Reasoning { text: self.reasoning, ..Reasoning::default() });
        let part = |content| Part { content: Some(content), ..Part::default() };
        if self.began { vec![part(text), part(reasoning)] } else { Vec::new() }
    }
}
