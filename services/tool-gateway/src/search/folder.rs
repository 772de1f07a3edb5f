//! Which documents a folder holds. Symbolic links below it are not followed, so nothing outside is ever read.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files beyond this number are left out.
const MAX_FILES: usize = 20_000;
const MAX_DEPTH: usize = 32;

/// What is read of a folder.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Where it is.
    pub root: PathBuf,
    /// Extensions in lower case, without the dot.
    pub extensions: Vec<String>,
    /// Larger files are left out.
    pub max_file_bytes: u64,
}

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: SystemTime,
    bytes: u64,
}

/// The documents by path below the root, with `/` between its parts.
pub type Listing = BTreeMap<String, Stamp>;

impl Folder {
    /// Lists the documents.
    ///
    /// # Errors
    /// The folder is missing or cannot be read. What cannot be read below it is left out.
    pub fn list(&self) -> io::Result<Listing> {
        let mut found = Listing::new();
        let mut left: Vec<(PathBuf, String, usize)> = Vec::new();
        self.list_one(fs::read_dir(&self.root)?, "", 0, &mut found, &mut left);
        while let Some((path, prefix, depth)) = left.pop() {
            match fs::read_dir(&path) {
                Ok(entries) => self.list_one(entries, &prefix, depth, &mut found, &mut left),
                Err(error) => tracing::debug!(search.folder = %prefix, %error, "folder left out"),
            }
        }
        Ok(found)
    }

    fn list_one(
        &self,
        entries: fs::ReadDir,
        prefix: &str,
        depth: usize,
        found: &mut Listing,
        left: &mut Vec<(PathBuf, String, usize)>,
    ) {
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            // `file_type` does not follow links.
            let Ok(kind) = entry.file_type() else { continue };
            if name.starts_with('.') || kind.is_symlink() {
                continue;
            }
            let path = format!("{prefix}{name}");
            if kind.is_dir() && depth < MAX_DEPTH {
                left.push((entry.path(), format!("{path}/"), depth + 1));
            } else if kind.is_file() && self.wants(&name) && found.len() < MAX_FILES {
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.len() > self.max_file_bytes {
                    tracing::debug!(search.document = %path, bytes = metadata.len(), "document is too large");
                    continue;
                }
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.insert(path, Stamp { modified, bytes: metadata.len() });
            }
        }
    }

    fn wants(&self, name: &str) -> bool {
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| self.extensions.contains(&extension.to_ascii_lowercase()))
    }

    /// Reads a listed document; bytes that are no UTF-8 become replacement characters.
    ///
    /// # Errors
    /// It is gone, has become a link, or cannot be read.
    pub fn read(&self, path: &str) -> io::Result<String> {
        let root = self.root.canonicalize()?;
        let file = root.join(path);
        // A file may have been replaced by a link since it was listed.
        if file.canonicalize()? != file {
            return Err(io::Error::other("is a link"));
        }
        let mut bytes = Vec::new();
        fs::File::open(&file)?.take(self.max_file_bytes).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_documents_inside_are_listed() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret.md"), "secret").unwrap();
        let inside = tempfile::tempdir().unwrap();
        let root = inside.path();
        fs::create_dir_all(root.join("guide/deep")).unwrap();
        for name in ["a.md", "guide/deep/b.HTML", "c.rs", ".hidden.md"] {
            fs::write(root.join(name), "text").unwrap();
        }
        fs::write(root.join("large.md"), "x".repeat(2_000)).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret.md"), root.join("link.md")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("linked")).unwrap();
        let folder = Folder { root: root.into(), extensions: vec!["md".into(), "html".into()], max_file_bytes: 1_000 };
        let names: Vec<_> = folder.list().unwrap().into_keys().collect();
        assert_eq!(names, ["a.md", "guide/deep/b.HTML"]);
        assert_eq!(folder.read("a.md").unwrap(), "text");
        assert!(folder.read("link.md").is_err());
        assert!(folder.read("linked/secret.md").is_err());
        assert!(folder.read("../x").is_err());
        assert!(Folder { root: root.join("none"), ..folder }.list().is_err());
    }
}
