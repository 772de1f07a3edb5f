//! Which models can be reached from here: a provider by its key, a local server by its port, a rehearsal.

use std::collections::BTreeSet;
use std::time::Duration;

use mar_runtime::clock::{Clock as _, SystemClock};
use serde::Deserialize;
use toml::{Table, Value};

use crate::args::UpArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::one_line;
use crate::rehearse;

/// The catalogue as it is shipped.
const SHIPPED: &str = include_str!("../../../../deploy/local/catalogue.toml");
/// Where OpenAI-compatible servers listen by default: Ollama, vLLM, llama.cpp.
const WELL_KNOWN: [(&str, u16); 3] = [("Ollama", 11434), ("vLLM", 8000), ("llama.cpp", 8080)];
/// A server on this machine answers at once or is not there; `mar up` is to be ready within a second.
const LOOK: Duration = Duration::from_millis(250);
/// A server that was named is waited for.
const LOOK_NAMED: Duration = Duration::from_secs(5);
const MAX_ANSWER: usize = 1024 * 1024;
const MAX_MODELS: usize = 200;
const REHEARSAL: &str = "rehearsal";
const OPENAI: &str = "https://api.openai.com/v1";

/// A server that speaks OpenAI's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is, for people.
    pub kind: String,
    /// Its base URL.
    pub url: String,
    /// The models it lists.
    pub models: Vec<String>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Models {
    /// Base URL of OpenAI's API when its key is set.
    pub openai: Option<String>,
    /// A server on this machine, or the one that was named.
    pub local: Option<Found>,
    /// A rehearsal's base URL.
    pub rehearsal: Option<String>,
    /// The catalogue: what is shipped, with the local server's own models.
    pub catalogue: String,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    data: Vec<ListedModel>,
}

#[derive(Deserialize)]
struct ListedModel {
    id: String,
}

impl Models {
    /// Looks at the environment and at well-known ports, all at once. With `playing`, only that rehearsal counts.
    ///
    /// # Errors
    /// A server that was named does not answer.
    pub async fn find(args: &UpArgs, playing: Option<String>) -> Result<Self, Failure> {
        if let Some(url) = playing {
            return Self::assemble(None, None, Some(url), true);
        }
        let key = std::env::var("OPENAI_API_KEY").is_ok_and(|key| !key.is_empty());
        let openai = key.then(|| {
            let base = std::env::var("OPENAI_BASE_URL").ok().filter(|base| !base.is_empty());
            base.unwrap_or_else(|| OPENAI.to_owned())
        });
        let client = client()?;
        let Some(url) = &args.model_url else {
            let rehearsal_url = format!("http://{}/v1", rehearse::DEFAULT);
            let looks = WELL_KNOWN.map(|(kind, port)| {
                let (client, url) = (client.clone(), format!("http://127.0.0.1:{port}/v1"));
                async move { look(&client, kind, &url, LOOK).await.ok() }
            });
            let (found, rehearsal) =
                futures::join!(futures::future::join_all(looks), look(&client, REHEARSAL, &rehearsal_url, LOOK));
            let rehearsal = rehearsal.ok().filter(Found::is_rehearsal).map(|found| found.url);
            return Self::assemble(openai, found.into_iter().flatten().next(), rehearsal, false);
        };
        let found = look(&client, "server", url.trim_end_matches('/'), LOOK_NAMED).await.map_err(|why| {
            Failure::new(Exit::Unavailable, format!("the model server {url} does not list its models: {why}"))
                .hint("--model-url is the base URL, such as http://127.0.0.1:8000/v1.")
        })?;
        if found.is_rehearsal() {
            return Self::assemble(None, None, Some(found.url), true);
        }
        Self::assemble(openai, Some(found), None, false)
    }

    fn assemble(
        openai: Option<String>,
        local: Option<Found>,
        rehearsal: Option<String>,
        only_rehearsal: bool,
    ) -> Result<Self, Failure> {
        let catalogue = catalogue(local.as_ref(), only_rehearsal)
            .map_err(|error| Failure::new(Exit::Internal, format!("the shipped catalogue: {error}")))?;
        Ok(Self { openai, local, rehearsal, catalogue })
    }

