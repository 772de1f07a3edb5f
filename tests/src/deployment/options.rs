//! What is to be started.

/// In how many processes the services run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `mar up`: client on server in one process.
    One,
    /// The four binaries over TCP.
    Four,
}

/// Where sessions and counters are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stores {
    /// SQLite files and counters of the process.
    Embedded,
    /// Postgres and Redis, shared by the tests of a process, with a database of its own.
    Servers,
}

/// What is to be started.
#[derive(Debug, Clone)]
pub struct Options {
    /// In how many processes.
    pub shape: Shape,
    /// On which stores.
    pub stores: Stores,
    /// What the model does, in the rehearsal's language; empty for its built-in agent.
    pub script: String,
    /// Documents of the searched folder.
    pub documents: Vec<(&'static str, &'static str)>,
    /// Further configuration, in TOML.
    pub extra: String,
    /// Environment of the process that hosts session.
    pub env: Vec<(&'static str, String)>,
    /// The router's catalogue, in TOML; empty for the one that is shipped.
    pub catalogue: String,
    /// With [`Stores::Servers`]: servers of its own, which a test may stop, instead of the shared ones.
    pub own_servers: bool,
    /// With servers of its own: they are reached through doors, so that others can take their place.
    pub doors: bool,
    /// With servers of its own: Postgres is reached through a pgbouncer with its default settings, and its schemas are brought
    /// up to date by the services' commands.
    pub pooler: bool,
    /// Its own Postgres writes to disk before a commit returns, as in production.
    pub durable: bool,
    /// The table `[session.replicas]`.
    pub replicas: String,
    /// The services reach each other over TLS.
    pub secured: bool,
}

impl Options {
    /// One process on embedded stores, with two documents and the built-in agent.
    pub fn new(shape: Shape, stores: Stores) -> Self {
        Self {
            shape,
            stores,
            script: String::new(),
            documents: vec![
                ("tides.md", "# Tides\n\nThe harbour of Marel floods at spring tide, twice a month.\n"),
                ("lamps.md", "# Lamps\n\nThe lighthouse of Marel burns whale oil and is lit at dusk.\n"),
            ],
            extra: String::new(),
            env: Vec::new(),
            catalogue: String::new(),
            own_servers: false,
            doors: false,
            pooler: false,
            durable: false,
            replicas: "heartbeat = \"50ms\"\npatience = \"300ms\"".to_owned(),
            secured: false,
        }
    }

    /// Everybody shows a certificate to everybody: those that a test puts into the folder `tls` before it starts anything.
    #[must_use]
    pub fn secured(mut self) -> Self {
        self.secured = true;
        let tls = "certificate_file = \"{folder}/tls/tls.pem\"\nkey_file = \"{folder}/tls/tls.key\"\n\
                   ca_file = \"{folder}/tls/ca.pem\"\nclient_certificates = \"required\"\n";
        self.extra(format!("[runtime.tls]\n{tls}"))
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.secured { "https" } else { "http" }
    }

    /// With a Postgres and a Redis that nobody else uses.
    #[must_use]
    pub fn own_servers(mut self) -> Self {
        self.own_servers = true;
        self
    }

    /// With a Postgres and a Redis that nobody else uses, behind doors that can lead to others.
    #[must_use]
    pub fn behind_doors(mut self) -> Self {
        self.doors = true;
        self.own_servers()
    }

    /// With a Postgres and a Redis that nobody else uses, the first behind a pgbouncer that pools transactions.
    #[must_use]
    pub fn behind_a_pooler(mut self) -> Self {
        self.pooler = true;
        self.own_servers()
    }

    /// With a Postgres and a Redis of its own, of which the first writes to disk before a commit returns.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self.own_servers()
    }

    /// With these lines in the table `[session.replicas]`, instead of short spans for tests.
    #[must_use]
    pub fn replicas(mut self, toml: impl Into<String>) -> Self {
        self.replicas = toml.into();
        self
    }

    /// With this script.
    #[must_use]
    pub fn script(mut self, script: impl Into<String>) -> Self {
        self.script = script.into();
        self
    }

    /// With this configuration besides.
    #[must_use]
    pub fn extra(mut self, toml: impl Into<String>) -> Self {
        self.extra = toml.into();
        self
    }

    /// With these models.
    #[must_use]
    pub fn catalogue(mut self, toml: impl Into<String>) -> Self {
        self.catalogue = toml.into();
        self
    }

    /// With this variable in session's environment.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }
}
