use super::*;

const ENTRY: &str = r#"
[[model]]
name = "a"
provider = "p"
provider_model = "m"
display_name = "A"
context_tokens = 8192
max_output_tokens = 1024
input_modalities = ["text"]
output_modalities = ["text"]
streaming = true
tool_calling = "NATIVE"
structured_output = true
price = { input = "1", output = "2" }
latency_class = "FAST"
trust_tier = "ALIGNED"
residency = ["eu"]
retention_days = 0
tokenizer = "bytes"
source = "a test"
as_of = "2026-01-31"
"#;

fn fields(text: &str) -> Vec<String> {
    let found = Catalogue::parse(text).unwrap_err();
    found.iter().map(|one| one.field.clone()).collect()
}

#[test]
fn the_built_in_catalogue_is_sound() {
    let catalogue = Catalogue::built_in().unwrap();
    assert!(catalogue.models().len() >= 10);
    let local = catalogue.model("models/qwen2.5-coder-1.5b").unwrap();
    assert_eq!(local.tool_calling, ToolCalling::Constrained);
    assert_eq!(local.price.map(|price| price.most(1_000, 1_000)), Some(0));
    assert!(catalogue.model("models/rehearsal").unwrap().rehearsal);
    assert!(!catalogue.only_rehearsal());
    assert!(catalogue.models().iter().all(|model| !model.rehearsal || model.trust_tier < TrustTier::Aligned));
}

#[test]
fn the_spec_hash_leaves_out_what_only_orders_or_explains() {
    let hash = |text: &str| Catalogue::parse(text).unwrap().models()[0].spec_hash;
    let version = |text: &str| Catalogue::parse(text).unwrap().version();
    for (from, to) in [("\"2\"", "\"3\""), ("a test", "b test"), ("2026-01-31", "2026-02-01")] {
        let other = ENTRY.replace(from, to);
        assert_eq!(hash(ENTRY), hash(&other));
        assert_ne!(version(ENTRY), version(&other));
    }
    for (from, to) in
        [("8192", "8193"), ("ALIGNED", "PRODUCTION"), ("\"eu\"", "\"us\""), ("streaming = true", "streaming = false")]
    {
        assert_ne!(hash(ENTRY), hash(&ENTRY.replace(from, to)), "{from}");
    }
}

#[test]
fn the_spec_hash_is_pinned() {
    let hash = Catalogue::parse(ENTRY).unwrap().models()[0].spec_hash;
    insta::assert_snapshot!(hash, @"sha256:6a3dc5c43bfc9e08fedbb3cc794349bc7807b27bd73e0b0ddb0868bf2804e357");
}

#[test]
fn all_that_a_price_lacks_is_told() {
    let bad = ENTRY.replace(r#"price = { input = "1", output = "2" }"#, "price = { cached_input = 1, ouput = \"2\" }");
    let all = fields(&bad);
    for field in ["price.cached_input", "price.ouput", "price.input", "price.output"] {
        assert!(all.contains(&format!("model[0].{field}")), "{field} in {all:?}");
    }
    assert!(
        fields(&ENTRY.replace(r#"price = { input = "1", output = "2" }"#, "price = 3"))
            .contains(&"model[0].price".into())
    );
    let wrong = Catalogue::parse("[[model]]\nname = = 1").unwrap_err().to_string();
    assert!(wrong.contains("is not TOML: line 2, column 8: ") && !wrong.contains('\n'), "{wrong}");
}

#[test]
fn every_violation_is_named_by_its_path() {
    let bad = ENTRY
        .replace("8192", "0")
        .replace("\"NATIVE\"", "\"SOMETIMES\"")
        .replace("\"1\"", "\"-1\"")
        .replace("ALIGNED", "HOLY")
        .replace("2026-01-31", "yesterday")
        .replace("retention_days = 0", "retention = 0")
        .replace("streaming = true", "streaming = 1");
    let all = fields(&format!("{ENTRY}{bad}"));
    for field in [
        "retention",
        "retention_days",
        "context_tokens",
        "max_output_tokens",
        "tool_calling",
        "streaming",
        "price.input",
        "trust_tier",
        "as_of",
        "name",
    ] {
        let path = format!("model[1].{field}");
        assert!(all.contains(&path), "{path} not in {all:?}");
    }
    assert!(all.iter().all(|field| field.starts_with("model[1]")), "{all:?}");
}

#[test]
fn what_is_no_catalogue_is_refused() {
    assert_eq!(fields("nonsense"), [""]);
    assert_eq!(fields("models = []"), ["models"]);
    assert_eq!(fields("model = 3"), ["model"]);
    assert_eq!(fields("model = [3]"), ["model[0]"]);
    assert!(Catalogue::parse("").unwrap().models().is_empty());
    let constrained =
        ENTRY.replace("NATIVE", "CONSTRAINED").replace("structured_output = true", "structured_output = false");
    assert_eq!(fields(&constrained), ["model[0].tool_calling"]);
}