    /// `[router.providers]`.
    pub fn providers(&self) -> Table {
        let mut providers = Table::new();
        let mut openai = Table::new();
        openai.insert("base_url".into(), self.openai.as_deref().unwrap_or(OPENAI).into());
        openai.insert("api_key".into(), Table::from_iter([("env".to_owned(), "OPENAI_API_KEY".into())]).into());
        openai.insert("max_tokens_field".into(), "max_completion_tokens".into());
        providers.insert("openai".into(), openai.into());
        let at = |url: &str| Table::from_iter([("base_url".to_owned(), Value::from(url))]);
        if let Some(local) = &self.local {
            providers.insert("local".into(), at(&local.url).into());
        }
        let rehearsal = self.rehearsal.clone().unwrap_or_else(|| format!("http://{}/v1", rehearse::DEFAULT));
        providers.insert(REHEARSAL.into(), at(&rehearsal).into());
        providers
    }

    /// Whether an agent could think.
    pub fn any(&self) -> bool {
        self.openai.is_some() || self.local.is_some() || self.rehearsal.is_some()
    }

    /// The model that has to be named where no other answers: nobody is routed to a rehearsal unasked.
    pub fn wanted(&self) -> Option<&'static str> {
        (self.rehearsal.is_some() && self.openai.is_none() && self.local.is_none()).then_some(REHEARSAL)
    }
}

impl Found {
    fn is_rehearsal(&self) -> bool {
        self.models == [REHEARSAL]
    }
}

fn client() -> Result<reqwest::Client, Failure> {
    let built = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build();
    built.map_err(|error| Failure::new(Exit::Internal, format!("no HTTP client can be made: {error}")))
}

async fn look(client: &reqwest::Client, kind: &str, url: &str, within: Duration) -> Result<Found, String> {
    let failed = |error: reqwest::Error| mar_runtime::status::chain(&error.without_url());
    let answer = client.get(format!("{url}/models")).timeout(within).send().await.map_err(failed)?;
    if !answer.status().is_success() {
        return Err(format!("it answers {}", answer.status()));
    }
    let mut answer = answer;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return Err("its answer is larger than 1 MiB".to_owned());
        }
    }
    let listed: Listed = serde_json::from_slice(&body).map_err(|_| "its answer is no list of models".to_owned())?;
    let models: Vec<_> = listed.data.into_iter().map(|model| model.id).filter(|id| !id.is_empty()).collect();
    if models.is_empty() {
        return Err("it lists no model".to_owned());
    }
    Ok(Found { kind: kind.to_owned(), url: url.to_owned(), models })
}

/// The shipped entries, but of provider `local` only what the server lists; and an entry for each model that it lists and
/// nobody has described.
fn catalogue(local: Option<&Found>, only_rehearsal: bool) -> Result<String, String> {
    let mut file: Table = SHIPPED.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let entries = file.get_mut("model").and_then(Value::as_array_mut).ok_or("has no models")?;
    let of = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let listed: BTreeSet<_> = local.iter().flat_map(|found| &found.models).cloned().collect();
    entries.retain(|entry| match of(entry, "provider").as_str() {
        REHEARSAL => true,
        "local" => !only_rehearsal && listed.contains(&of(entry, "provider_model")),
        _ => !only_rehearsal,
    });
    let known: BTreeSet<_> = entries
        .iter()
        .filter(|entry| of(entry, "provider") == "local")
        .map(|entry| of(entry, "provider_model"))
        .collect();
    let mut names: BTreeSet<_> = entries.iter().map(|entry| of(entry, "name")).collect();
    // What a server lists under no name, or under one that no catalogue holds, is passed over.
    let nameable = |model: &&String| !model.trim().is_empty() && model.len() <= MAX_ID && !known.contains(*model);
    for model in listed.iter().filter(nameable).take(MAX_MODELS) {
        let name = free_name(model, &names);
        entries.push(undescribed(&name, model, local.map_or("", |found| found.url.as_str())).into());
        names.insert(name);
    }
    toml::to_string(&file).map_err(|error| error.to_string())
}

