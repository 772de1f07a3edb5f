//! Builds the golden vectors.

use mar_descriptor::{
    Descriptor, Hash, Outcome, RunSeal, SaltKey, SessionSeal, SigningKey, canonical, chain::Head, domain, run_seal,
    seal, session_seal, sign_statement,
};
use serde_json::{Value, json};

use crate::samples::{full, minimal, tool, unicode};

/// Published on purpose: a key for tests and nothing else.
const SEED: [u8; 32] = *b"published test seed, never trust";

pub fn all() -> Value {
    let key = SigningKey::from_seed(&SEED);
    let mut changed = full();
    changed.halting.max_steps += 1;
    changed.agent.tools.insert(1, tool("builtin.sql", "sql"));
    let descriptors =
        [("minimal", minimal()), ("full", full()), ("full-changed", changed), ("unicode-keys", unicode())];
    json!({
        "description": "Golden vectors of mcp-agent-runtime/descriptor/v1. README.md says how each is computed.",
        "key": {
            "note": "a published test key: never accept it anywhere",
            "seed_hex": hex::encode(SEED),
            "public_hex": hex::encode(key.public_bytes()),
            "public_pem": key.public_pem().unwrap(),
            "key_id": key.key_id(),
        },
        "payload_types": {
            "descriptor": seal::PAYLOAD_TYPE,
            "run_seal": run_seal::PAYLOAD_TYPE,
            "session_seal": session_seal::PAYLOAD_TYPE,
        },
        "descriptors": descriptors.map(|(name, descriptor)| sealed(name, &descriptor, &key)),
        "diffs": [
            { "a": "full", "b": "full", "sections": [] },
            { "a": "full", "b": "full-changed", "sections": ["agent", "halting"] },
            { "a": "minimal", "b": "unicode-keys", "sections": ["metadata"] },
        ],
        "canonical_forms": canonical_forms(),
        "rejected": rejected(),
        "chains": chains(),
        "commitments": commitments(),
        "run_seals": run_seals(&key),
        "session_seals": session_seals(&key),
    })
}

fn sealed(name: &str, descriptor: &Descriptor, key: &SigningKey) -> Value {
    let sealed = mar_descriptor::seal(descriptor, key).unwrap();
    json!({
        "name": name,
        "document": descriptor,
        "canonical": String::from_utf8(sealed.canonical.clone()).unwrap(),
        "hash": sealed.hash,
        "section_hashes": descriptor.section_hashes().unwrap(),
        "signature_hex": hex::encode(&sealed.signatures[0].sig),
        "envelope": sealed.to_envelope().unwrap(),
    })
}

