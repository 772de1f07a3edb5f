//! The configuration of `mar up`: its defaults, the operator's file over them, the environment, the command line.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use mar_runtime::config::Sources;
use toml::{Table, Value};

use super::models::Models;
use crate::args::{StoreName, UpArgs};
use crate::failure::Failure;
use crate::keys::ServiceKeys;

/// The merged file that the services read.
const FILE: &str = "effective.toml";

/// Where to serve.
///
/// # Errors
/// Every argument that cannot be used, before anything is started or written.
pub fn check(args: &UpArgs, data: &Path) -> Result<SocketAddr, Failure> {
    let address = address(args);
    let mut wrong: Vec<_> = address.as_ref().err().cloned().into_iter().collect();
    wrong.extend(stores(args, data).err().unwrap_or_default());
    wrong.extend(args.docs.as_deref().and_then(|docs| folder(docs).err()));
    Failure::together(wrong)?;
    address
}

fn address(args: &UpArgs) -> Result<SocketAddr, Failure> {
    let wrong = format!("--listen {} is no address with a port", args.listen);
    args.listen
        .parse()
        .map_err(|_| Failure::usage(wrong).hint(format!("Name one such as {}.", crate::endpoint::DEFAULT)))
}

/// Where the services' configuration comes from.
///
/// # Errors
/// The operator's file is not readable, flags contradict each other, or the data folder cannot be written.
pub fn sources(args: &UpArgs, data: &Path, keys: &ServiceKeys, models: &Models) -> Result<Sources, Failure> {
    let catalogue = data.join("catalogue.toml");
    write(&catalogue, &models.catalogue)?;
    let mut tables = defaults(args, data, keys, models, &catalogue)?;
    if let Some(file) = &args.config {
        let wrong = |text: String| Failure::usage(format!("{}: {text}", file.display()));
        let text = fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        let own: Table = text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
        merge(&mut tables, own);
    }
    let effective = data.join(FILE);
    write(&effective, &toml::to_string(&tables).map_err(|error| Failure::usage(error.to_string()))?)?;
    Ok(Sources { file: Some(effective), env: Vec::new(), set: args.set.clone() }.with_process_env())
}

fn defaults(
    args: &UpArgs,
    data: &Path,
    keys: &ServiceKeys,
    models: &Models,
    catalogue: &Path,
) -> Result<Table, Failure> {
    let (session_store, agent_store, counters) =
        stores(args, data).or_else(|wrong| Failure::together(wrong).map(|()| Default::default()))?;
    let generator_public = [text(&keys.generator.public)?];
    let listen = address(args)?.to_string();
    let mut tables = toml::toml! {
        [runtime.telemetry]
        log_filter = "warn"
    };
    let mut set = |path: &[&str], value: Value| insert(&mut tables, path, value);
    for table in ["session", "router", "agent_generator", "tool_gateway"] {
        set(&[table, "listen"], listen.clone().into());
    }
    let drain = humantime::format_duration(super::DRAIN).to_string();
    set(&["runtime", "limits", "drain"], drain.into());
    set(&["runtime", "run_tokens", "verification_key_files"], vec![text(&keys.session.public)?].into());
    set(&["session", "signing_key", "file"], text(&keys.session.private)?.into());
    set(&["session", "descriptor_key_files"], generator_public.to_vec().into());
    set(&["session", "store", "url"], session_store.into());
    set(&["session", "counters", "url"], counters.into());
    set(&["agent_generator", "signing_key", "file"], text(&keys.generator.private)?.into());
    set(&["agent_generator", "store", "url"], agent_store.into());
    set(&["router", "catalogue"], text(catalogue)?.into());
    set(&["router", "descriptor_key_files"], generator_public.to_vec().into());
    set(&["router", "providers"], models.providers().into());
    set(&["tool_gateway", "descriptor_key_files"], generator_public.to_vec().into());
    if let Some(docs) = &args.docs {
        set(&["tool_gateway", "upstreams", "docs", "kind"], "search".into());
        set(&["tool_gateway", "upstreams", "docs", "folder"], text(&folder(docs)?)?.into());
    }
    Ok(tables)
}