/// Characters of a made name without its number; the catalogue takes 64.
const MAX_NAME: usize = 60;
/// Bytes of a model's id that the catalogue takes.
const MAX_ID: usize = 256;

/// A name of the catalogue's form, `[a-z0-9][a-z0-9._-]*`, that is not taken.
fn free_name(model: &str, taken: &BTreeSet<String>) -> String {
    let fits = |char: char| if char.is_ascii_alphanumeric() || ".-_".contains(char) { char } else { '-' };
    let name: String = model.to_lowercase().chars().map(fits).collect();
    let name = name.trim_start_matches(['.', '-', '_']);
    // The end of a path says more than its beginning, and a number has to fit behind it.
    let name = &name[name.len().saturating_sub(MAX_NAME)..];
    let name = name.trim_start_matches(['.', '-', '_']);
    let name = if name.is_empty() { "model" } else { name };
    let mut numbers = 2..;
    let mut free = name.to_owned();
    while taken.contains(&free) {
        free = format!("{name}-{}", numbers.next().unwrap_or(i32::MAX));
    }
    free
}

/// Careful facts about a model of which only the id is known.
fn undescribed(name: &str, model: &str, url: &str) -> Table {
    let mut entry = toml::toml! {
        provider = "local"
        context_tokens = 8192
        max_output_tokens = 2048
        input_modalities = ["text"]
        output_modalities = ["text"]
        streaming = true
        tool_calling = "CONSTRAINED"
        structured_output = true
        price = { input = "0", output = "0" }
        latency_class = "SLOW"
        trust_tier = "UNVERIFIED"
        residency = ["local"]
        retention_days = 0
        tokenizer = "cl100k_base"
        quality = { default = 200 }
    };
    entry.insert("as_of".into(), SystemClock::new().now().date().to_string().into());
    entry.insert("name".into(), name.into());
    entry.insert("provider_model".into(), model.into());
    entry.insert("display_name".into(), one_line(model, 100).into());
    entry.insert("source".into(), format!("listed by {url}; its limits are careful assumptions").into());
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(catalogue: &str) -> Vec<String> {
        let file: Table = catalogue.parse().unwrap();
        file["model"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_catalogue_holds_what_the_local_server_lists() {
        let found = Found {
            kind: "vLLM".into(),
            url: "http://127.0.0.1:8000/v1".into(),
            models: vec!["Org/My Model:7b".into(), "qwen2.5-coder-0.5b".into()],
        };
        let names = names(&catalogue(Some(&found), false).unwrap());
        assert!(names.contains(&"org-my-model-7b".to_owned()), "{names:?}");
        assert!(names.contains(&"qwen2.5-coder-0.5b".to_owned()) && !names.contains(&"qwen2.5-coder-1.5b".to_owned()));
        assert!(names.contains(&"gpt-4o".to_owned()) && names.contains(&"rehearsal".to_owned()));
    }

    #[test]
    fn a_rehearsal_is_named_where_nothing_else_answers() {
        let (catalogue, url) = (String::new(), Some("http://127.0.0.1:7419/v1".to_owned()));
        let alone = Models { openai: None, local: None, rehearsal: url.clone(), catalogue };
        assert_eq!(alone.wanted(), Some("rehearsal"));
        assert_eq!(Models { openai: url, ..alone.clone() }.wanted(), None);
        assert_eq!(Models { rehearsal: None, ..alone }.wanted(), None);
    }

    #[test]
    fn what_is_made_is_a_catalogue() {
        let long = |at: u8| format!("/home/me/.cache/models/{}/q4-{at}.gguf", "deep/".repeat(20));
        let found = Found {
            kind: "x".into(),
            url: "http://127.0.0.1:1/v1".into(),
            models: vec![
                "é".into(),
                "..".into(),
                "a".into(),
                "A".into(),
                "gpt-4o".into(),
                " ".into(),
                String::new(),
                "x".repeat(600),
                long(7),
                long(8),
            ],
        };
        let text = catalogue(Some(&found), false).unwrap();
        mar_router::catalogue::Catalogue::parse(&text).unwrap();
        assert_eq!(names(&catalogue(None, true).unwrap()), ["rehearsal", "rehearsal-constrained"]);
    }
}
