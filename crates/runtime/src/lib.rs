//! What every service of the runtime shares: configuration, telemetry, identity, the layers around its RPCs, serving
//! and draining, and calling its peers.
pub mod auth;
pub mod clock;
pub mod config;
pub mod page;
pub mod peer;
pub mod server;
mod service_name;
pub mod status;
pub mod telemetry;
pub mod violations;

pub use service_name::ServiceName;
