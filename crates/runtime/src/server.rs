//! The layers around a service's RPCs, the same on both transports, and serving over TCP.
//!
//! [`Stack`] turns tonic's routes into [`Routed`]: request id, server span, draining, deadline, identity, size limit,
//! panics and missing error details. A [`Server`] adds health and reflection and serves a `Routed` over HTTP/2; the
//! same `Routed` answers a [`Peer`](crate::peer::Peer) in the same process.

mod body;
mod deadline;
mod drain;
mod frame;
mod front;
mod listen;
mod method;
mod routed;
mod stack;
mod together;

use std::io;

use mar_proto::FILE_DESCRIPTOR_SET;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub(crate) use body::{code_name, trailers};
pub use deadline::Deadline;
pub(crate) use deadline::{TIMEOUT_HEADER, encode as encode_timeout, passed as deadline_passed, read as read_timeout};
pub use drain::Drain;
pub(crate) use frame::FrameMeter;
pub(crate) use method::is_unary;
pub use routed::Routed;
pub use stack::{Stack, StackError};
pub use together::Together;

/// The header that carries the request id, in and out.
pub const REQUEST_ID: &str = "x-request-id";

/// The id of a request, in the extensions of every request that passed the layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub std::sync::Arc<str>);

/// One service with health and reflection, ready to be served.
#[derive(Clone, Debug)]
pub struct Server {
    stack: Stack,
    routed: Routed,
    health: HealthReporter,
}

impl Server {
    /// Puts the layers around `routes` and adds `grpc.health.v1` and reflection (v1 and v1alpha). The service reports
    /// SERVING until it drains.
    ///
    /// # Errors
    /// The descriptors of the API are not readable, which a build of this workspace rules out.
    pub async fn try_new(stack: Stack, routes: Routes) -> Result<Self, tonic_reflection::server::Error> {
        let (health, health_service) = tonic_health::server::health_reporter();
        let grpc = stack.service().grpc();
        health.set_service_status(grpc, ServingStatus::Serving).await;
        let routes = routes
            .add_service(health_service)
            .add_service(reflection([grpc]).build_v1()?)
            .add_service(reflection([grpc]).build_v1alpha()?);
        let routed = stack.wrap(routes);
        Ok(Self { stack, routed, health })
    }

    /// What answers, for a peer in the same process.
    pub fn routed(&self) -> Routed {
        self.routed.clone()
    }

    /// Serves until `shutdown`, then drains: NOT_SERVING, new calls refused, calls in flight finished within
    /// `runtime.limits.drain`, then ended.
    ///
    /// # Errors
    /// The listener's address cannot be read. Failing connections end alone.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        let address = listener.local_addr()?;
        tracing::info!(agentruntime.service = %self.stack.service(), server.address = %address, "serving");
        let connections = listen::Connections::accept(listener, front::Front::new(self.routed.clone()), shutdown).await;
        self.drain().await;
        connections.close().await;
        tracing::info!(agentruntime.service = %self.stack.service(), "stopped");
        Ok(())
    }

    /// Stops taking calls and waits for those in flight, at most `runtime.limits.drain`; what is left is ended. For a
    /// host that serves in process only; [`Server::serve`] does it by itself.
    pub async fn drain(&self) {
        for name in ["", self.stack.service().grpc()] {
            self.health.set_service_status(name, ServingStatus::NotServing).await;
        }
        self.stack.drain().run(self.stack.clock(), self.stack.limits().drain).await;
    }
}

fn reflection(services: impl IntoIterator<Item = &'static str>) -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // The details of refusals travel as `Any`: a client without our code learns their types here.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.health.v1.Health")
        .with_service_name("grpc.reflection.v1.ServerReflection")
        .with_service_name("grpc.reflection.v1alpha.ServerReflection");
    services.into_iter().fold(builder, |builder, service| builder.with_service_name(service))
}
