//! Catalogue entries for tests.

/// An entry of 8192 tokens at 1 USD in and 2 USD out for a thousand tokens' thousand.
pub(crate) fn entry(name: &str, provider: &str) -> String {
    format!(
        r#"
[[model]]
name = "{name}"
provider = "{provider}"
provider_model = "{name}"
display_name = "{name}"
context_tokens = 8192
max_output_tokens = 1024
input_modalities = ["text"]
output_modalities = ["text"]
streaming = true
tool_calling = "NATIVE"
structured_output = true
price = {{ input = "1", output = "2" }}
latency_class = "FAST"
trust_tier = "ALIGNED"
residency = ["eu"]
retention_days = 0
tokenizer = "bytes"
quality = {{ default = 500 }}
source = "a test"
as_of = "2026-01-31"
"#
    )
}
