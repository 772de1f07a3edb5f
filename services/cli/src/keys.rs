//! `mar keys`: key pairs of the services, and API keys.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mar_runtime::auth::{api_key, keys};
use mar_runtime::clock::SystemIds;

use crate::args::{ApiKeyArgs, KeysCommand};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::Out;

/// Where a key pair is.
#[derive(Clone, Debug)]
pub struct PairFiles {
    /// PKCS#8 PEM, mode 0600.
    pub private: PathBuf,
    /// SPKI PEM.
    pub public: PathBuf,
}

/// The key pairs that the services sign with.
#[derive(Clone, Debug)]
pub struct ServiceKeys {
    /// Signs run tokens and run seals.
    pub session: PairFiles,
    /// Signs descriptors.
    pub generator: PairFiles,
}

impl ServiceKeys {
    /// The pairs in `folder`; those that are not there are made.
    ///
    /// # Errors
    /// The folder cannot be written, or holds half of a pair.
    pub fn ensure(folder: &Path) -> Result<Self, Failure> {
        make_private_folder(folder)?;
        Ok(Self { session: pair(folder, "session")?, generator: pair(folder, "generator")? })
    }
}

/// Makes a folder that only its owner can read, unless it is there.
///
/// # Errors
/// What the system says.
pub fn make_private_folder(folder: &Path) -> Result<(), Failure> {
    if folder.is_dir() {
        return Ok(());
    }
    let made = fs::create_dir_all(folder).and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o700)));
    made.map_err(|error| Failure::usage(format!("{} cannot be made: {error}", folder.display())))
}

fn pair(folder: &Path, name: &str) -> Result<PairFiles, Failure> {
    let files =
        PairFiles { private: folder.join(format!("{name}.pem")), public: folder.join(format!("{name}.pub.pem")) };
    match (files.private.exists(), files.public.exists()) {
        (true, true) => return Ok(files),
        (false, false) => {}
        _ => {
            let text = format!("{} holds only half of the key pair {name}", folder.display());
            return Err(
                Failure::usage(text).hint("Restore the other half, or remove this one to have a new pair made.")
            );
        }
    }
    let pair = keys::generate(&SystemIds).map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    keys::write(&pair, &files.private, &files.public)
        .map_err(|error| Failure::usage(format!("{} cannot be written: {error}", files.private.display())))?;
    Ok(files)
}

/// `mar keys`.
///
/// # Errors
/// Files cannot be written, or the id is none.
pub fn keys(command: KeysCommand, out: Out) -> Result<Exit, Failure> {
    match command {
        KeysCommand::New { folder } => {
            let made = ServiceKeys::ensure(&folder)?;
            for pair in [&made.session, &made.generator] {
                out.line(format!("{}  {}", pair.private.display(), pair.public.display()));
            }
        }
        KeysCommand::Api(args) => api(&args, out)?,
    }
    Ok(Exit::Done)
}

fn api(args: &ApiKeyArgs, out: Out) -> Result<(), Failure> {
    let (key, sha256) = api_key::generate(&args.id, &SystemIds);
    let entry = mar_runtime::auth::config::ApiKeyConfig {
        id: args.id.clone(),
        sha256,
        tenant: args.tenant.clone(),
        principal: args.principal.clone().unwrap_or_else(|| args.id.clone()),
        groups: args.groups.clone(),
        scopes: args.scopes.clone(),
        environment: args.environment.clone(),
        not_after: None,
    };
    let ring = api_key::Ring::try_new(std::slice::from_ref(&entry));
    ring.map_err(|found| {
        let lines: Vec<_> = found.iter().map(|one| format!("{}: {}", one.field, one.description)).collect();
        Failure::usage(lines.join("; "))
    })?;
    let entry = toml::to_string(&entry).map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    out.note("The key is shown once and stored nowhere. Its entry for the configuration:");
    out.note(format!("\n[[runtime.auth.api_keys]]\n{entry}"));
    out.line(key);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let first = ServiceKeys::ensure(&folder.path().join("keys")).unwrap();
        let text = fs::read_to_string(&first.session.private).unwrap();
        let second = ServiceKeys::ensure(&folder.path().join("keys")).unwrap();
        assert_eq!(fs::read_to_string(second.session.private).unwrap(), text);
        assert_ne!(fs::read_to_string(second.generator.private).unwrap(), text);
        fs::remove_file(second.generator.public).unwrap();
        assert_eq!(ServiceKeys::ensure(&folder.path().join("keys")).unwrap_err().exit(), Exit::Usage);
    }
}
