use super::*;

fn refusal(text: &str) -> String {
    Script::parse(text).expect_err("refused").to_string()
}

#[test]
fn a_minimal_script_is_taken() {
    let script = Script::parse("[[rule]]\nreply = { text = \"hi\" }").unwrap();
    assert_eq!(script.rules[0].name, "rule 1");
    assert_eq!(script.models(), ["rehearsal"]);
}

#[test]
fn defaults_give_the_pace() {
    let text = "[defaults]\nchunk_size = 3\ndelay = \"5ms\"\n[[rule]]\nreply = { text = \"a\" }\n[[rule]]\nreply = { text = \"a\", chunk_size = 9 }";
    let script = Script::parse(text).unwrap();
    assert_eq!(script.rules[0].reply.chunk_size, Some(3));
    assert_eq!(script.rules[0].reply.delay, Some(Duration::from_millis(5)));
    assert_eq!(script.rules[1].reply.chunk_size, Some(9));
}

#[test]
fn an_unknown_key_is_refused_with_rule_and_path() {
    let said = refusal(
        "[[rule]]\nreply = { text = \"a\" }\n[[rule]]\nname = \"b\"\nmatch = { lst_role = \"tool\" }\nreply = { echo = true }",
    );
    assert!(
        said.starts_with("rule 2 `b` (rule[1].match.lst_role): is not a known key; did you mean last_role?"),
        "{said}"
    );
    let said = refusal("modles = []\n[[rule]]\nreply = { echo = true }");
    assert!(said.starts_with("script (modles): is not a known key; did you mean models?"), "{said}");
}

#[test]
fn wrong_values_are_refused_with_their_path() {
    for (rule, expected) in [
        ("match = { regex = \"(\" }\nreply = { echo = true }", "rule 1 (rule[0].match.regex)"),
        ("reply = { delay = \"1ms\" }", "rule 1 (rule[0].reply): exactly one content"),
        ("reply = { text = \"a\", echo = true }", "given: text or tool_calls, echo"),
        ("reply = { error = { status = 200 } }", "rule 1 (rule[0].reply.error.status)"),
        ("reply = { text = \"a\", delay = \"soon\" }", "rule 1 (rule[0].reply.delay)"),
        ("reply = { text = \"a\", chunk_size = 0 }", "rule 1 (rule[0].reply.chunk_size)"),
        ("reply = { garbage_hex = \"f\" }", "rule 1 (rule[0].reply.garbage_hex)"),
        ("times = 0\nreply = { echo = true }", "rule 1 (rule[0].times)"),
        ("times = -1\nreply = { echo = true }", "rule 1 (rule[0].times)"),
        ("reply = { from_tool_result = \"{{nope}}\" }", "unknown placeholder `nope`"),
        ("reply = { json = { a = [\"{{nope}}\"] } }", "rule 1 (rule[0].reply.json.a[0])"),
        ("match = { last_role = \"robot\" }\nreply = { echo = true }", "rule 1 (rule[0].match.last_role)"),
        ("reply = \"hello\"", "rule 1 (rule[0].reply)"),
        ("times = 1", "rule 1 (rule[0].reply): is missing"),
    ] {
        let said = refusal(&format!("[[rule]]\n{rule}"));
        assert!(said.contains(expected), "{rule}: {said}");
    }
    assert!(refusal("models = []").contains("at least one [[rule]]"));
    assert!(refusal("rule = 3").contains("must be a list"));
    assert!(refusal("[[rule]").starts_with("the script is not TOML"));
    let twice = "[[rule]]\nname = \"a\"\nreply = { echo = true }\n";
    assert!(refusal(&twice.repeat(2)).contains("two rules are named `a`"));
}

#[test]
fn every_mistake_of_a_script_is_told_at_once() {
    let text = r#"
        modles = []
        [[rule]]
        name = "a"
        times = 0
        match = { regex = "(" }
        reply = { garbage_hex = "f", chunk_size = 0 }
        [[rule]]
        name = "a"
        reply = { tool_calls = [{ name = "", arguments = { x = "{{nope}}", y = "{{none}}" } }] }
        [[rule]]
        reply = { text = 1 }
        [[rule]]
        replly = { text = "x" }
    "#;
    let Err(ScriptError::Invalid(mistakes)) = Script::parse(text) else { panic!("refused") };
    let places: Vec<_> = mistakes.iter().map(|one| one.place.as_str()).collect();
    let expected = [
        "script (modles)",
        "rule 1 `a` (rule[0].reply.garbage_hex)",
        "rule 1 `a` (rule[0].reply.chunk_size)",
        "rule 1 `a` (rule[0].times)",
        "rule 1 `a` (rule[0].match.regex)",
        "rule 2 `a` (rule[1].reply.tool_calls[0].name)",
        "rule 2 `a` (rule[1].reply.tool_calls[0].arguments.x)",
        "rule 2 `a` (rule[1].reply.tool_calls[0].arguments.y)",
        "rule 3 (rule[2].reply.text)",
        "rule 4 (rule[3].replly)",
        "rule 4 (rule[3].reply)",
        "script (rule)",
    ];
    assert_eq!(places, expected);
}

#[test]
fn all_that_a_rule_lacks_is_told() {
    let said = refusal(
        "[[rule]]\nreply = { tool_calls = [{ id = 1 }, { arguments = 3 }], error = { body = 1 }, txt = 1 }\ntimes = 'x'",
    );
    for key in [
        "reply.tool_calls[0].id): invalid type",
        "reply.tool_calls[0].name): is missing",
        "reply.tool_calls[1].name): is missing",
        "reply.error.status): is missing",
        "reply.txt): is not a known key; did you mean text?",
        "times): invalid type",
    ] {
        assert!(said.contains(&format!("rule 1 (rule[0].{key}")), "{key} in {said}");
    }
}

#[test]
fn a_fault_of_the_syntax_is_told_on_one_line_with_its_place() {
    for (text, expected) in [
        ("[[rule]]\nmatch = { regex = '(' }\nreply = { echo = true }", "is no regex: line 1, column 1: unclosed group"),
        (
            "[[rule]]\nmatch = { regex = 'a\\p{x}' }\nreply = { echo = true }",
            "is no regex: line 1, column 2: Unicode property not found",
        ),
        ("[[rule]]\nmatch = { regex = 'a{1000}{1000}{1000}' }\nreply = { echo = true }", "size limit"),
        ("models = []\n[[rule]]\nreply = { echo = = true }", "the script is not TOML: line 3, column 18: "),
    ] {
        let said = refusal(text);
        assert!(said.contains(expected) && !said.contains('\n'), "{expected} in {said}");
    }
}
