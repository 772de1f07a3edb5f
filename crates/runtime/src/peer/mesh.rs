//! The services of one process, by name.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::{Peer, Settings, Transport};
use crate::ServiceName;
use crate::clock::SystemClock;
use crate::config::LimitsConfig;
use crate::server::Routed;

/// Lets services of one process call each other, whichever starts first: a peer is found when it is called. Cheap to
/// clone.
#[derive(Clone, Debug, Default)]
pub struct LocalMesh(Arc<RwLock<HashMap<ServiceName, Routed>>>);

impl LocalMesh {
    /// A mesh without services.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service, or replaces it.
    pub fn bind(&self, routed: Routed) {
        let name = routed.stack().service();
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, routed);
    }

    /// Takes a service away. Its calls in flight go on.
    pub fn unbind(&self, name: ServiceName) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&name);
    }

    /// The peer `name`. While no such service is bound its calls fail with UNAVAILABLE, `PEER_UNAVAILABLE`.
    pub fn peer(&self, name: ServiceName, limits: &LimitsConfig) -> Peer {
        let settings = Settings::new(name, limits, Arc::new(SystemClock::new()));
        Peer { name, transport: Transport::Mesh(self.clone()), settings }
    }

    pub(super) fn find(&self, name: ServiceName) -> Option<Routed> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&name).cloned()
    }
}
