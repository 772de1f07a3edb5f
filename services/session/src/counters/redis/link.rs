//! The connection: one server or a cluster, plain or TLS, and what an error of it means. Signals go over one of their own.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use redis::{
    Arg, Client, Cmd, ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind, TlsCertificates, ToRedisArgs,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, PubSub},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::RedisConfig;
use crate::counters::Error;

/// A cluster's client repeats by itself while slots move; beyond this the change is repeated by its caller.
const CLUSTER_RETRIES: u32 = 3;

/// A script that is sent by its hash, and whole where the server does not know it.
#[derive(Debug)]
pub(super) struct Code {
    hash: String,
    text: Cow<'static, str>,
}

impl Code {
    pub(super) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        Self { hash: Script::new(&text).get_hash().to_owned(), text }
    }

    #[cfg(debug_assertions)]
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Begins a call with these keys; arguments follow.
    pub(super) fn call<'a>(&'a self, keys: &[String]) -> Call<'a> {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.hash).arg(keys.len()).arg(keys);
        Call { code: self, command }
    }
}

/// A call of a script.
#[derive(Debug)]
pub(super) struct Call<'a> {
    code: &'a Code,
    /// By hash.
    command: Cmd,
}

impl Call<'_> {
    pub(super) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.command.arg(argument);
        self
    }

    pub(super) fn args(&mut self, arguments: impl IntoIterator<Item = i64>) -> &mut Self {
        for argument in arguments {
            self.command.arg(argument);
        }
        self
    }

    pub(super) fn id(&mut self, id: impl Borrow<Uuid>) -> &mut Self {
        self.arg(id.borrow().hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes())
    }

    /// With the script's text in the place of its hash.
    fn whole(&self) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(&*self.code.text);
        for argument in self.command.args_iter().skip(2) {
            if let Arg::Simple(argument) = argument {
                command.arg(argument);
            }
        }
        command
    }

    async fn run<T: FromRedisValue>(&self, connection: &mut impl ConnectionLike) -> Result<T, RedisError> {
        match self.command.query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.whole().query_async(connection).await
            }
            answer => answer,
        }
    }
}

/// A connection that comes back by itself.
pub(crate) struct Link {
    servers: Servers,
    /// Bound of one try, connecting included.
    try_timeout: Duration,
}

enum Servers {
    One(Box<One>),
    Cluster { client: Box<ClusterClient>, nodes: Vec<Client>, connection: Mutex<Option<ClusterConnection>> },
}

enum Connected {
    One(ConnectionManager),
    Cluster(ClusterConnection),
}

struct One {
    client: Client,
    config: ConnectionManagerConfig,
    manager: RwLock<ConnectionManager>,
}

impl fmt::Debug for Link {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Link").field("try_timeout", &self.try_timeout).finish_non_exhaustive()
    }
}

