use std::net::SocketAddr;

use serde::Deserialize;

use super::*;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fake {
    listen: SocketAddr,
    store: Store,
    steps: u32,
    rules: Vec<Rule>,
    parts: Vec<Part>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    kind: Shape,
    #[serde(default = "one")]
    size: u8,
    count: u8,
    #[serde(default)]
    min: u8,
    max: Option<u8>,
    nested: Rule,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Round,
    Flat,
}

fn one() -> u8 {
    1
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Store {
    url: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    name: String,
    #[serde(default)]
    weight: u8,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 0).into(),
            store: Store::default(),
            steps: 10,
            rules: Vec::new(),
            parts: Vec::new(),
        }
    }
}

impl Validate for Fake {
    fn validate(&self, violations: &mut Violations) {
        violations.require(self.steps > 0, "steps", "must not be 0");
        for (at, part) in self.parts.iter().enumerate() {
            violations.item("parts", at, |found| {
                found.require(part.size > 0, "size", "must not be 0");
                found.require(part.count > 9, "count", "must be at least 10");
                found.require(part.nested.name.len() > 9, "nested.name", "must be long");
                found.require(part.kind == Shape::Flat || part.min == 0, "min", "belongs to flat ones");
                found.require(part.kind == Shape::Round || part.max.is_none(), "max", "belongs to round ones");
            });
        }
    }
}

impl ServiceConfig for Fake {
    const SERVICE: ServiceName = ServiceName::Session;

    fn listen(&self) -> SocketAddr {
        self.listen
    }
}

fn read(toml: &str, env: &[(&str, &str)], set: &[&str]) -> Result<Loaded<Fake>, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mar.toml");
    std::fs::write(&path, toml).unwrap();
    let sources = Sources {
        file: Some(path),
        env: env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        set: set.iter().map(|set| (*set).into()).collect(),
    };
    load(&sources).map_err(|error| error.lines())
}

fn problems(toml: &str) -> Vec<String> {
    read(toml, &[], &[]).unwrap_err()
}

#[test]
fn later_sources_win() {
    let toml = "[session]\nsteps = 1\nstore.url = \"file\"\n[router]\nother = 1\n";
    let loaded = read(toml, &[("MAR_SESSION__STORE__URL", "env"), ("MAR_SESSION__STEPS", "2")], &[]).unwrap();
    assert_eq!((loaded.service.steps, loaded.service.store.url.as_str()), (2, "env"));
    let env = [("MAR_SESSION__STEPS", "2"), ("MAR_MODEL", "small"), ("OTHER__KEY", "x")];
    let loaded = read(toml, &env, &["session.steps=3", "runtime.limits.drain=5s"]).unwrap();
    assert_eq!((loaded.service.steps, loaded.service.store.url.as_str()), (3, "file"));
    assert_eq!(loaded.runtime.limits.drain, std::time::Duration::from_secs(5));
}

#[test]
fn every_problem_is_named_by_its_path_at_once() {
    let toml = r#"
        [session]
        step = 5
        steps = "many"
        store.ulr = "x"
        [[session.rules]]
        name = "a"
        wieght = 1
        [runtime.limits]
        drian = "5s"
        max_message = "9 furlongs"
        default_deadline = "0s"
        [runtime.auth]
        mode = "none"
        [sesion]
        x = 1
    "#;
    let found = problems(toml);
    for expected in [
        "sesion: is not a table",
        "session.step: is not a known key; did you mean steps?",
        "session.steps: ",
        "session.store.ulr: is not a known key; did you mean url?",
        "session.rules.0.wieght: is not a known key",
        "runtime.limits.drian: is not a known key; did you mean drain?",
        "runtime.limits.max_message: ",
        "runtime.limits.default_deadline: must not be 0",
        "runtime.auth.mode: ",
    ] {
        assert!(found.iter().any(|line| line.starts_with(expected)), "{expected} in {found:#?}");
    }
    assert_eq!(found.len(), 9, "{found:#?}");
}

#[test]
fn a_key_that_cannot_be_read_is_told_once_and_hides_nothing() {
    let toml = r#"
        [session]
        steps = 0
        [[session.rules]]
        name = 1
        [[session.rules]]
        name = "fine"
        [[session.rules]]
        weight = 1
        [[session.rules]]
        name = "b"
        wieght = 1
        [runtime.auth]
        mode = "nope"
        api_keys = [{ id = "a" }, { id = 2, sha256 = "", tenant = "t", principal = "p", environment = "prod" }]
    "#;
    let found = problems(toml);
    let expected = [
        "session.rules.0.name: invalid type: found signed int `1`, expected a string",
        "session.rules.2.name: is missing",
        "session.rules.3.wieght: is not a known key; did you mean weight?",
        "runtime.auth.api_keys.0.sha256: is missing",
        "runtime.auth.api_keys.0.tenant: is missing",
        "runtime.auth.api_keys.0.principal: is missing",
        "runtime.auth.api_keys.0.environment: is missing",
        "runtime.auth.api_keys.1.id: invalid type: found signed int `2`, expected a string",
        "runtime.auth.mode: unknown variant: found `nope`, expected `dev` or `api_keys`",
        "session.steps: must not be 0",
        "runtime.auth.api_keys[1].sha256: must be 64 hexadecimal digits: the SHA-256 of the whole key",
    ];
    assert_eq!(found, expected);
}