/// The URLs of session's store, the generator's store and the counters; else every reason why there are none.
fn stores(args: &UpArgs, data: &Path) -> Result<(String, String, String), Vec<Failure>> {
    let chosen = |name| args.stores.contains(&name);
    let mut wrong = Vec::new();
    for (one, other) in [(StoreName::Sqlite, StoreName::Postgres), (StoreName::Memory, StoreName::Redis)] {
        if chosen(one) && chosen(other) {
            wrong.push(Failure::usage(format!("--stores names both {} and {}", word(one), word(other))));
        }
    }
    let mut kept = |url: Result<String, Failure>| url.map_err(|failure| wrong.push(failure)).unwrap_or_default();
    let needed = |flag: &str, url: &Option<String>| {
        let hint = format!("Give it with --{flag}-url or MAR_{}_URL.", flag.to_uppercase());
        url.clone().ok_or_else(|| Failure::usage(format!("--stores {flag} needs a URL")).hint(hint))
    };
    let (session, agent) = if chosen(StoreName::Postgres) || (args.stores.is_empty() && args.postgres_url.is_some()) {
        let url = kept(needed("postgres", &args.postgres_url));
        (url.clone(), url)
    } else {
        let file = |name| text(&data.join(name)).map(|path| format!("sqlite:{path}"));
        (kept(file("session.db")), kept(file("agent-generator.db")))
    };
    let counters = if chosen(StoreName::Redis) || (args.stores.is_empty() && args.redis_url.is_some()) {
        kept(needed("redis", &args.redis_url))
    } else {
        "memory:".to_owned()
    };
    if wrong.is_empty() { Ok((session, agent, counters)) } else { Err(wrong) }
}

fn word(name: StoreName) -> &'static str {
    match name {
        StoreName::Sqlite => "sqlite",
        StoreName::Postgres => "postgres",
        StoreName::Memory => "memory",
        StoreName::Redis => "redis",
    }
}

fn folder(docs: &Path) -> Result<PathBuf, Failure> {
    let wrong = |text: &str| Failure::usage(format!("--docs {} {text}", docs.display()));
    let found = fs::canonicalize(docs).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    if found.is_dir() { Ok(found) } else { Err(wrong("is no folder")) }
}

fn text(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().ok_or_else(|| Failure::usage(format!("{} is not UTF-8", path.display())))?;
    Ok(text.to_owned())
}

fn insert(tables: &mut Table, path: &[&str], value: Value) {
    let [first, rest @ ..] = path else { return };
    if rest.is_empty() {
        tables.insert((*first).to_owned(), value);
        return;
    }
    let inner = tables.entry((*first).to_owned()).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(inner) = inner {
        insert(inner, rest, value);
    }
}

/// Lays `over` over `tables`. An upstream or provider of the same name is replaced as a whole, as its keys belong together.
fn merge(tables: &mut Table, over: Table) {
    fn lay(tables: &mut Table, over: Table, depth: usize, whole: bool) {
        for (key, value) in over {
            let inner_whole = whole || (depth == 1 && matches!(key.as_str(), "upstreams" | "providers"));
            match (tables.get_mut(&key), value) {
                (Some(Value::Table(inner)), Value::Table(value)) if !(is_reference(inner) || whole && depth >= 2) => {
                    lay(inner, value, depth + 1, inner_whole);
                }
                (_, value) => {
                    tables.insert(key, value);
                }
            }
        }
    }
    lay(tables, over, 0, false);
}

/// `{ file = … }` or `{ env = … }`: one replaces the other.
fn is_reference(table: &Table) -> bool {
    table.len() == 1 && (table.contains_key("file") || table.contains_key("env"))
}

/// Writes a file that only its owner can read, whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&fresh, path));
    written.map_err(|error| Failure::usage(format!("{} cannot be written: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_keys_win_and_references_are_replaced() {
        let mut tables: Table = toml::toml! {
            [session.signing_key]
            file = "a"
            [session.store]
            url = "sqlite:x"
            max_connections = 4
            [router.providers.local]
            base_url = "http://a/v1"
            headers = { x = "y" }
        };
        let over = toml::toml! {
            [session.signing_key]
            env = "KEY"
            [session.store]
            url = "postgres://h"
            [router.providers.local]
            base_url = "http://b/v1"
            [router.providers.more]
            base_url = "http://c/v1"
        };
        merge(&mut tables, over);
        let expected = toml::toml! {
            [session.signing_key]
            env = "KEY"
            [session.store]
            url = "postgres://h"
            max_connections = 4
            [router.providers.local]
            base_url = "http://b/v1"
            [router.providers.more]
            base_url = "http://c/v1"
        };
        assert_eq!(tables, expected);
    }
}
