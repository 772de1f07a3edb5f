//! Finding Postgres, the account it runs under, creating a cluster and waiting for it.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::supervisor::{find, tail};

const DEBIAN: &str = "/usr/lib/postgresql";
const PAUSE: Duration = Duration::from_millis(20);
/// Looks at a starting server before it is given up: 30 s.
const LOOKS: u32 = 1_500;

/// The folder with `initdb`, `postgres` and `psql` of one version.
#[derive(Debug, Clone)]
pub(super) struct Binaries(PathBuf);

impl Binaries {
    /// The newest of Debian's versions, else what `PATH` has.
    pub(super) fn find() -> anyhow::Result<Self> {
        let versions = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
        let mut versions: Vec<(u32, PathBuf)> = versions
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
            .collect();
        versions.sort();
        let folders: Vec<PathBuf> = versions.into_iter().rev().map(|(_, folder)| folder).collect();
        let initdb = find("initdb", &folders);
        let initdb = initdb.context("initdb is not to be found: install Postgres (Debian package `postgresql`)")?;
        // On PATH it may be a link; its siblings are beside the file itself.
        let initdb = fs::canonicalize(&initdb).unwrap_or(initdb);
        Self::in_folder(initdb.parent().context("initdb has no folder")?.to_owned())
    }

    /// A major version of Debian's, or of the project's own tools.
    pub(super) fn of_version(version: u32) -> anyhow::Result<Self> {
        let debian = Path::new(DEBIAN).join(version.to_string()).join("bin");
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools");
        let own = tools.join(format!("postgres-{version}")).join("bin");
        let folder = [debian, own].into_iter().find(|folder| folder.join("initdb").is_file());
        let folder =
            folder.with_context(|| format!("Postgres {version} is not installed (scripts/install-tools.sh)"))?;
        Self::in_folder(fs::canonicalize(&folder).unwrap_or(folder))
    }

    fn in_folder(folder: PathBuf) -> anyhow::Result<Self> {
        for sibling in ["postgres", "psql"] {
            if !folder.join(sibling).is_file() {
                bail!("{} has no {sibling}: install Postgres (Debian package `postgresql`)", folder.display());
            }
        }
        Ok(Self(folder))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.0.join(program)
    }
}

/// Who runs the server: this user, or `postgres` in place of root, which Postgres refuses.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    words: Vec<String>,
    ids: Option<(u32, u32)>,
}

impl Account {
    pub(crate) fn find() -> anyhow::Result<Self> {
        if fs::metadata("/proc/self").context("no /proc")?.uid() != 0 {
            return Ok(Self::default());
        }
        let id = |option: &str| -> anyhow::Result<u32> {
            let output = Command::new("id").args([option, "postgres"]).output().context("cannot run id")?;
            let said = String::from_utf8_lossy(&output.stdout);
            said.trim().parse().context("there is no user `postgres` (Debian package `postgresql` creates it)")
        };
        let ids = Some((id("-u")?, id("-g")?));
        let ways: [(&str, &[&str]); 3] = [
            ("setpriv", &["--reuid=postgres", "--regid=postgres", "--init-groups"]),
            ("runuser", &["-u", "postgres", "--"]),
            // Takes the words after it as arguments of a shell, whose script runs them.
            ("su", &["-s", "/bin/sh", "-c", "exec \"$0\" \"$@\"", "--", "postgres"]),
        ];
        for (program, arguments) in ways {
            if let Some(path) = find(program, &[]) {
                let words =
                    std::iter::once(path.display().to_string()).chain(arguments.iter().map(ToString::to_string));
                return Ok(Self { words: words.collect(), ids });
            }
        }
        bail!("root cannot run Postgres, and setpriv, runuser and su are missing (Debian package `util-linux`)")
    }

    /// Command words that take on the identity.
    pub(crate) fn words(&self) -> &[String] {
        &self.words
    }

    /// Gives a directory to the account.
    pub(crate) fn own(&self, directory: &Path) -> anyhow::Result<()> {
        let Some((user, group)) = self.ids else {
            return Ok(());
        };
        chown(directory, Some(user), Some(group)).context("cannot give the directory to the user `postgres`")
    }

    pub(super) fn command(&self, program: &Path) -> Command {
        let mut words = self.words.iter();
        match words.next() {
            None => Command::new(program),
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(program);
                command
            }
        }
    }
}

pub(super) fn init(binaries: &Binaries, account: &Account, home: &Path) -> anyhow::Result<()> {
    let output = account
        .command(&binaries.path("initdb"))
        .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "--pgdata"])
        .arg(home.join("data"))
        .current_dir(home)
        .output()
        .context("cannot run initdb")?;
    if !output.status.success() {
        bail!("initdb: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

pub(super) fn settings(durable: bool) -> Vec<(String, String)> {
    let mut settings = vec![("max_connections", "300"), ("shared_buffers", "128MB")];
    if !durable {
        // synchronous_commit stays on: without it a killed server forgets what it has acknowledged.
        settings.extend([("fsync", "off"), ("full_page_writes", "off")]);
        // Many clusters stand beside each other, and each would keep a gigabyte of what it wrote.
        settings.extend([("min_wal_size", "32MB"), ("max_wal_size", "96MB")]);
    }
    settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

pub(super) fn command(binaries: &Binaries, data: &Path, port: u16, settings: &[(String, String)]) -> Vec<String> {
    let mut words = vec![binaries.path("postgres").display().to_string(), "-D".into(), data.display().to_string()];
    let own = [
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        ("unix_socket_directories", String::new()),
    ];
    let own = own.into_iter().map(|(name, value)| format!("{name}={value}"));
    for setting in settings.iter().map(|(name, value)| format!("{name}={value}")).chain(own) {
        words.extend(["-c".to_owned(), setting]);
    }
    words
}

/// The main process, from the first line of `postmaster.pid`.
pub(super) fn pid(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
}

/// Whether the server gave up: it says FATAL of a client too, so it has to be gone as well.
fn gave_up(data: &Path, said: &str) -> bool {
    let alive = pid(data).is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists());
    !alive && said.lines().any(|line| line.contains("FATAL:") && !line.contains("the database system is"))
}

/// Waits until the eighth line of `postmaster.pid` says `ready`, or `standby`, for a process that is alive.
pub(super) fn wait_until_ready(data: &Path, log: &Path) -> anyhow::Result<()> {
    for _ in 0..LOOKS {
        let status = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        // The whole log: what many clients provoke pushes the word out of its end at once.
        let said = fs::read_to_string(log).unwrap_or_default();
        let said_ready = said.contains("ready to accept");
        if said_ready && status.lines().nth(7).is_some_and(|line| ["ready", "standby"].contains(&line.trim())) {
            return Ok(());
        }
        if gave_up(data, &said) {
            bail!("postgres does not start:\n{}", tail(log));
        }
        thread::sleep(PAUSE);
    }
    bail!("postgres is not ready after 30 s:\n{}", tail(log))
}
