//! `mar models`: what there is to reason with.

use std::collections::HashMap;

use mar_proto::router::{
    Candidate, LatencyClass, ListModelsRequest, ModelSpec, Obstacle, Requirement, SelectModelRequest, ToolCalling,
};
use mar_proto::types::TrustTier;
use serde_json::{Value, json};

use crate::args::{ListArgs, ModelsCommand};
use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::{Out, one_line};
use crate::table::{Align, count, table, usd};

const PAGE: i32 = 500;

/// `mar models`.
///
/// # Errors
/// Nothing answers, or the request is refused.
pub async fn models(command: ModelsCommand, out: Out) -> Result<Exit, Failure> {
    let ModelsCommand::List(args) = command;
    list(&args, out).await
}

async fn list(args: &ListArgs, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let mut client = endpoint.models()?;
    let (mut models, mut page_token) = (Vec::new(), String::new());
    let version = loop {
        let request = endpoint.request(ListModelsRequest { page_size: PAGE, page_token });
        let page = client.list_models(request).await.map_err(|status| endpoint.failure(status))?.into_inner();
        models.extend(page.models);
        if page.next_page_token.is_empty() {
            break page.catalogue_version;
        }
        page_token = page.next_page_token;
    };
    let requirement = Some(Requirement { allow_rehearsal: true, ..Requirement::default() });
    let request = endpoint.request(SelectModelRequest { requirement, look: true, ..SelectModelRequest::default() });
    let selected = client.select_model(request).await.map_err(|status| endpoint.failure(status))?.into_inner();
    let fit: HashMap<_, _> = selected.candidates.iter().map(|one| (one.model.as_str(), one)).collect();
    if args.json {
        let models: Vec<_> = models.iter().map(|model| to_json(model, fit.get(model.name.as_str()).copied())).collect();
        out.json(&json!({ "models": models, "catalogue_version": version }));
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = models.iter().map(|model| row(model, fit.get(model.name.as_str()).copied())).collect();
    let columns = [
        ("MODEL", Align::Left),
        ("PROVIDER", Align::Left),
        ("CONTEXT", Align::Right),
        ("TOOLS", Align::Left),
        ("$/M IN", Align::Right),
        ("$/M OUT", Align::Right),
        ("TIER", Align::Left),
        ("USABLE NOW", Align::Left),
    ];
    out.lines(table(out.result, &columns, &rows));
    Ok(Exit::Done)
}

fn row(model: &ModelSpec, fit: Option<&Candidate>) -> Vec<String> {
    let price = model.price.as_ref();
    let dollars = |nano: Option<i64>| nano.map_or("unknown".into(), usd);
    vec![
        one_line(id(&model.name), 60),
        one_line(&model.provider, 30),
        count(model.context_tokens),
        name(ToolCalling::try_from(model.tool_calling).unwrap_or_default().as_str_name(), "TOOL_CALLING_"),
        dollars(price.map(|price| price.input_per_million)),
        dollars(price.map(|price| price.output_per_million)),
        name(TrustTier::try_from(model.trust_tier).unwrap_or_default().as_str_name(), "TRUST_TIER_"),
        usable(model, fit),
    ]
}

fn usable(model: &ModelSpec, fit: Option<&Candidate>) -> String {
    let Some(fit) = fit else { return "unknown".to_owned() };
    if fit.obstacle() != Obstacle::Unspecified {
        return format!("no: {}", one_line(&fit.obstacle_detail, 60));
    }
    if fit.admitted {
        return match (model.rehearsal, fit.answered) {
            (true, _) => "when named (not a model)".to_owned(),
            (false, true) => "yes".to_owned(),
            // Nobody is called for a look who asks for a key.
            (false, false) => "has a key".to_owned(),
        };
    }
    let details = fit.rejections.iter().map(|rejection| rejection.detail.as_str());
    format!("no: {}", one_line(&details.collect::<Vec<_>>().join("; "), 60))
}

fn to_json(model: &ModelSpec, fit: Option<&Candidate>) -> Value {
    let rejections = fit.map(|fit| {
        fit.rejections.iter().map(|one| json!({"reason": reason(one), "detail": one.detail})).collect::<Vec<_>>()
    });
    json!({
        "name": model.name,
        "provider": model.provider,
        "provider_model": model.provider_model,
        "display_name": model.display_name,
        "context_tokens": model.context_tokens,
        "max_output_tokens": model.max_output_tokens,
        "tool_calling": name(model.tool_calling().as_str_name(), "TOOL_CALLING_"),
        "structured_output": model.structured_output,
        "streaming": model.streaming,
        "latency_class": name(LatencyClass::try_from(model.latency_class).unwrap_or_default().as_str_name(), "LATENCY_CLASS_"),
        "trust_tier": name(model.trust_tier().as_str_name(), "TRUST_TIER_"),
        "residency": model.residency,
        "rehearsal": model.rehearsal,
        "price": model.price.as_ref().map(|price| json!({
            "input_nano_usd_per_million": price.input_per_million,
            "cached_input_nano_usd_per_million": price.cached_input_per_million,
            "output_nano_usd_per_million": price.output_per_million,
        })),
        "spec_hash": model.spec_hash,
        "source": model.source,
        "as_of": model.as_of,
        "admitted": fit.map(|fit| fit.admitted),
        "answered": fit.map(|fit| fit.answered),
        "rejections": rejections,
        "obstacle": fit.map(|fit| name(fit.obstacle().as_str_name(), "OBSTACLE_")).filter(|name| name != "UNSPECIFIED"),
        "obstacle_detail": fit.map(|fit| &fit.obstacle_detail).filter(|detail| !detail.is_empty()),
    })
}

fn reason(rejection: &mar_proto::router::Rejection) -> String {
    name(rejection.reason().as_str_name(), "REJECTION_REASON_")
}

fn id(name: &str) -> &str {
    name.strip_prefix("models/").unwrap_or(name)
}

fn name(constant: &str, prefix: &str) -> String {
    constant.strip_prefix(prefix).unwrap_or(constant).to_owned()
}
