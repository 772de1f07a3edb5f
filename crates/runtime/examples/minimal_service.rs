//! The least that a service is: its table, and routes that answer health and reflection only.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use mar_runtime::config::{ServiceConfig, Validate};
use mar_runtime::server::{Server, Stack};
use mar_runtime::violations::Violations;
use mar_runtime::{Failure, ServiceName, Start};
use serde::{Deserialize, Serialize};
use tonic::service::Routes;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    listen: SocketAddr,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 0).into() }
    }
}

impl Validate for Config {
    fn validate(&self, _: &mut Violations) {}
}

impl ServiceConfig for Config {
    const SERVICE: ServiceName = ServiceName::Router;

    fn listen(&self) -> SocketAddr {
        self.listen
    }
}

async fn start(start: Start<Config>) -> Result<(), Failure> {
    let stack = Stack::try_new(ServiceName::Router, &start.runtime)?;
    let server = Server::try_new(stack, Routes::default()).await.map_err(Failure::internal)?;
    server.serve(start.listener, start.shutdown).await.map_err(Failure::internal)
}

fn main() -> ExitCode {
    mar_runtime::main(start)
}
