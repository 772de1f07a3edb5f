//! A service's schema: its migrations and its version.

use std::time::Duration;

use secrecy::SecretString;
use sqlx::migrate::{MigrateError, Migration as Step, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqlSafeStr as _};

use crate::database::{Database, options};
use crate::{Config, failure};

/// A numbered file of SQL.
#[derive(Debug)]
pub struct Migration {
    /// 1, 2, …
    pub version: i64,
    /// What its file is called.
    pub name: &'static str,
    /// What it does.
    pub sql: &'static str,
}

/// What a service has in Postgres.
#[derive(Debug)]
pub struct Schema {
    /// The schema, which has the table `migrations` and all others of the service.
    pub name: &'static str,
    /// The role of its statements. The first migration makes it, and grants it `SELECT` on the table `migrations`.
    pub role: &'static str,
    /// The program whose command `migrate` brings the schema up to date. It is known to Postgres as `mar-` and this.
    pub program: &'static str,
    /// What is kept there, as in `the session store`.
    pub holds: &'static str,
    /// All migrations in their order; the program is written for the last.
    pub migrations: &'static [Migration],
}

/// Why a store on Postgres cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address makes no sense.
    #[error("store address is not usable")]
    Address(#[source] sqlx::Error),
    /// The database cannot be reached.
    #[error("store is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// The schema is not the one of this version.
    #[error("store schema has version {found}, this program needs {wanted}: {advice}")]
    Schema {
        /// What the database has; 0 for none, or none that the login may see.
        found: i64,
        /// What this program is written for.
        wanted: i64,
        /// What to do about it.
        advice: String,
    },
    /// The login may not do what it has to.
    #[error("store refuses this login")]
    Refused(#[source] sqlx::Error),
    /// The schema cannot be brought up to date, or is newer than this version.
    #[error("store schema cannot be migrated")]
    Migration(#[source] MigrateError),
}

impl Schema {
    /// The version that this program is written for.
    #[must_use]
    pub fn latest(&self) -> i64 {
        self.migrations.last().map_or(0, |last| last.version)
    }

    /// Connects, where configured after bringing the schema up to date.
    ///
    /// # Errors
    /// When the address makes no sense, Postgres cannot be reached in time, or the schema is not the one of this version.
    pub async fn open(&'static self, config: &Config) -> Result<Database, OpenError> {
        let db = Database::new(config, self)?;
        if config.auto_migrate {
            self.migrate(config).await?;
        }
        self.check(&db).await?;
        Ok(db)
    }

    /// Brings the schema up to date over a direct connection of its owner; one of several that do it at a time does it, the
    /// others wait for its advisory lock. Answers its version.
    ///
    /// # Errors
    /// When Postgres cannot be reached, the login may not do it, or the schema is newer than this version.
    pub async fn migrate(&self, config: &Config) -> Result<i64, OpenError> {
        let url = config.migrate_url.as_ref().unwrap_or(&config.url);
        self.migrate_by(url, config.connect_timeout).await
    }

    async fn migrate_by(&self, url: &SecretString, connect_timeout: Duration) -> Result<i64, OpenError> {
        let options = options(url, self.program)?;
        #[expect(clippy::disallowed_methods, reason = "an adapter of a real server waits in real time")]
        let connected = tokio::time::timeout(connect_timeout, options.connect()).await;
        let mut connection = connected
            .map_err(|elapsed| OpenError::Unavailable(sqlx::Error::Io(elapsed.into())))?
            .map_err(OpenError::Unavailable)?;
        self.migrator().run_direct(None, &mut connection, false).await.map_err(|error| match error {
            MigrateError::Execute(error) if failure::passes(&error) => OpenError::Unavailable(error),
            error => OpenError::Migration(error),
        })?;
        connection.close().await.map_err(OpenError::Unavailable)?;
        Ok(self.latest())
    }

    fn migrator(&self) -> Migrator {
        let step = |Migration { version, name, sql }: &Migration| {
            Step::new(*version, (*name).into(), MigrationType::Simple, sql.into_sql_str(), false)
        };
        let mut migrator = Migrator::with_migrations(self.migrations.iter().map(step).collect());
        migrator.create_schema(self.name);
        migrator.dangerous_set_table_name(format!("{}.migrations", self.name));
        migrator
    }

    /// Refuses a schema that another version of the program is written for.
    async fn check(&self, db: &Database) -> Result<(), OpenError> {
        match self.version(db).await {
            Ok(found) if found == self.latest() => Ok(()),
            Ok(found) => Err(self.another(found)),
            Err(error) if failure::is_without_schema(&error) => Err(self.another(0)),
            Err(error) if error.as_database_error().is_some() && !failure::passes(&error) => {
                Err(OpenError::Refused(error))
            }
            Err(error) => Err(OpenError::Unavailable(error)),
        }
    }

    fn another(&self, found: i64) -> OpenError {
        let wanted = self.latest();
        let advice = if found < wanted {
            format!(
                "run `{} migrate` with the owner's migrate_url, and check that the login is a member of {}",
                self.program, self.role
            )
        } else {
            "a newer program has migrated it, start that one".to_owned()
        };
        OpenError::Schema { found, wanted, advice }
    }

    /// The version that the database has.
    ///
    /// # Errors
    /// Postgres gives no answer, or refuses.
    pub async fn version(&self, db: &Database) -> Result<i64, sqlx::Error> {
        let text = format!("SELECT max(version) FROM {}.migrations WHERE success", self.name);
        db.call(|_| async {
            let mut tx = db.begin("").await?;
            let query = sqlx::query_scalar(AssertSqlSafe(text.clone())).persistent(false);
            let current: Option<i64> = query.fetch_one(&mut *tx).await?;
            tx.done().await?;
            Ok(current.unwrap_or(0))
        })
        .await
    }
}
