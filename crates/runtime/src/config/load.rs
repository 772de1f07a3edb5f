//! Layers the sources and reads tables out of them.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Error, RuntimeConfig, ServiceConfig, Validate};
use crate::ServiceName;
use crate::violations::Violations;

mod stand_in;
mod table;

use table::Draft;

const RUNTIME: &str = "runtime";
const ENV_PREFIX: &str = "MAR_";

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The TOML file; without one, defaults.
    pub file: Option<PathBuf>,
    /// Environment variables; those that are not `MAR_<TABLE>__<KEY>` are ignored.
    pub env: Vec<(String, String)>,
    /// `table.key=value`, in order.
    pub set: Vec<String>,
}

impl Sources {
    /// Adds this process's environment variables.
    #[must_use]
    pub fn with_process_env(mut self) -> Self {
        // Names and values that are not UTF-8 cannot be ours.
        self.env.extend(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?)).filter(|(name, _)| name.starts_with(ENV_PREFIX))
        }));
        self
    }

    /// All tables, merged.
    fn read(&self, found: &mut Violations) -> Result<Dict, Error> {
        let mut figment = Figment::new();
        if let Some(path) = &self.file {
            let text = read_file(path)?;
            if let Err(error) = text.parse::<toml::Table>() {
                return Err(Error::Unreadable(format!("{}: {}", path.display(), toml_fault(&text, &error))));
            }
            figment = figment.merge(Toml::string(&text));
        }
        for (name, value) in &self.env {
            let Some(key) = env_key(name) else { continue };
            if key.split('.').next().is_some_and(is_table) {
                figment = figment.merge((key, literal(value)));
            } else {
                found.field(name, format!("\"{key}\" is not in a table of the runtime"));
            }
        }
        for set in &self.set {
            match set.split_once('=') {
                Some((key, value)) if key.contains('.') && key.split('.').all(|part| !part.is_empty()) => {
                    figment = figment.merge((key.to_owned(), literal(value)));
                }
                _ => {
                    found.field("--set", format!("\"{set}\" is not table.key=value"));
                }
            }
        }
        let path = self.file.as_deref().map_or("the configuration".into(), |path| path.display().to_string());
        figment.extract().map_err(|error| Error::Unreadable(format!("{path}: {error}")))
    }
}

fn read_file(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|error| Error::Unreadable(format!("{}: {error}", path.display())))
}

/// `MAR_SESSION__STORE__URL` is `session.store.url`. Names without two underscores in a row are for other purposes.
fn env_key(name: &str) -> Option<String> {
    let key = name.strip_prefix(ENV_PREFIX)?.to_ascii_lowercase().replace("__", ".");
    key.contains('.').then_some(key)
}

fn is_table(name: &str) -> bool {
    name == RUNTIME || ServiceName::ALL.iter().any(|service| service.table() == name)
}

/// A value as TOML would read it; what is no literal is a string.
fn literal(text: &str) -> Value {
    text.parse().unwrap_or_else(|_| Value::from(text))
}

/// A service's table and the shared one.
#[derive(Clone, Debug)]
pub struct Loaded<C> {
    /// The service's own table.
    pub service: C,
    /// `[runtime]`.
    pub runtime: RuntimeConfig,
}

/// Reads and validates the tables of the service `C`.
///
/// # Errors
/// The file cannot be read, or violations: unknown tables and keys, values of the wrong kind, what `validate` finds,
/// and an address beyond loopback without configured authentication.
pub fn load<C: ServiceConfig>(sources: &Sources) -> Result<Loaded<C>, Error> {
    let mut found = Violations::new();
    let mut tables = sources.read(&mut found)?;
    for name in tables.keys().filter(|name| !is_table(name)) {
        found.field(name, "is not a table of the runtime");
    }
    let (service, own) = Draft::read::<C>(&mut tables, C::SERVICE.table(), &mut found);
    let (runtime, shared) = Draft::read::<RuntimeConfig>(&mut tables, RUNTIME, &mut found);
    own.judge(&service, &mut found, |service, found| {
        found.within(C::SERVICE.table(), |found| service.validate(found));
    });
    shared.judge(&runtime, &mut found, |runtime, found| found.within(RUNTIME, |found| runtime.validate(found)));
    if let Some(service) = service.first() {
        let path = format!("{}.listen", C::SERVICE.table());
        shared.judge(&runtime, &mut found, |runtime, found| {
            runtime.auth.validate_listen(service.listen(), &path, found);
        });
    }
    match (service.into_iter().next(), runtime.into_iter().next()) {
        (Some(service), Some(runtime)) => found.into_result(Loaded { service, runtime }).map_err(Error::Invalid),
        _ => Err(Error::Invalid(found)),
    }
}

/// Reads a TOML table as a `T`.
///
/// # Errors
/// Everything that keeps it from being one: unknown and missing keys and values of the wrong kind, each by its path.
pub fn from_toml<T: DeserializeOwned>(value: &toml::Value) -> Result<T, Violations> {
    let error = match value.clone().try_into() {
        Ok(read) => return Ok(read),
        Err(error) => error,
    };
    let mut found = Violations::new();
    if let toml::Value::Table(table) = value
        && let Ok(text) = toml::to_string(table)
        && let Ok(whole) = Figment::from(Toml::string(&text)).extract::<Dict>()
    {
        let mut tables = Dict::from([(String::new(), Value::from(whole))]);
        let _: (Vec<T>, _) = Draft::read(&mut tables, "", &mut found);
    }
    found.require(!found.is_empty(), "", toml::de::Error::message(&error).trim());
    Err(found)
}

/// A TOML error on one line: where it is and what is wrong there, without a drawing of it.
#[must_use]
pub fn toml_fault(text: &str, error: &toml::de::Error) -> String {
    let what = error.message().lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return what };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: {what}")
}

/// The effective configuration as TOML. Secrets are references anyway; passwords in URLs are replaced.
///
/// # Errors
/// A value that TOML cannot hold.
pub fn dump<C: ServiceConfig>(loaded: &Loaded<C>) -> Result<String, Error> {
    let refuse = |error: toml::ser::Error| Error::Unreadable(error.to_string());
    let mut tables = toml::Table::new();
    tables.insert(C::SERVICE.table().to_owned(), to_toml(&loaded.service).map_err(refuse)?);
    tables.insert(RUNTIME.to_owned(), to_toml(&loaded.runtime).map_err(refuse)?);
    let mut tables = toml::Value::Table(tables);
    redact(&mut tables);
    toml::to_string(&tables).map_err(refuse)
}

fn to_toml<T: Serialize>(value: &T) -> Result<toml::Value, toml::ser::Error> {
    toml::Value::try_from(value)
}

fn redact(value: &mut toml::Value) {
    match value {
        toml::Value::String(text) => {
            if let Some(redacted) = without_password(text) {
                *text = redacted;
            }
        }
        toml::Value::Array(items) => items.iter_mut().for_each(redact),
        toml::Value::Table(table) => table.iter_mut().for_each(|(_, value)| redact(value)),
        _ => {}
    }
}

/// `postgres://ada:secret@host/db` without the secret.
fn without_password(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let (user, _) = authority.rsplit_once('@')?;
    let (name, _) = user.split_once(':')?;
    Some(format!("{scheme}://{name}:***{}", &rest[user.len()..]))
}

#[cfg(test)]
mod tests;
