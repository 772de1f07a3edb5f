//! The golden vectors in `proto/descriptor/v1/`: every implementation must agree with them, this one and the
//! independent one in `check_vectors.py`.
//!
//! `UPDATE_VECTORS=1 cargo test -p mar-descriptor vectors` writes them anew after a deliberate change of the format.

mod build;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use mar_descriptor::{
    Descriptor, Error, Hash, RunSeal, SaltKey, SealedDescriptor, SessionSeal, Signature, SigningKey, Statement,
    VerifyingKeys, canonical,
    chain::{self, Head, Link},
    domain, run_seal, session_seal, verify,
};
use serde_json::Value;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../proto/descriptor/v1")
}

/// The text of a published file.
pub fn read(name: &str) -> String {
    let path = folder().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn vectors() -> Value {
    serde_json::from_str(&read("vectors.json")).unwrap()
}

fn items<'v>(vectors: &'v Value, name: &str) -> &'v [Value] {
    let items = vectors[name].as_array().unwrap();
    assert!(!items.is_empty(), "{name}");
    items
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not text: {value}"))
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap()
}

fn array(value: &Value) -> [u8; 32] {
    bytes(value).try_into().unwrap()
}

fn hash(value: &Value) -> Hash {
    text(value).parse().unwrap()
}

fn keys(vectors: &Value) -> VerifyingKeys {
    let keys = VerifyingKeys::from_pems([text(&vectors["key"]["public_pem"])]).unwrap();
    assert_eq!(keys.key_ids().collect::<Vec<_>>(), [text(&vectors["key"]["key_id"])]);
    keys
}

fn signatures(vectors: &Value, item: &Value) -> Vec<Signature> {
    vec![Signature { key_id: text(&vectors["key"]["key_id"]).to_owned(), sig: bytes(&item["signature_hex"]) }]
}

#[test]
fn published_vectors_are_the_built_ones() {
    let mut built = build::all();
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        built.sort_all_objects();
        let text = serde_json::to_string_pretty(&built).unwrap() + "\n";
        std::fs::write(folder().join("vectors.json"), text).unwrap();
    }
    let published = vectors();
    for (part, value) in built.as_object().unwrap() {
        assert_eq!(&published[part], value, "{part} in vectors.json differs from what this code computes");
    }
    assert_eq!(published.as_object().unwrap().len(), built.as_object().unwrap().len());
}

#[test]
fn descriptors_match() {
    let vectors = vectors();
    let keys = keys(&vectors);
    for item in items(&vectors, "descriptors") {
        let name = text(&item["name"]);
        let canonical = text(&item["canonical"]).as_bytes();
        assert_eq!(canonical::to_canonical(&item["document"]).unwrap(), canonical, "{name}");
        let descriptor = Descriptor::parse(canonical).unwrap();
        assert_eq!(descriptor.hash().unwrap(), hash(&item["hash"]), "{name}");
        assert_eq!(
            serde_json::to_value(descriptor.section_hashes().unwrap()).unwrap(),
            item["section_hashes"],
            "{name}"
        );
        let sealed = SealedDescriptor {
            hash: hash(&item["hash"]),
            canonical: canonical.to_vec(),
            signatures: signatures(&vectors, item),
        };
        assert_eq!(verify(&sealed, &keys).unwrap().descriptor(), &descriptor, "{name}");
        assert_eq!(SealedDescriptor::from_envelope(text(&item["envelope"])).unwrap(), sealed, "{name}");
    }
}

#[test]
fn the_seed_gives_the_key_and_the_signatures() {
    let vectors = vectors();
    let key = SigningKey::from_seed(&array(&vectors["key"]["seed_hex"]));
    assert_eq!(hex::encode(key.public_bytes()), text(&vectors["key"]["public_hex"]));
    for item in items(&vectors, "descriptors") {
        let descriptor = Descriptor::parse(text(&item["canonical"]).as_bytes()).unwrap();
        assert_eq!(mar_descriptor::seal(&descriptor, &key).unwrap().signatures, signatures(&vectors, item));
    }
}

#[test]
fn canonical_forms_match() {
    for item in items(&vectors(), "canonical_forms") {
        let parsed = canonical::parse(text(&item["text"]).as_bytes()).unwrap();
        assert_eq!(canonical::to_canonical(&parsed).unwrap(), text(&item["canonical"]).as_bytes(), "{}", item["name"]);
    }
}

