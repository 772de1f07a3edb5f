//! A database of a cluster, and SQL from outside of any connection.

use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};

static DATABASES: AtomicU32 = AtomicU32::new(1);

/// The program that sends SQL to a cluster on this port.
#[derive(Debug)]
pub(super) struct Psql {
    pub(super) program: PathBuf,
    pub(super) port: u16,
}

impl Psql {
    /// The database `postgres`, in which nobody has tables.
    pub(super) fn url(&self) -> String {
        self.url_of("postgres")
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub(super) fn execute(&self, sql: &str) -> anyhow::Result<String> {
        let output = Command::new(&self.program)
            .args([
                "--no-psqlrc",
                "--quiet",
                "--tuples-only",
                "--no-align",
                "-v",
                "ON_ERROR_STOP=1",
                "-c",
                sql,
                &self.url(),
            ])
            .output()
            .context("cannot run psql")?;
        if !output.status.success() {
            bail!("psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }
}

/// A database with a name of its own; as text its URL, for the user `postgres`. Dropping it removes it and ends every
/// connection to it: with its tables it takes over 10 MB, and hundreds of tests have one.
#[derive(Debug)]
pub struct Database {
    psql: Psql,
    name: String,
    url: String,
}

impl Database {
    pub(super) fn create(psql: Psql) -> anyhow::Result<Self> {
        let name = format!("test_{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::Relaxed));
        psql.execute(&format!("create database {name}"))?;
        let url = psql.url_of(&name);
        Ok(Self { psql, name, url })
    }
}

impl Deref for Database {
    type Target = str;

    fn deref(&self) -> &str {
        &self.url
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A cluster that is stopped goes with everything in it.
        drop(self.psql.execute(&format!("drop database if exists {} with (force)", self.name)));
    }
}
