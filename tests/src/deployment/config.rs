//! The files that the processes of a system read.

use std::fmt::Write as _;

use mar_runtime::auth::keys;
use mar_runtime::clock::SystemIds;

use super::{Deployment, Shape};

impl Deployment {
    pub(super) fn write_files(&self) -> anyhow::Result<()> {
        let folder = self.folder.path();
        std::fs::create_dir_all(self.documents())?;
        for (name, text) in &self.options.documents {
            std::fs::write(self.documents().join(name), text)?;
        }
        for name in ["session", "generator"] {
            let pair = keys::generate(&SystemIds)?;
            keys::write(&pair, &folder.join(format!("{name}.pem")), &folder.join(format!("{name}.pub.pem")))?;
        }
        std::fs::write(folder.join("runtime.toml"), self.config()?)?;
        std::fs::write(folder.join("catalogue.toml"), &self.options.catalogue)?;
        Ok(())
    }

    /// A URL of Postgres as the services reach it.
    fn pooled(&self, url: &str) -> String {
        self.pooler.as_ref().map_or_else(|| url.to_owned(), |pooler| pooler.url(url))
    }

    fn config(&self) -> anyhow::Result<String> {
        let folder = self.folder.path().display();
        let sqlite = |name: &str| format!("sqlite:{folder}/{name}.db");
        let (session, agents, counters) = match &self.urls {
            None => (sqlite("session"), sqlite("agents"), "memory:".to_owned()),
            Some((postgres, redis)) => (self.pooled(postgres), self.pooled(postgres), redis.clone()),
        };
        let store = match (&self.urls, &self.pooler) {
            (Some((owner, _)), Some(_)) => format!(", migrate_url = \"{owner}\", pooler = \"transaction\""),
            _ => String::new(),
        };
        let [p0, p1, p2, p3] = [0, 1, 2, 3].map(|index| self.ports[index]);
        let mut text = format!(
            r#"
[runtime.run_tokens]
verification_key_files = ["{folder}/session.pub.pem"]
[runtime.limits]
drain = "2s"
[session]
listen = "127.0.0.1:{p0}"
signing_key = {{ file = "{folder}/session.pem" }}
descriptor_key_files = ["{folder}/generator.pub.pem"]
store = {{ url = "{session}"{store} }}
counters = {{ url = "{counters}" }}
[session.replicas]
{replicas}
[router]
listen = "127.0.0.1:{p1}"
descriptor_key_files = ["{folder}/generator.pub.pem"]
providers.rehearsal = {{ base_url = "{rehearsal}" }}
[agent_generator]
listen = "127.0.0.1:{p2}"
signing_key = {{ file = "{folder}/generator.pem" }}
store = {{ url = "{agents}"{store} }}
[tool_gateway]
listen = "127.0.0.1:{p3}"
descriptor_key_files = ["{folder}/generator.pub.pem"]
upstreams.docs = {{ kind = "search", folder = "{folder}/documents", rescan = "200ms" }}
"#,
            rehearsal = self.rehearsal.api_url(),
            replicas = self.options.replicas,
        );
        let scheme = self.options.scheme();
        if self.options.shape == Shape::Four {
            write!(
                text,
                r#"
[runtime.peers]
session = "{scheme}://127.0.0.1:{p0}"
router = "{scheme}://127.0.0.1:{p1}"
agent_generator = "{scheme}://127.0.0.1:{p2}"
tool_gateway = "{scheme}://127.0.0.1:{p3}"
"#
            )?;
        }
        text.push_str(&self.options.extra.replace("{folder}", &folder.to_string()));
        Ok(text)
    }
}
