//! The router's components.

use std::collections::BTreeMap;
use std::sync::Arc;

use mar_descriptor::VerifyingKeys;
use mar_proto::router::router_service_server::RouterServiceServer;
use mar_runtime::clock::{Clock, Ids, SystemClock, SystemIds};
use mar_runtime::status::chain;
use mar_runtime::violations::Violations;
use tonic::service::Routes;

use crate::catalogue::Catalogue;
use crate::config::RouterConfig;
use crate::counting::Counting;
use crate::descriptors::Descriptors;
use crate::dispatch::Dispatcher;
use crate::policy::RoutingPolicies;
use crate::provider::Provider;
use crate::provider::credential::Credential;
use crate::provider::http;
use crate::provider::openai::OpenAi;
use crate::provider::pool::Pool;
use crate::reach::Reach;
use crate::tokens::TokenCounter;

/// What the router gets from its host.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The time. It has to be the clock of the layers around the router, which date deadlines by it.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub ids: Arc<dyn Ids>,
    /// Keys whose descriptors are accepted besides those of `router.descriptor_key_files`.
    pub descriptor_keys: VerifyingKeys,
}

impl Default for Deps {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock::new()), ids: Arc::new(SystemIds), descriptor_keys: VerifyingKeys::new() }
    }
}

/// The model router. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Router(Arc<App>);

/// The components.
#[derive(Debug)]
pub(crate) struct App {
    /// What is configured.
    pub config: RouterConfig,
    /// All models.
    pub catalogue: Arc<Catalogue>,
    /// How they are ordered.
    pub policies: Arc<RoutingPolicies>,
    /// Who serves them.
    pub pool: Pool,
    /// Which of them answer at this moment.
    pub reach: Reach,
    /// What counts tokens.
    pub counting: Counting,
    /// Which descriptors are known.
    pub descriptors: Descriptors,
    /// What turns a wish into a turn.
    pub dispatcher: Dispatcher,
}

impl Router {
    /// Reads catalogue and keys and sets the providers up. Connects to nobody.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration, relative to `router`.
    pub fn try_new(config: RouterConfig, deps: Deps) -> Result<Self, Violations> {
        let mut found = Violations::new();
        let catalogue = config.load_catalogue();
        let catalogue = match catalogue {
            Ok(catalogue) => Some(Arc::new(catalogue)),
            Err(wrong) => {
                found.within("catalogue", |found| found.extend(wrong));
                None
            }
        };
        let mut keys = config.load_keys(&mut found);
        keys.extend(deps.descriptor_keys);
        let policies = RoutingPolicies::try_new(&config.routing_policies, &config.default_routing_policy);
        found.require(policies.is_some(), "default_routing_policy", "is not among the routing policies");
        let pool = pool(&config, &deps.clock, &mut found);
        let (Some(catalogue), Some(policies)) = (catalogue, policies.map(Arc::new)) else {
            return Err(found);
        };
        let counting = Counting::new(TokenCounter::default(), pool.clone());
        let reach = Reach::new(pool.clone(), Arc::clone(&deps.clock));
        let dispatcher = Dispatcher {
            catalogue: Arc::clone(&catalogue),
            policies: Arc::clone(&policies),
            pool: pool.clone(),
            counting: counting.clone(),
            clock: deps.clock,
            ids: deps.ids,
            retry: config.retry,
        };
        let descriptors = Descriptors::new(keys);
        let app = App { config, catalogue, policies, pool, reach, counting, descriptors, dispatcher };
        found.into_result(Self(Arc::new(app)))
    }

    /// The generated service. Messages are bounded by the layers around it.
    pub fn service(&self) -> RouterServiceServer<Self> {
        RouterServiceServer::new(self.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    /// The routes, for the layers of `mar_runtime`.
    pub fn routes(&self) -> Routes {
        Routes::new(self.service())
    }

    pub(crate) fn app(&self) -> &App {
        &self.0
    }
}

fn pool(config: &RouterConfig, clock: &Arc<dyn Clock>, found: &mut Violations) -> Pool {
    let client = match http::client(&config.http) {
        Ok(client) => client,
        Err(error) => {
            found.field("http", chain(&error));
            return Pool::default();
        }
    };
    let mut providers: BTreeMap<String, Arc<dyn Provider>> = BTreeMap::new();
    for (name, provider) in &config.providers {
        found.within(&format!("providers.{name}"), |found| {
            let headers = provider.header_map(found);
            let Some(url) = provider.url() else {
                found.field("base_url", "must be a URL such as https://api.openai.com/v1");
                return;
            };
            let credential = Credential::new(provider.api_key.clone(), clock.monotonic());
            if let Some(problem) = credential.problem(clock.monotonic()) {
                tracing::info!(provider = %name, %problem, "the provider's models cannot be called");
            }
            let made = OpenAi::new(
                client.clone(),
                &url,
                headers,
                provider.dialect(),
                provider.bounds,
                credential,
                Arc::clone(clock),
            );
            providers.insert(name.clone(), Arc::new(made));
        });
    }
    Pool::new(providers)
}
