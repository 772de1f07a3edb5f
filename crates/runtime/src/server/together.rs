//! Several services of one process behind one listener.

use std::io;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::front::Front;
use super::listen::Connections;
use super::{Server, reflection};

/// Services of one process that share a listener: each answers its own methods, and one health service and one
/// reflection speak for all.
#[derive(Clone, Debug)]
pub struct Together {
    servers: Vec<Server>,
    front: Front,
    health: HealthReporter,
}

impl Together {
    /// Puts `first` and `others` behind one front. They drain in this order, so name callers before whom they call.
    ///
    /// # Errors
    /// The descriptors of the API are not readable, which a build of this workspace rules out.
    pub async fn try_new(
        first: Server,
        others: impl IntoIterator<Item = Server>,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let stack = first.stack.clone();
        let servers: Vec<_> = std::iter::once(first).chain(others).collect();
        let names: Vec<_> = servers.iter().map(|server| server.stack.service().grpc()).collect();
        let (health, health_service) = tonic_health::server::health_reporter();
        for name in &names {
            health.set_service_status(*name, ServingStatus::Serving).await;
        }
        let routes = Routes::new(health_service)
            .add_service(reflection(names.iter().copied()).build_v1()?)
            .add_service(reflection(names.iter().copied()).build_v1alpha()?);
        let front = Front::of_services(servers.iter().map(Server::routed), stack.wrap(routes));
        Ok(Self { servers, front, health })
    }

    /// Serves until `shutdown`, then drains one service after the other and closes the connections.
    ///
    /// # Errors
    /// The listener's address cannot be read. Failing connections end alone.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        let address = listener.local_addr()?;
        tracing::info!(server.address = %address, services = self.servers.len(), "serving");
        let connections = Connections::accept(listener, self.front.clone(), shutdown).await;
        self.health.set_service_status("", ServingStatus::NotServing).await;
        for server in &self.servers {
            self.health.set_service_status(server.stack.service().grpc(), ServingStatus::NotServing).await;
        }
        for server in &self.servers {
            server.drain().await;
        }
        connections.close().await;
        tracing::info!(server.address = %address, "stopped");
        Ok(())
    }
}