impl Link {
    /// Connects on first use.
    pub(crate) fn new(config: &RedisConfig) -> Result<Self, RedisError> {
        let url = config.url.expose_secret();
        let certificates =
            config.ca_pem.as_ref().map(|pem| TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) });
        let servers = match nodes(url) {
            Some(urls) => {
                let node = |url: &String| match certificates.clone() {
                    Some(certificates) => Client::build_with_tls(url.as_str(), certificates),
                    None => Client::open(url.as_str()),
                };
                let nodes = urls.iter().map(node).collect::<Result<Vec<_>, _>>()?;
                let mut builder = ClusterClient::builder(urls)
                    .connection_timeout(config.connect_timeout)
                    .response_timeout(config.response_timeout)
                    .retries(CLUSTER_RETRIES)
                    .min_retry_wait(10)
                    .max_retry_wait(100);
                if let Some(certificates) = certificates {
                    builder = builder.certs(certificates);
                }
                Servers::Cluster { client: Box::new(builder.build()?), nodes, connection: Mutex::new(None) }
            }
            None => {
                let client = match certificates {
                    Some(certificates) => Client::build_with_tls(url, certificates)?,
                    None => Client::open(url)?,
                };
                let config = ConnectionManagerConfig::new()
                    .set_response_timeout(Some(config.response_timeout))
                    .set_connection_timeout(Some(config.connect_timeout))
                    // The next change connects again; a backoff in here would only keep this one waiting.
                    .set_number_of_retries(0)
                    .set_pipeline_buffer_size(1024);
                let manager = RwLock::new(ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?);
                Servers::One(Box::new(One { client, config, manager }))
            }
        };
        Ok(Self { servers, try_timeout: config.response_timeout.saturating_add(config.connect_timeout / 2) })
    }

    /// The database that the address names; a cluster has the first alone.
    pub(crate) fn database(&self) -> i64 {
        match &self.servers {
            Servers::One(one) => one.client.get_connection_info().redis_settings().db(),
            Servers::Cluster { .. } => 0,
        }
    }

    /// A connection for channels. Of a cluster that of the first node that answers: what is published on one is heard on all.
    pub(crate) async fn subscription(&self) -> Result<PubSub, RedisError> {
        match &self.servers {
            Servers::One(one) => one.client.get_async_pubsub().await,
            Servers::Cluster { nodes, .. } => {
                let mut last = None;
                for node in nodes {
                    match node.get_async_pubsub().await {
                        Ok(subscription) => return Ok(subscription),
                        Err(error) => last = Some(error),
                    }
                }
                Err(last.unwrap_or_else(|| RedisError::from((ErrorKind::InvalidClientConfig, "no node"))))
            }
        }
    }

    /// Publishes on a channel, once.
    pub(crate) async fn publish(&self, channel: &str, message: &[u8]) -> Result<(), Error> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(channel).arg(message);
        let sent = async {
            match self.connected().await? {
                Connected::One(mut connection) => command.exec_async(&mut connection).await,
                Connected::Cluster(mut connection) => command.exec_async(&mut connection).await,
            }
        };
        self.bounded(sent).await
    }

    /// Runs a script, which has to be safe to repeat: a try without an answer may have run, or have met a connection that
    /// had died meanwhile, so it is repeated once.
    pub(super) async fn call<T: FromRedisValue>(&self, call: &Call<'_>) -> Result<T, Error> {
        match self.call_once(call).await {
            Err(Error::Unavailable(_)) => self.call_once(call).await,
            answer => answer,
        }
    }

    /// Every error is [`Error::Unavailable`]: refused writes (`READONLY`, `OOM`, `MASTERDOWN`), a server that loads, a cluster
    /// without the slot, a lost connection. None of them lets anything through.
    pub(super) async fn call_once<T: FromRedisValue>(&self, call: &Call<'_>) -> Result<T, Error> {
        self.bounded(self.ask(call)).await
    }

    async fn bounded<T>(&self, asked: impl Future<Output = Result<T, RedisError>>) -> Result<T, Error> {
        #[expect(clippy::disallowed_methods, reason = "an adapter of a real server waits in real time")]
        let answer = tokio::time::timeout(self.try_timeout, asked).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.look_again(&error).await;
                Err(unavailable(error))
            }
            Err(elapsed) => Err(unavailable(elapsed)),
        }
    }

    async fn ask<T: FromRedisValue>(&self, call: &Call<'_>) -> Result<T, RedisError> {
        match self.connected().await? {
            Connected::One(mut connection) => call.run(&mut connection).await,
            Connected::Cluster(mut connection) => call.run(&mut connection).await,
        }
    }

    async fn connected(&self) -> Result<Connected, RedisError> {
        match &self.servers {
            Servers::One(one) => Ok(Connected::One(one.manager.read().unwrap_or_else(PoisonError::into_inner).clone())),
            Servers::Cluster { client, connection, .. } => {
                let mut kept = connection.lock().await;
                Ok(Connected::Cluster(match &*kept {
                    Some(connection) => connection.clone(),
                    None => kept.insert(client.get_async_connection().await?).clone(),
                }))
            }
        }
    }

    /// A server that takes no writes any more has been replaced: the address may lead to another one by now, but the
    /// connection to the old one stays open. A cluster that cannot be reached is asked for its nodes again.
    async fn look_again(&self, error: &RedisError) {
        match &self.servers {
            Servers::One(one) => {
                let replaced =
                    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown))
                        || error.to_string().contains("READONLY");
                if replaced
                    && let Ok(fresh) = ConnectionManager::new_lazy_with_config(one.client.clone(), one.config.clone())
                {
                    *one.manager.write().unwrap_or_else(PoisonError::into_inner) = fresh;
                }
            }
            Servers::Cluster { connection, .. } => {
                if !matches!(error.kind(), ErrorKind::Server(_)) {
                    *connection.lock().await = None;
                }
            }
        }
    }
}

/// The nodes of `redis+cluster://[user:password@]host:port,host:port…` (`rediss+cluster` for TLS), each as an address of its
/// own; none when it is the address of one server.
fn nodes(url: &str) -> Option<Vec<String>> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.strip_suffix("+cluster")?;
    let rest = rest.trim_end_matches('/');
    let (login, hosts) =
        rest.rsplit_once('@').map_or((String::new(), rest), |(login, hosts)| (format!("{login}@"), hosts));
    Some(hosts.split(',').map(|host| format!("{scheme}://{login}{}", host.trim())).collect())
}

pub(super) fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Unavailable(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::nodes;

    #[test]
    fn a_clusters_address_names_its_nodes() {
        assert_eq!(nodes("redis://a:1/0"), None);
        assert_eq!(nodes("redis+cluster://a:1,b:2/").unwrap(), ["redis://a:1", "redis://b:2"]);
        assert_eq!(nodes("rediss+cluster://u:p@a:1, b:2").unwrap(), ["rediss://u:p@a:1", "rediss://u:p@b:2"]);
    }
}