fn canonical_forms() -> Value {
    let cases = [
        (
            "key-order",
            r#"{"\u20ac":"Euro","\r":"CR","\ufb33":"Dalet","1":"One","\ud83d\ude00":"Face","\u0080":"Control","\u00f6":"O"}"#,
        ),
        ("escapes", r#""\u0000\u0008\u0009\u000a\u000b\u000c\u000d\u001F\u007f\/\\\"\u2028é""#),
        ("integers", "[ 0, -1, 9007199254740991, -9007199254740991 ]"),
        ("not-normalised", r#"{"\u00e9":1,"e\u0301":2}"#),
        ("nesting", "{\"b\" : [ { } , [ ] , null , true , false ] ,\n\"a\" : { \"\" : { } } }"),
    ];
    cases
        .map(|(name, text)| {
            let form = canonical::to_canonical(&canonical::parse(text.as_bytes()).unwrap()).unwrap();
            json!({ "name": name, "text": text, "canonical": String::from_utf8(form).unwrap() })
        })
        .into()
}

fn rejected() -> Value {
    let good = String::from_utf8(minimal().canonical().unwrap()).unwrap();
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let steps = |number: &str| with(r#""max_steps":0"#, &format!(r#""max_steps":{number}"#));
    let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let spelled = [
        ("duplicate-key", with(r#""role":"""#, r#""role":"","role":"""#), "DUPLICATE_KEY"),
        ("duplicate-key-escaped", with(r#""role":"""#, r#""role":"","r\u006fle":"""#), "DUPLICATE_KEY"),
        ("integer-2^53", steps("9007199254740992"), "NUMBER"),
        ("integer-minus-2^53", steps("-9007199254740992"), "NUMBER"),
        ("integer-2^64", steps("18446744073709551616"), "NUMBER"),
        ("fraction", steps("0.5"), "NUMBER"),
        ("fraction-of-zero", steps("1.0"), "NUMBER"),
        ("exponent", steps("1e3"), "NUMBER"),
        ("minus-zero", steps("-0"), "NUMBER"),
        ("nan", steps("NaN"), "SYNTAX"),
        ("infinity", steps("Infinity"), "SYNTAX"),
        ("leading-zero", steps("00"), "SYNTAX"),
        ("lone-surrogate", with(r#""role":"""#, r#""role":"\ud800""#), "SYNTAX"),
        ("byte-order-mark", format!("\u{feff}{good}"), "SYNTAX"),
        ("two-documents", format!("{good}{good}"), "SYNTAX"),
        ("nothing", String::new(), "SYNTAX"),
        ("too-deep", deep(65), "DEPTH"),
        ("deep-but-no-descriptor", deep(64), "SHAPE"),
        ("space", with(":", ": "), "NOT_CANONICAL"),
        ("line-end", format!("{good}\n"), "NOT_CANONICAL"),
        ("key-order", with(r#""role":"","tools":[]"#, r#""tools":[],"role":"""#), "NOT_CANONICAL"),
        ("escape", with(r#""HALT""#, r#""H\u0041LT""#), "NOT_CANONICAL"),
        ("unknown-field", with(r#""role":"""#, r#""role":"","sole":"""#), "SHAPE"),
        ("missing-field", with(r#""role":"","#, ""), "SHAPE"),
        ("wrong-type", steps(r#""8""#), "SHAPE"),
        ("hash-in-upper-case", with("sha256:", "SHA256:"), "SHAPE"),
        ("missing-null", with(r#""recipe":null,"#, ""), "NOT_CANONICAL"),
    ];
    let mut cases: Vec<_> = spelled
        .into_iter()
        .map(|(name, text, reason)| json!({ "name": name, "text": text, "reason": reason }))
        .collect();
    cases.extend(invalid());
    cases.into()
}

/// Well-formed documents whose contents break a rule.
fn invalid() -> Vec<Value> {
    let change = |name: &str, fields: &[&str], edit: &dyn Fn(&mut Descriptor)| {
        let mut descriptor = full();
        edit(&mut descriptor);
        let text = String::from_utf8(descriptor.canonical().unwrap()).unwrap();
        json!({ "name": name, "text": text, "reason": "INVALID", "fields": fields })
    };
    vec![
        change("other-schema", &["schema"], &|d| d.schema.push('x')),
        change("negative-limit", &["halting.max_steps"], &|d| d.halting.max_steps = -1),
        change("unknown-on-budget", &["halting.on_budget"], &|d| d.halting.on_budget = "STOP".to_owned()),
        change("unsorted-parameters", &["prompt.parameters"], &|d| d.prompt.parameters.reverse()),
        change("unsorted-tools", &["agent.tools"], &|d| d.agent.tools.reverse()),
        change("doubled-alias", &["agent.tools[1].alias"], &|d| {
            d.agent.tools[1].alias = d.agent.tools[0].alias.clone()
        }),
        change("policy-text-of-another-hash", &["policy.alignment_policy[0].hash"], &|d| {
            d.policy.alignment_policy[0].text.push(' ')
        }),
        change("role-prompt-of-another-hash", &[r#"prompt.roles["summarise"].hash"#], &|d| {
            d.prompt.roles.get_mut("summarise").unwrap().text.push(' ')
        }),
        change("layers-out-of-order", &["policy.alignment_policy"], &|d| d.policy.alignment_policy.reverse()),
    ]
}

fn chains() -> Value {
    let build = |name: &str, genesis: Hash, leaves: &[&[u8]]| {
        let mut head = Head::genesis(genesis);
        let mut events = Vec::new();
        for leaf in leaves {
            head = head.next(leaf);
            events.push(json!({ "seq": head.seq, "leaf_hex": hex::encode(leaf), "hash": head.hash }));
        }
        json!({ "name": name, "genesis": genesis, "events": events, "first_broken": null })
    };
    let whole = build("from-zero", Hash::ZERO, &[b"first", b"", b"\x00\xff third"]);
    let child = build("from-a-parent", Hash::of(domain::EVENT, b"intent"), &[b"first"]);
    let mut changed = whole.clone();
    changed["name"] = "changed-leaf".into();
    changed["events"][1]["leaf_hex"] = "00".into();
    changed["first_broken"] = 1.into();
    let mut missing = whole.clone();
    missing["name"] = "missing-event".into();
    missing["events"].as_array_mut().unwrap().remove(1);
    missing["first_broken"] = 1.into();
    json!([whole, child, changed, missing])
}

fn commitments() -> Value {
    let key = *b"an example of a session salt key";
    let places: [(&str, i64, &str, &[u8]); 3] = [
        ("01890a5d-ac96-774b-bcce-b302099a8057", 7, "result", "Grüße".as_bytes()),
        ("01890a5d-ac96-774b-bcce-b302099a8057", 8, "result", "Grüße".as_bytes()),
        ("", 0, "", b""),
    ];
    places
        .map(|(run, seq, field, payload)| {
            let salt = SaltKey::from_bytes(key).salt(run, seq, field);
            json!({
                "salt_key_hex": hex::encode(key), "run": run, "seq": seq, "field": field, "payload_hex": hex::encode(payload),
                "salt_hex": hex::encode(salt.expose_bytes()), "commitment": salt.commit(payload).to_string(),
            })
        })
        .into()
}

fn run_seals(key: &SigningKey) -> Value {
    let salts = SaltKey::from_bytes([0x5a; 32]);
    let finished = RunSeal {
        descriptor_hash: Some(full().hash().unwrap()),
        input_commitment: salts.salt("run", 0, "input").commit(b"What is a slice?"),
        session_commitment: salts.salt("run", 0, "session").commit(b"history"),
        outcome: Outcome::Succeeded,
        head: Head::genesis(Hash::ZERO).next(b"first").next(b"second"),
    };
    let early = RunSeal {
        descriptor_hash: None,
        outcome: Outcome::Denied,
        head: Head::genesis(Hash::ZERO),
        ..finished.clone()
    };
    [("finished", finished), ("ended-before-an-agent", early)]
        .map(|(name, run_seal)| {
            let canonical = run_seal.canonical().unwrap();
            let statement = sign_statement(run_seal::PAYLOAD_TYPE, &canonical, key);
            json!({
                "name": name, "document": run_seal, "canonical": String::from_utf8(canonical).unwrap(),
                "hash": run_seal.hash().unwrap(), "signature_hex": hex::encode(&statement.signatures[0].sig),
            })
        })
        .into()
}

fn session_seals(key: &SigningKey) -> Value {
    let head = Head::genesis(Hash::ZERO).next(b"started").next(b"ended");
    let runs = [Hash::of(domain::RUN_SEAL, b"first"), Hash::of(domain::RUN_SEAL, b"second")];
    [("two-runs", &runs[..]), ("no-runs", &[])]
        .map(|(name, runs)| {
            let seal = SessionSeal::over("01890a5d-ac96-774b-bcce-b302099a8057".to_owned(), runs, head);
            let canonical = seal.canonical().unwrap();
            let statement = sign_statement(session_seal::PAYLOAD_TYPE, &canonical, key);
            json!({
                "name": name, "run_seals": runs, "document": seal, "canonical": String::from_utf8(canonical).unwrap(),
                "hash": seal.hash().unwrap(), "signature_hex": hex::encode(&statement.signatures[0].sig),
            })
        })
        .into()
}
