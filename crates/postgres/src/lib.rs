//! A service's store on Postgres: its connections, the role and tenant that statements run under, and its schema.
//!
//! **Invariant:** whoever logs in, every statement runs under the service's role and for one tenant, or under a role that
//! the service asks for by name; behind a transaction-pooling proxy as on a direct connection.
//!
//! Pieces: [`Config`] (where Postgres is), [`Database`] and [`Tx`] (transactions under a role and a tenant), [`Schema`] (its
//! migrations and its version), [`migrate`] (the command that brings it up to date), [`failure`] (what Postgres's errors
//! mean).

mod config;
mod connections;
mod database;
pub mod failure;
pub mod migrate;
mod schema;

pub use config::{Config, Pooler, is_postgres};
pub use database::{Database, Fault, Try, Tx};
pub use schema::{Migration, OpenError, Schema};
