//! `mar render`: the prompt that a task would get.

use mar_proto::agent::{RenderPromptRequest, RenderPromptResponse};
use mar_proto::types::{Message, Role, part};
use serde_json::{Value, json};

use crate::args::RenderArgs;
use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::{Out, clean, one_line};
use crate::run::task;
use crate::table::{Align, bytes, table};

/// `mar render`.
///
/// # Errors
/// Nothing answers, or the request is refused.
pub async fn render(args: RenderArgs, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let request = RenderPromptRequest { task: Some(task::shared(&args.task)?), purpose: String::new() };
    let answer = endpoint.agents()?.render_prompt(endpoint.request(request)).await;
    let answer = answer.map_err(|status| endpoint.failure(status))?.into_inner();
    if args.json {
        out.json(&to_json(&answer));
    } else {
        print(&answer, out);
    }
    Ok(Exit::Done)
}

fn print(answer: &RenderPromptResponse, out: Out) {
    out.line(format!("{}  {}", out.result.bold("recipe"), answer.recipe));
    for message in &answer.prompt {
        out.line(format!("\n{}", out.result.bold(&role(message))));
        out.line(clean(&text(message)));
    }
    out.line("");
    let columns = [("STEP", Align::Left), ("PROMPT", Align::Right), ("EFFECT", Align::Left)];
    let row = |step: &mar_proto::agent::PromptOptimizerStep| {
        vec![step.name.clone(), bytes(step.prompt_bytes), one_line(&step.effect, 120)]
    };
    let rows: Vec<_> = answer.steps.iter().map(row).collect();
    out.lines(table(out.result, &columns, &rows));
}

fn role(message: &Message) -> String {
    Role::try_from(message.role).unwrap_or_default().as_str_name().trim_start_matches("ROLE_").to_lowercase()
}

fn text(message: &Message) -> String {
    let piece = |part: &mar_proto::types::Part| match &part.content {
        Some(part::Content::Text(text) | part::Content::Refusal(text)) => text.clone(),
        Some(part::Content::ToolCall(call)) => format!("{} {}", call.tool, call.arguments_json),
        Some(part::Content::ToolResult(result)) => {
            let message = Message { parts: result.content.clone(), ..Message::default() };
            text(&message)
        }
        Some(part::Content::Media(media)) => format!("({})", media.media_type),
        _ => String::new(),
    };
    message.parts.iter().map(piece).collect::<Vec<_>>().join("\n")
}

fn to_json(answer: &RenderPromptResponse) -> Value {
    let messages = answer.prompt.iter().map(|message| json!({"role": role(message), "text": text(message)}));
    let steps = answer
        .steps
        .iter()
        .map(|step| json!({"name": step.name, "effect": step.effect, "prompt_bytes": step.prompt_bytes}));
    json!({
        "recipe": answer.recipe,
        "prompt": messages.collect::<Vec<_>>(),
        "steps": steps.collect::<Vec<_>>(),
        "output_schema": serde_json::from_str::<Value>(&answer.output_schema_json).unwrap_or(Value::Null),
    })
}
