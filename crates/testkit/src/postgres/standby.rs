//! Standbys: copies of a primary that follow it, and take its place.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::{Account, Postgres};

const PAUSE: Duration = Duration::from_millis(20);
/// Looks at a server before it is given up: 30 s.
const LOOKS: u32 = 1_500;

impl Postgres {
    /// Copies this server and starts the copy as its standby, which follows it. Blocks, for some seconds.
    ///
    /// # Errors
    /// When the copy cannot be made or does not start; with what was said.
    pub fn standby(&self) -> anyhow::Result<Self> {
        let account = Account::find()?;
        let home = tempfile::Builder::new().prefix("mar-standby-").tempdir().context("cannot make a directory")?;
        account.own(home.path())?;
        let output = account
            .command(&self.binaries.path("pg_basebackup"))
            .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync", "--pgdata"])
            .arg(home.path().join("data"))
            .args(["--dbname", &format!("host=127.0.0.1 port={} user=postgres", self.port)])
            .current_dir(home.path())
            .output()
            .context("cannot run pg_basebackup")?;
        if !output.status.success() {
            bail!("pg_basebackup: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let mut standby = Self {
            binaries: self.binaries.clone(),
            account,
            directory: home.path().to_owned(),
            port: 0,
            settings: self.settings.clone(),
            server: Mutex::new(None),
            _home: home,
        };
        standby.start_on_some_port()?;
        until("the standby follows", || self.followers("state = 'streaming'"))?;
        Ok(standby)
    }

    /// From now on a commit is acknowledged when a standby has it, too. Blocks until one has caught up.
    ///
    /// # Errors
    /// When the server refuses, or no standby follows.
    pub fn wait_for_standbys(&self) -> anyhow::Result<()> {
        self.execute("alter system set synchronous_standby_names = '*'")?;
        self.execute("select pg_reload_conf()")?;
        until("a standby is synchronous", || self.followers("sync_state = 'sync'"))
    }

    /// From now on commits wait for nobody.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn wait_for_nobody(&self) -> anyhow::Result<()> {
        self.execute("alter system reset synchronous_standby_names")?;
        self.execute("select pg_reload_conf()").map(drop)
    }

    /// Of a standby: hears of nothing more that its primary commits.
    ///
    /// # Errors
    /// When it refuses, or goes on listening.
    pub fn stop_following(&self) -> anyhow::Result<()> {
        self.execute("alter system set primary_conninfo = ''")?;
        self.execute("select pg_reload_conf()")?;
        until("the standby is deaf", || Ok(self.execute("select count(*) from pg_stat_wal_receiver")? == "0"))
    }

    /// Makes a standby the primary, on a timeline of its own.
    ///
    /// # Errors
    /// When it does not become one in time.
    pub fn promote(&self) -> anyhow::Result<()> {
        self.execute("select pg_promote(wait => false)")?;
        until("the standby leads", || Ok(self.execute("select pg_is_in_recovery()")? == "f"))
    }

    fn followers(&self, which: &str) -> anyhow::Result<bool> {
        Ok(self.execute(&format!("select count(*) from pg_stat_replication where {which}"))? != "0")
    }
}

fn until(what: &str, holds: impl Fn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    for _ in 0..LOOKS {
        if holds()? {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
    bail!("in vain: {what}")
}

/// Settings of a server that has standbys, which keep what it writes small.
#[must_use]
pub fn small() -> [(&'static str, &'static str); 4] {
    [
        ("max_wal_size", "64MB"),
        ("min_wal_size", "32MB"),
        ("wal_keep_size", "0"),
        // A standby whose primary was away looks for it again.
        ("wal_retrieve_retry_interval", "100ms"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_takes_the_place_of_its_primary_with_what_it_has_heard() {
        let primary =
            small().into_iter().fold(Postgres::builder(), |builder, (name, value)| builder.setting(name, value));
        let primary = primary.start().unwrap();
        primary.execute("create table heard (n int)").unwrap();
        let standby = primary.standby().unwrap();
        primary.wait_for_standbys().unwrap();
        primary.execute("insert into heard values (1)").unwrap();
        primary.wait_for_nobody().unwrap();
        standby.stop_following().unwrap();
        primary.execute("insert into heard values (2)").unwrap();
        primary.crash().unwrap();
        standby.promote().unwrap();
        assert_eq!(standby.execute("select n from heard").unwrap(), "1");
        standby.execute("insert into heard values (3)").unwrap();
        let next = standby.standby().unwrap();
        assert_eq!(next.execute("select n from heard order by n").unwrap(), "1\n3");
    }
}
