//! What a reply may not be, beyond what its types say.

use regex::Regex;
use serde_json::Value;

use super::super::template;
use super::Reply;

/// What the types cannot refuse: each key below `reply`, and why.
pub(super) fn reply(reply: &Reply) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    let contents = contents(reply);
    if contents.len() != 1 {
        let given = if contents.is_empty() { "none".to_owned() } else { contents.join(", ") };
        let known = "text and tool_calls, json, echo, from_tool_result, from_schema, agent, error, hang, garbage";
        wrong.push((String::new(), format!("exactly one content is needed of {known}; given: {given}")));
    }
    let status = reply.error.as_ref().is_none_or(|error| (400..=599).contains(&error.status));
    let hex = reply.garbage_hex.as_deref().is_none_or(|hex| decode_hex(hex).is_some());
    let rules = [
        (status, ".error.status", "must be 400 to 599"),
        (reply.garbage.is_none() || reply.garbage_hex.is_none(), ".garbage_hex", "excludes garbage"),
        (hex, ".garbage_hex", "must be pairs of hexadecimal digits, spaces allowed"),
        (reply.chunk_size != Some(0), ".chunk_size", "must be 1 or more characters"),
        (reply.cut_after.is_none() || reply.hang_after.is_none(), ".hang_after", "excludes cut_after"),
        (!reply.no_usage || reply.usage.is_none(), ".no_usage", "excludes usage"),
    ];
    let broken = rules.into_iter().filter(|(holds, ..)| !holds);
    wrong.extend(broken.map(|(_, key, reason)| (key.to_owned(), reason.to_owned())));
    placeholders(reply, &mut wrong);
    wrong
}

/// A regex, or why it is none and where, on one line: the regex library draws.
pub(super) fn regex(pattern: &str) -> Result<Regex, String> {
    let placed = |kind: &dyn std::fmt::Display, at: regex_syntax::ast::Position| {
        format!("is no regex: line {}, column {}: {kind}", at.line, at.column)
    };
    Regex::new(pattern).map_err(|error| match regex_syntax::parse(pattern) {
        Err(regex_syntax::Error::Parse(fault)) => placed(fault.kind(), fault.span().start),
        Err(regex_syntax::Error::Translate(fault)) => placed(fault.kind(), fault.span().start),
        _ => error.to_string(),
    })
}

/// `tool_calls.0.name` as `tool_calls[0].name`.
pub(super) fn indexed(path: &str) -> String {
    let part = |part: &str| if part.parse::<usize>().is_ok() { format!("[{part}]") } else { format!(".{part}") };
    path.split('.').map(part).collect::<String>().trim_start_matches('.').to_owned()
}

fn placeholders(reply: &Reply, wrong: &mut Vec<(String, String)>) {
    let mut templates: Vec<(String, String)> = Vec::new();
    if let Some(template) = &reply.from_tool_result {
        templates.push((".from_tool_result".into(), template.clone()));
    }
    if let Some(json) = &reply.json {
        strings(json, ".json".into(), &mut templates);
    }
    for (at, call) in reply.tool_calls.iter().enumerate() {
        if call.name.is_empty() {
            wrong.push((format!(".tool_calls[{at}].name"), "must not be empty".into()));
        }
        strings(&call.arguments, format!(".tool_calls[{at}].arguments"), &mut templates);
    }
    for (key, text) in templates {
        if let Some(name) = template::unknown_placeholder(&text) {
            let known = "last_user, last_tool_result, model, turn";
            wrong.push((key, format!("unknown placeholder `{name}`; known: {known}")));
        }
    }
}

fn strings(value: &Value, path: String, found: &mut Vec<(String, String)>) {
    match value {
        Value::String(text) => found.push((path, text.clone())),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| strings(item, format!("{path}[{at}]"), found));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(key, field)| strings(field, format!("{path}.{key}"), found));
        }
        _ => {}
    }
}

/// The kinds of content that a reply has.
fn contents(reply: &Reply) -> Vec<&'static str> {
    let given = [
        ("text or tool_calls", reply.text.is_some() || !reply.tool_calls.is_empty()),
        ("json", reply.json.is_some()),
        ("echo", reply.echo),
        ("from_tool_result", reply.from_tool_result.is_some()),
        ("from_schema", reply.from_schema),
        ("agent", reply.agent),
        ("error", reply.error.is_some()),
        ("hang", reply.hang),
        ("garbage or garbage_hex", reply.garbage.is_some() || reply.garbage_hex.is_some()),
    ];
    given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
}

/// Bytes from pairs of hexadecimal digits; white space is skipped.
pub(super) fn decode_hex(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = hex
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
