//! Models that the router is to choose from.

/// An entry of the router's catalogue: a rehearsed model, and what tests vary of it.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its name, and what its provider calls it.
    pub name: &'static str,
    /// Who is asked for it.
    pub provider: String,
    /// Input and output tokens of one generation together.
    pub context_tokens: i64,
    /// Output tokens of one generation.
    pub max_output_tokens: i64,
    /// What a prompt may hold.
    pub input_modalities: &'static [&'static str],
    /// USD for a million tokens of input, and of output.
    pub price: (u32, u32),
    /// Which of several is preferred: the higher.
    pub quality: usize,
}

impl Default for Model {
    /// `models/rehearsal`, for 1 USD (input) and 2 USD (output) a million tokens: an answer has at most 1,000.
    fn default() -> Self {
        Self {
            name: "rehearsal",
            provider: "rehearsal".to_owned(),
            context_tokens: 131_072,
            max_output_tokens: 1_000,
            input_modalities: &["text"],
            price: (1, 2),
            quality: 0,
        }
    }
}

impl Model {
    /// As it stands in a catalogue, which is its models one after another.
    pub fn toml(&self) -> String {
        let Self { name, provider, context_tokens, max_output_tokens, input_modalities, price, quality } = self;
        format!(
            r#"
[[model]]
name = "{name}"
provider = "{provider}"
provider_model = "{name}"
display_name = "{name} (scripted, not a model)"
context_tokens = {context_tokens}
max_output_tokens = {max_output_tokens}
input_modalities = {input_modalities:?}
output_modalities = ["text"]
streaming = true
tool_calling = "NATIVE"
structured_output = true
price = {{ input = "{input}", output = "{output}" }}
latency_class = "FAST"
trust_tier = "EXPERIMENTAL"
residency = ["local"]
retention_days = 0
tokenizer = "bytes"
rehearsal = true
quality = {{ default = {quality} }}
source = "docs/rehearsal.md"
as_of = "2026-11-22"
"#,
            input = price.0,
            output = price.1,
        )
    }
}