#[test]
fn all_that_a_table_lacks_is_told_and_the_rest_of_it_is_judged() {
    let toml = r#"
        [[session.parts]]
        size = 0
        max = 0
        [[session.parts]]
        kind = "round"
        min = 2
        size = 0
        [[session.parts]]
        kind = "rund"
        count = "many"
    "#;
    let expected = [
        "session.parts.0.kind: is missing",
        "session.parts.0.count: is missing",
        "session.parts.0.nested: is missing",
        "session.parts.1.count: is missing",
        "session.parts.1.nested: is missing",
        "session.parts.2.count: invalid type: found string \"many\", expected u8",
        "session.parts.2.kind: unknown variant: found `rund`, expected `round` or `flat`",
        "session.parts.2.nested: is missing",
        // Each kind needs a size; that a flat one has no maximum is for the flat one only.
        "session.parts[0].size: must not be 0",
        "session.parts[1].size: must not be 0",
        "session.parts[1].min: belongs to flat ones",
    ];
    let mut found = problems(toml);
    let mut expected = expected.map(str::to_owned).to_vec();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_table_of_its_own_is_told_whole() {
    let told =
        |text: &str| from_toml::<Part>(&text.parse::<toml::Table>().unwrap().into()).map_err(|found| found.to_string());
    assert_eq!(told("kind = 'flat'\nsize = 3\ncount = 2\nnested = { name = 'a' }").unwrap().size, 3);
    assert_eq!(
        told("kind = 'flat'\nnested = {}\nsze = 1").unwrap_err(),
        "nested.name: is missing; sze: is not a known key; did you mean size?; count: is missing"
    );
    assert!(from_toml::<Part>(&toml::Value::from(3)).unwrap_err().to_string().contains("invalid type"));
}

#[test]
fn no_rule_is_held_against_what_was_taken_out() {
    // The mode is not told to be another one, nor the list of keys to be empty.
    let open = "[session]\nlisten = \"0.0.0.0:7443\"\n[runtime.auth]\n";
    assert_eq!(problems(&format!("{open}mode = \"nope\"")).len(), 1);
    let found = problems(&format!("{open}mode = \"api_keys\"\napi_keys = [5]"));
    assert!(found.len() == 1 && found[0].starts_with("runtime.auth.api_keys.0: "), "{found:#?}");
}

#[test]
fn a_misspelt_variable_is_said() {
    let env =
        [("MAR_SESION__STEPS", "2"), ("MAR_SESSION__STEP", "2"), ("MAR_SESSION_STORE__URL", "x"), ("MAR_MODEL", "x")];
    let found = read("", &env, &[]).unwrap_err();
    for expected in ["MAR_SESION__STEPS: ", "session.step: is not a known key", "MAR_SESSION_STORE__URL: "] {
        assert!(found.iter().any(|line| line.starts_with(expected)), "{expected} in {found:#?}");
    }
    assert_eq!(found.len(), 3, "{found:#?}");
}

#[test]
fn validation_goes_on_after_a_typo() {
    assert_eq!(problems("[session]\nsteps = 0\nstore.ulr = \"x\"").len(), 2);
    assert!(problems("[[session.rules]]\nweight = 1").iter().any(|line| line == "session.rules.0.name: is missing"));
    assert_eq!(problems("[session]\nsteps = 300\nrules = [{ name = \"a\", weight = 256 }]").len(), 1);
}

#[test]
fn what_cannot_be_read_is_said() {
    let told = problems("[session]\nsteps = = 1");
    assert!(told.len() == 1 && told[0].contains("mar.toml: line 2, column 9: ") && !told[0].contains('\n'), "{told:?}");
    let twice = problems("[session]\nsteps = 1\nsteps = 1");
    assert!(twice[0].contains(": line 3, column 1: duplicate key"), "{twice:?}");
    let missing = Sources { file: Some("/no/such/file.toml".into()), ..Sources::default() };
    assert!(load::<Fake>(&missing).unwrap_err().lines()[0].starts_with("/no/such/file.toml: "));
    for set in ["steps=1", "session.steps", "=1", ".=1"] {
        let sources = Sources { set: vec![set.into()], ..Sources::default() };
        assert!(load::<Fake>(&sources).is_err(), "{set}");
    }
}

#[test]
fn beyond_loopback_needs_authentication() {
    let open = "[session]\nlisten = \"0.0.0.0:7443\"\n";
    assert!(problems(open)[0].starts_with("runtime.auth.mode: must be \"api_keys\" because session.listen"));
    let keyless = format!("{open}[runtime.auth]\nmode = \"api_keys\"");
    assert!(problems(&keyless)[0].starts_with("runtime.auth.api_keys: "));
    let key = format!(
        "{keyless}\napi_keys = [{{ id = \"a\", sha256 = \"{}\", tenant = \"t\", principal = \"p\", environment = \"prod\" }}]",
        "0".repeat(64)
    );
    assert!(read(&key, &[], &[]).is_ok());
}

#[test]
fn the_dump_is_read_back_and_holds_no_password() {
    let loaded = read("[session]\nstore.url = \"postgres://ada:s3cret@h/db?x=1\"", &[], &[]).unwrap();
    let text = dump(&loaded).unwrap();
    assert!(text.contains("postgres://ada:***@h/db?x=1") && !text.contains("s3cret"), "{text}");
    let again = read(&text, &[], &[]).unwrap();
    assert_eq!(again.runtime, loaded.runtime);
}
