//! What every service of the runtime shares: configuration, telemetry, identity, the layers around its RPCs, serving
//! and draining, and calling its peers.
pub mod auth;
pub mod clock;
pub mod config;
pub mod page;
mod service_name;
pub mod status;
pub mod violations;

pub use service_name::ServiceName;
