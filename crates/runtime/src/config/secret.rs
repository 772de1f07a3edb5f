//! Secrets are named in the configuration and read when they are needed.

use std::fmt;
use std::io;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// Where a secret is: `{ env = "NAME" }` or `{ file = "path" }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretRef {
    /// In an environment variable.
    Env(String),
    /// In a file; a line break at its end is no part of it.
    File(PathBuf),
}

/// Why a secret cannot be read. Texts name the place, never the secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set or not UTF-8.
    #[error("the environment variable {0} is not set or not UTF-8")]
    Env(String),
    /// The file cannot be read.
    #[error("the secret file {path} cannot be read")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("the secret {0} is empty")]
    Empty(String),
}

impl SecretRef {
    /// Reads the secret.
    ///
    /// # Errors
    /// It is not there, cannot be read, or is empty.
    pub fn resolve(&self) -> Result<SecretString, SecretError> {
        let text = match self {
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::Env(name.clone()))?,
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|source| SecretError::File { path: path.clone(), source })?
                .trim_end_matches(['\r', '\n'])
                .to_owned(),
        };
        if text.is_empty() { Err(SecretError::Empty(self.to_string())) } else { Ok(text.into()) }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(out, "env {name}"),
            Self::File(path) => write!(out, "file {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_file_is_read_without_its_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "hunter2\n").unwrap();
        let secret = SecretRef::File(path.clone()).resolve().unwrap();
        assert_eq!(secret.expose_secret(), "hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(SecretRef::File(path).resolve(), Err(SecretError::Empty(_))));
        assert!(matches!(SecretRef::Env("MAR_NO_SUCH_SECRET".into()).resolve(), Err(SecretError::Env(_))));
    }
}
