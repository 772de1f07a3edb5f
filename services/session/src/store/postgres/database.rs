//! The connections, and transactions under a role and a tenant.

use std::time::Duration;

pub(super) use mar_postgres::{Try, Tx};
use sqlx::{Postgres, postgres::PgArguments, query::Query};

use crate::store::{Error, fault::Fault, hook::Hooked};

use super::{OpenError, PostgresConfig, SCHEMA, failure};

/// The role of claims: it sees ids of all tenants and no payload.
const SCHEDULER: &str = "mar_scheduler";

/// The connections under the role `mar_session`, and who is told of what changes.
#[derive(Debug)]
pub(super) struct Database {
    connections: mar_postgres::Database,
    hooked: Hooked,
}

impl mar_postgres::Fault for Fault {
    fn sql(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Sql(error) => Some(error),
            Self::Store(_) => None,
        }
    }
}

impl Database {
    pub(super) async fn open(config: &PostgresConfig, hooked: Hooked) -> Result<Self, OpenError> {
        Ok(Self { connections: SCHEMA.open(config).await?, hooked })
    }

    pub(super) async fn close(&self) {
        self.connections.close().await;
    }

    /// The hooks that are told of a tenant's sessions.
    pub(super) fn hooks_of(&self, tenant: &str) -> &[String] {
        self.hooked.get(tenant).map(Vec::as_slice).unwrap_or_default()
    }

    /// After this a call has answered.
    pub(super) const fn bound(&self) -> Duration {
        self.connections.bound()
    }

    /// Executes a statement that sets its tenant itself, as a transaction of its own; answers the rows that it changed.
    pub(super) async fn execute(
        &self,
        tenant: &str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<u64, sqlx::Error> {
        self.connections.execute(tenant, query).await
    }

    /// Begins a transaction that sees and changes rows of one tenant.
    pub(super) async fn begin(&self, tenant: &str) -> Result<Tx, sqlx::Error> {
        self.connections.begin(tenant).await
    }

    /// Begins a transaction that sees and changes the leases of all tenants, and nothing else.
    pub(super) async fn begin_as_scheduler(&self) -> Result<Tx, sqlx::Error> {
        self.connections.begin_as(SCHEDULER, "").await
    }

    /// Runs a call, and once more (told so) when its connection died or it lost a race that passes by itself.
    pub(super) async fn call<T, F, Fut>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(Try) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Fault>> + Send,
    {
        self.connections.call(call).await.map_err(|fault| match fault {
            Fault::Store(error) => error,
            Fault::Sql(error) => failure::classify(error),
        })
    }

    /// Gives an answer up after the bound.
    pub(super) async fn within_bound<T>(&self, answer: impl Future<Output = T>) -> Result<T, Error> {
        self.connections.within_bound(answer).await.map_err(Error::Unavailable)
    }

    /// The version that the schema has.
    pub(super) async fn version(&self) -> Result<i64, Error> {
        SCHEMA.version(&self.connections).await.map_err(failure::classify)
    }
}
