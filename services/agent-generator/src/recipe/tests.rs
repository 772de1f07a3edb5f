use super::*;

const FRONT: &str = r#"
name = "test"
version = 1
role = "tests"
task_types = ["test"]
[tools]
search = "docs.search"
[parameters.n]
description = "A number"
default = "1"
[sampling]
max_output_tokens = 64
[budget]
prompt_bytes = 100
"#;

fn sources(system: &'static str, task: &'static str) -> Sources<'static> {
    Sources { front: FRONT, system, task, output_schema: None }
}

fn lines(errors: &[Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn refused(system: &'static str, task: &'static str) -> String {
    lines(&Recipe::parse("test", &sources(system, task)).unwrap_err())
}

#[test]
fn a_refused_template_is_named_with_its_line() {
    assert_eq!(refused("one\ntwo {{ nobody }}", "{{ input }}"), "recipe test: system.jinja line 2: undefined value");
    assert!(refused("a\n\n{% if %}", "{{ input }}").contains("system.jinja line 3: syntax error"));
    assert!(refused("{{ input }}", "{{ input }}").contains("system.jinja line 1"));
    assert!(refused("s", "no place for it").contains("exactly once"));
    assert!(refused("s", "{{ input }}{{ input }}").contains("exactly once"));
    assert!(refused("s", "{{ input|upper }}").contains("exactly once"));
    assert!(
        refused("{% for i in range(9999) %}{% for j in range(9999) %}{{ j }}{% endfor %}{% endfor %}", "{{ input }}")
            .contains("too much work")
    );
    assert!(
        refused("{% for i in range(9999) %}a line of some forty characters or thereabouts{% endfor %}", "{{ input }}")
            .contains("bytes")
    );
    assert!(refused("{% include 'other' %}", "{{ input }}").contains("system.jinja line 1"));
}

#[test]
fn a_refused_front_is_named() {
    for (from, to, what) in [
        ("version = 1", "version = 0", "version"),
        ("name = \"test\"", "name = \"other\"", "like its folder"),
        ("docs.search", "docs.*", "upstream.tool"),
        ("max_output_tokens = 64", "max_output_tokens = 64\ntemperature = \"2.5\"", "temperature"),
        (
            "prompt_bytes = 100",
            "prompt_bytes = 100\n[[examples]]\nname='x'\nquestion='q'\nanswer='a'\n[[examples.calls]]\ntool='other'\narguments={}",
            "not in [tools]",
        ),
        (
            "prompt_bytes = 100",
            "prompt_bytes = 100\n[[examples]]\nname='x'\nquestion='q'\nanswer={a=1}",
            "not of the output format",
        ),
    ] {
        let front = FRONT.replacen(from, to, 1);
        let error = Recipe::parse("test", &Sources { front: &front, ..sources("s", "{{ input }}") }).unwrap_err();
        assert!(error.len() == 1 && lines(&error).contains(what), "{what}: {error:?}");
    }
}

#[test]
fn everything_that_is_wrong_with_a_recipe_is_told_at_once() {
    let front = FRONT
        .replace("name = \"test\"", "name = \"other\"")
        .replace("version = 1", "version = 0")
        .replace("max_output_tokens = 64", "max_output_tokens = 1")
        + "[[examples]]\nname='x'\nquestion='q'\nanswer={a=1}\n[[examples.calls]]\ntool='none'\narguments={}\n";
    let sources = Sources { front: &front, ..sources("one\n{% if %}", "two\n\n{{ nobody }}") };
    let expected = [
        "recipe test: recipe.toml: name must be `test`, like its folder",
        "recipe test: recipe.toml: version must be at least 1",
        "recipe test: recipe.toml: sampling.max_output_tokens must be within 16 and 1000000",
        "recipe test: system.jinja line 2: syntax error: unexpected end of block",
        "recipe test: recipe.toml: example x: the answer is not of the output format",
        "recipe test: recipe.toml: example x: none is not in [tools]",
        "recipe test: task.jinja line 3: undefined value",
    ];
    let errors = Recipe::parse("test", &sources).unwrap_err();
    assert_eq!(lines(&errors).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_no_toml_is_told_on_one_line_and_hides_nothing() {
    let broken = |front: &str| {
        let sources = Sources { front, output_schema: Some("{"), ..sources("{% if %}", "{% for %}") };
        Recipe::parse("test", &sources).unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let told = broken(&FRONT.replace("prompt_bytes = 100", "prompt_bytes = = 100"));
    assert!(told[0].starts_with("recipe test: recipe.toml line 14, column 16: "), "{told:?}");
    let files = ["recipe.toml", "output.schema.json", "system.jinja", "task.jinja"];
    assert_eq!(told.len(), files.len(), "{told:?}");
    for (line, file) in told.iter().zip(files) {
        assert!(line.contains(file) && !line.contains('\n'), "{line}");
    }
}

#[test]
fn all_that_a_recipe_lacks_is_told() {
    let front = "name = 'test'\nroel = 'x'\ntask_types = 7\n[parameters.n]\n[sampling]\n[[examples]]\nname = 'x'\n";
    let told = Recipe::parse("test", &Sources { front, ..sources("s", "{{ input }}") }).unwrap_err();
    let told = lines(&told);
    for key in [
        "roel: is not a known key; did you mean role?",
        "task_types: invalid type",
        "version: is missing",
        "role: is missing",
        "parameters.n.description: is missing",
        "sampling.max_output_tokens: is missing",
        "budget: is missing",
        "examples.0.question: is missing",
        "examples.0.answer: is missing",
    ] {
        assert!(told.contains(&format!("recipe test: recipe.toml: {key}")), "{key} in {told}");
    }
}

#[test]
fn the_input_is_a_place_and_parameters_are_values() {
    let recipe = Recipe::parse("test", &sources("s", "n is {{ parameters.n }}\n{{ input }}\nend\n")).unwrap();
    let given = BTreeMap::from([("n".to_owned(), "{{ 1 + 1 }} \u{E000}input\u{E001}".to_owned())]);
    let frame = recipe.templates().task(&recipe.parameter_values(&given)).unwrap();
    assert_eq!(frame.before, "n is {{ 1 + 1 }} \u{E000}input\u{E001}\n");
    assert_eq!(frame.after, "\nend");
}

#[test]
fn fuel_bounds_what_a_parameter_can_cost() {
    let task = "{% for i in range(parameters.n|int) %}{% for j in range(parameters.n|int) %}{% endfor %}{% endfor %}{{ input }}";
    let recipe = Recipe::parse("test", &sources("s", task)).unwrap();
    let given = BTreeMap::from([("n".to_owned(), "5000".to_owned())]);
    let error = recipe.templates().task(&recipe.parameter_values(&given)).unwrap_err();
    assert_eq!((error.recipe.as_str(), error.template, error.line), ("test", "task.jinja", 1));
    assert!(error.what.contains("too much work"));
}

#[test]
fn the_hash_covers_what_shapes_a_prompt() {
    let hash = |front: &str, system, task| {
        Recipe::parse("test", &Sources { front, system, task, output_schema: None }).unwrap().hash()
    };
    let base = hash(FRONT, "s", "{{ input }}");
    assert_eq!(base, hash(FRONT, "s", "{{ input }}"));
    assert_ne!(base, hash(FRONT, "t", "{{ input }}"));
    assert_ne!(base, hash(FRONT, "s", "{{ input }} "));
    assert_ne!(base, hash(&FRONT.replace("version = 1", "version = 2"), "s", "{{ input }}"));
    assert_ne!(base, hash(&FRONT.replace("default = \"1\"", "default = \"2\""), "s", "{{ input }}"));
}

#[test]
fn the_embedded_recipes_are_whole() {
    let catalogue = Catalogue::embedded().unwrap();
    let pick = catalogue.pick(None, "answer").unwrap();
    assert_eq!(pick.recipe().resource(), "recipes/answer-with-sources/versions/1");
    assert!(pick.recipe().output_schema().unwrap().carries_citations());
    assert!(pick.recipe().examples().iter().any(|one| one.calls.iter().any(|call| call.passages.is_empty())));
    assert!(matches!(catalogue.pick(None, "chat"), Some(Pick::Plain(_))));
    assert!(catalogue.pick(Some("plain"), "chat").is_none());
    assert!(catalogue.pick(Some("nobody"), "answer").is_none());
}

#[test]
fn a_folder_adds_and_replaces() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, file: &str, text: &str| {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join(file), text).unwrap();
    };
    write("test", "recipe.toml", FRONT);
    write("test", "system.jinja", "s");
    let load = || Catalogue::embedded().unwrap().with_folder(folder.path());
    assert!(lines(&load().unwrap_err()).contains("recipe test: task.jinja"));
    write("test", "task.jinja", "{{ input }}");
    assert_eq!(load().unwrap().names().collect::<Vec<_>>(), ["answer-with-sources", "test"]);
    write("again", "recipe.toml", &FRONT.replace("name = \"test\"", "name = \"again\""));
    write("again", "system.jinja", "s");
    write("again", "task.jinja", "{{ input }}");
    assert!(lines(&load().unwrap_err()).contains("belongs to"));
    write("again", "task.jinja", "{{ nobody }}");
    write("third", "recipe.toml", "");
    let refused = lines(&load().unwrap_err());
    let told: Vec<_> = refused.lines().collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].starts_with("recipe again: task.jinja line 1"), "{told:?}");
    assert!(told[1].starts_with("recipe third: system.jinja: "), "{told:?}");
    assert!(told[2].starts_with("recipe third: task.jinja: "), "{told:?}");
    assert!(Catalogue::embedded().unwrap().with_folder(&folder.path().join("none")).is_err());
}
