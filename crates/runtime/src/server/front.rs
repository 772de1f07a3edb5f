//! Which routes answer a path.

use std::sync::Arc;

use super::routed::Routed;
use super::stack::Stack;

/// The routes behind one listener. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Front {
    services: Arc<[Routed]>,
    rest: Routed,
}

impl Front {
    /// One service answers everything.
    pub(super) fn new(routed: Routed) -> Self {
        Self { services: Arc::new([]), rest: routed }
    }

    /// Each service answers its own methods, `rest` everything else.
    pub(super) fn of_services(services: impl IntoIterator<Item = Routed>, rest: Routed) -> Self {
        Self { services: services.into_iter().collect(), rest }
    }

    /// What answers the path `/{service}/{method}`.
    pub(super) fn of(&self, path: &str) -> &Routed {
        let name = path.strip_prefix('/').and_then(|path| path.split('/').next()).unwrap_or_default();
        let mut services = self.services.iter();
        services.find(|routed| routed.stack().service().grpc() == name).unwrap_or(&self.rest)
    }

    /// The layers around what no service answers.
    pub(super) fn stack(&self) -> &Stack {
        self.rest.stack()
    }
}
