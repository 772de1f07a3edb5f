//! What every service of the runtime shares: configuration, telemetry, identity, the layers around its RPCs, serving
//! and draining, and calling its peers.
//!
//! A service's binary is `mar_runtime::main(start)`. Its `start` builds a [`server::Stack`], makes a
//! [`server::Server`] of its routes and serves; in one process the same routes are bound to a [`peer::LocalMesh`].
//!
//! - [`process`]: arguments, exit codes, signals.
//! - [`config`]: one TOML, every problem named by its path; [`violations`] collects them.
//! - [`auth`]: who is calling, run tokens, epochs.
//! - [`server`], [`peer`]: the layers on both sides of a call, the same over TCP and in process; [`tls`] below them.
//! - [`status`]: every error with its `google.rpc` details.
//! - [`page`], [`clock`], [`telemetry`]: page tokens, injected time and ids, logs and traces.
//!
//! **Invariant:** tenant, principal and environment come from [`auth`] alone. **Invariant:** no status leaves without
//! an `ErrorInfo`, and INTERNAL never says what happened. **Invariant:** nothing but bytes and headers crosses a
//! [`peer::Peer`], on either transport.

pub mod auth;
pub mod clock;
pub mod config;
pub mod page;
pub mod peer;
pub mod process;
pub mod server;
mod service_name;
pub mod status;
pub mod telemetry;
pub mod tls;
pub mod violations;

/// Of every binary that is made of this crate: a transition allocates much and briefly, and with the system's allocator it
/// costs a quarter more of processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub use process::{Failure, ServiceArgs, Start, main};
pub use service_name::ServiceName;
