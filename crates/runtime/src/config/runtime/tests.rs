//! The table in this crate's README against the keys, defaults and bounds of the code.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::auth::config::ApiKeyConfig;
use crate::tls::ClientCertificates;

const README: &str = include_str!("../../../README.md");

struct Row {
    default: String,
    must: String,
}

fn rows() -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for line in README.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", key, default, must, meaning, ""] = cells[..] else { panic!("four cells: {line}") };
        assert!(!meaning.is_empty(), "{line}");
        let row = Row { default: default.replace('`', ""), must: must.replace('`', "") };
        assert!(rows.insert(key.replace('`', ""), row).is_none(), "{key} is there twice");
    }
    rows
}

/// Every key with its value.
fn leaves(at: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(if at.is_empty() { name.clone() } else { format!("{at}.{name}") }.as_str(), value, into);
            }
        }
        other => {
            into.insert(at.to_owned(), other.clone());
        }
    }
}

fn key() -> ApiKeyConfig {
    ApiKeyConfig {
        id: String::new(),
        sha256: String::new(),
        tenant: String::new(),
        principal: String::new(),
        groups: Vec::new(),
        scopes: Vec::new(),
        environment: String::new(),
        not_after: Some(time::OffsetDateTime::UNIX_EPOCH),
    }
}

#[test]
fn the_readme_has_every_key_with_its_default() {
    let (mut keys, mut of_a_key) = (BTreeMap::new(), BTreeMap::new());
    leaves("", &serde_json::to_value(RuntimeConfig::default()).unwrap(), &mut keys);
    leaves("auth.api_keys[]", &serde_json::to_value(key()).unwrap(), &mut of_a_key);
    let rows = rows();
    let told: Vec<_> = rows.keys().collect();
    let mut known: Vec<_> = keys.keys().chain(of_a_key.keys()).collect();
    known.sort();
    assert_eq!(told, known);
    for (key, value) in &keys {
        let default = match value {
            Value::Null => "none".to_owned(),
            Value::Array(items) if items.is_empty() => "none".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        assert_eq!(rows[key].default, default, "{key}");
    }
    // What a key has to have is what it cannot be read without.
    for name in of_a_key.keys() {
        let (_, name) = name.rsplit_once('.').unwrap();
        let Value::Object(mut fields) = serde_json::to_value(key()).unwrap() else { unreachable!() };
        fields.remove(name);
        let needed = serde_json::from_value::<ApiKeyConfig>(Value::Object(fields)).is_err();
        let default = if needed { "required" } else { "none" };
        assert_eq!(rows[&format!("auth.api_keys[].{name}")].default, default, "{name}");
    }
}

#[test]
fn the_readme_has_the_bounds_of_the_code() {
    let nowhere = || Some("nowhere".to_owned());
    let wrong = RuntimeConfig {
        auth: AuthConfig { api_keys: vec![key()], ..AuthConfig::default() },
        tls: TlsConfig {
            key_file: Some("/none".into()),
            client_certificates: ClientCertificates::Required,
            ..TlsConfig::default()
        },
        run_tokens: RunTokensConfig { verification_key_files: vec!["/none".into(); 3] },
        telemetry: TelemetryConfig { otlp_endpoint: nowhere(), ..TelemetryConfig::default() },
        limits: LimitsConfig {
            max_message: ByteSize(1),
            max_prompt: ByteSize::mib(1025),
            default_deadline: Duration::ZERO,
            drain: Duration::from_secs(3_601),
        },
        peers: PeersConfig {
            session: nowhere(),
            router: nowhere(),
            agent_generator: nowhere(),
            tool_gateway: nowhere(),
        },
    };
    let (rows, mut found) = (rows(), Violations::new());
    wrong.validate(&mut found);
    let mut checked = 0;
    for one in found.iter() {
        // Of the files it is told one by one why they cannot be read.
        let Some(must) = one.description.strip_prefix("must ") else { continue };
        let row = &rows[&one.field.replace("[0]", "[]")];
        assert!(
            row.must.split("; ").any(|told| told == must),
            "{}: {must}, and the README says: {}",
            one.field,
            row.must
        );
        checked += 1;
    }
    assert_eq!(checked, 17, "{found}");
}
