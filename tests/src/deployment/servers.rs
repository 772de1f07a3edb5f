//! Where a system keeps sessions and counters.

use mar_testkit::door::Door;
use mar_testkit::pgbouncer::PgBouncer;
use mar_testkit::postgres::{Database, Postgres, standby};
use mar_testkit::redis::Redis;

use super::{Options, Stores};

/// The role of each service that keeps something in Postgres.
const ROLES: [&str; 2] = ["mar_session", "mar_agent"];
/// The login of the application behind the pooler: it owns nothing.
const APPLICATION: &str = "app";

/// The servers of a system: none on embedded stores.
#[derive(Default)]
pub(super) struct Servers {
    /// The URLs of Postgres and Redis as the services reach them.
    pub(super) urls: Option<(String, String)>,
    /// A part of the shared Postgres.
    pub(super) database: Option<Database>,
    pub(super) postgres: Option<Postgres>,
    pub(super) redis: Option<Redis>,
    /// What leads to Postgres and to Redis.
    pub(super) doors: Option<(Door, Door)>,
    pub(super) pooler: Option<PgBouncer>,
}

impl Servers {
    pub(super) async fn of(options: &Options) -> anyhow::Result<Self> {
        match options.stores {
            Stores::Embedded => Ok(Self::default()),
            Stores::Servers if options.own_servers => Self::own(options).await,
            Stores::Servers => Self::shared(),
        }
    }

    fn shared() -> anyhow::Result<Self> {
        let servers = || anyhow::Ok((Postgres::shared()?.database()?, Redis::shared()?.database()?));
        let (database, redis) = tokio::task::block_in_place(servers)?;
        Ok(Self { urls: Some((database.to_string(), redis)), database: Some(database), ..Self::default() })
    }

    async fn own(options: &Options) -> anyhow::Result<Self> {
        let (postgres, redis) = tokio::task::block_in_place(|| started(options.durable))?;
        let (mut urls, mut doors) = ((postgres.url(), redis.url()), None);
        if options.doors {
            let opened = (Door::open(postgres.port()).await?, Door::open(redis.port()).await?);
            urls.0 = through(&urls.0, postgres.port(), &opened.0);
            urls.1 = through(&urls.1, redis.port(), &opened.1);
            doors = Some(opened);
        }
        let pooler = options.pooler.then(|| tokio::task::block_in_place(|| pooler(&postgres))).transpose()?;
        Ok(Self { urls: Some(urls), database: None, postgres: Some(postgres), redis: Some(redis), doors, pooler })
    }
}

/// A pooler whose clients are a login that may take on the services' roles and nothing else.
fn pooler(postgres: &Postgres) -> anyhow::Result<PgBouncer> {
    for role in ROLES {
        postgres.execute(&format!("CREATE ROLE {role} NOLOGIN NOINHERIT"))?;
    }
    postgres.execute(&format!("CREATE ROLE {APPLICATION} LOGIN; GRANT {} TO {APPLICATION}", ROLES.join(", ")))?;
    PgBouncer::start(postgres, APPLICATION)
}

/// A Postgres that can have standbys, and a Redis.
fn started(durable: bool) -> anyhow::Result<(Postgres, Redis)> {
    let settings = standby::small().into_iter();
    let wanted = if durable { Postgres::builder().durable() } else { Postgres::builder() };
    let postgres = settings.fold(wanted, |builder, (name, value)| builder.setting(name, value));
    Ok((postgres.start()?, Redis::start()?))
}

/// The URL of a server by its door.
fn through(url: &str, port: u16, door: &Door) -> String {
    url.replace(&format!(":{port}/"), &format!(":{}/", door.port()))
}