#[test]
fn diffs_match() {
    let vectors = vectors();
    let find = |name: &Value| {
        let item = items(&vectors, "descriptors").iter().find(|item| &item["name"] == name).unwrap();
        Descriptor::parse(text(&item["canonical"]).as_bytes()).unwrap()
    };
    for item in items(&vectors, "diffs") {
        let sections = Descriptor::diff(&find(&item["a"]), &find(&item["b"])).unwrap();
        assert_eq!(serde_json::to_value(sections).unwrap(), item["sections"]);
    }
}

#[test]
fn refusals_match() {
    for item in items(&vectors(), "rejected") {
        let document = text(&item["text"]).as_bytes();
        let refusal = Descriptor::parse(document).and_then(|descriptor| descriptor.validate().map_err(Error::Invalid));
        let reason = match refusal {
            Err(Error::Canonical(error)) => error.reason(),
            Err(Error::Shape(_)) => "SHAPE",
            Err(Error::Invalid(violations)) => {
                let fields: Vec<_> = violations.0.into_iter().map(|violation| violation.field).collect();
                assert_eq!(serde_json::to_value(fields).unwrap(), item["fields"], "{}", item["name"]);
                "INVALID"
            }
            other => panic!("{}: {other:?}", item["name"]),
        };
        assert_eq!(reason, text(&item["reason"]), "{}", item["name"]);
    }
}

#[test]
fn chains_match() {
    for item in items(&vectors(), "chains") {
        let leaves: Vec<_> = items(item, "events").iter().map(|event| bytes(&event["leaf_hex"])).collect();
        let links = leaves.iter().zip(items(item, "events"));
        let links =
            links.map(|(leaf, event)| Link { seq: event["seq"].as_i64().unwrap(), leaf, hash: hash(&event["hash"]) });
        let verified = chain::verify(Head::genesis(hash(&item["genesis"])), links);
        assert_eq!(verified.err().map(|broken| broken.seq()), item["first_broken"].as_i64(), "{}", item["name"]);
    }
}

#[test]
fn commitments_match() {
    for item in items(&vectors(), "commitments") {
        let salt = SaltKey::from_bytes(array(&item["salt_key_hex"])).salt(
            text(&item["run"]),
            item["seq"].as_i64().unwrap(),
            text(&item["field"]),
        );
        assert_eq!(hex::encode(salt.expose_bytes()), text(&item["salt_hex"]));
        let commitment = text(&item["commitment"]).parse().unwrap();
        assert!(salt.opens(&commitment, &bytes(&item["payload_hex"])));
    }
}

#[test]
fn run_seals_match() {
    let vectors = vectors();
    let keys = keys(&vectors);
    for item in items(&vectors, "run_seals") {
        let payload = text(&item["canonical"]).as_bytes().to_vec();
        assert_eq!(Hash::of(domain::RUN_SEAL, &payload), hash(&item["hash"]));
        let statement = Statement {
            payload_type: run_seal::PAYLOAD_TYPE.to_owned(),
            payload,
            signatures: signatures(&vectors, item),
        };
        assert_eq!(RunSeal::verify(&statement, &keys).unwrap().hash().unwrap(), hash(&item["hash"]));
    }
}

#[test]
fn session_seals_match() {
    let vectors = vectors();
    let keys = keys(&vectors);
    for item in items(&vectors, "session_seals") {
        let payload = text(&item["canonical"]).as_bytes().to_vec();
        let statement = Statement {
            payload_type: session_seal::PAYLOAD_TYPE.to_owned(),
            payload,
            signatures: signatures(&vectors, item),
        };
        let seal = SessionSeal::verify(&statement, &keys).unwrap();
        assert_eq!(seal.hash().unwrap(), hash(&item["hash"]));
        let runs: Vec<Hash> = item["run_seals"].as_array().unwrap().iter().map(hash).collect();
        assert_eq!(SessionSeal::over(seal.session.clone(), &runs, seal.head), seal);
    }
}

/// Another implementation, in another language and without a shared line, agrees with every vector and with the schema.
#[test]
fn an_independent_implementation_agrees() {
    let python = Command::new("python3").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !python.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no python3 to run check_vectors.py with");
        return;
    }
    let output = Command::new("python3").arg("-I").arg(folder().join("check_vectors.py")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("agree"), "{said}");
}
