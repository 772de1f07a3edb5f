//! A Redis Cluster of three masters on free loopback ports.

use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use super::Redis;

const PAUSE: Duration = Duration::from_millis(20);
/// Looks at the nodes before the cluster is given up: 20 s.
const LOOKS: u32 = 1_000;
/// First and last slot of each node.
const SLOTS: [(u16, u16); 3] = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];

/// A running cluster. Dropping it stops its nodes.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Redis>,
    buses: Vec<u16>,
}

impl Cluster {
    /// Starts three nodes with a third of the slots each. Blocks, for some seconds.
    ///
    /// # Errors
    /// As [`Redis::start`], and when the nodes do not agree.
    pub fn start() -> anyhow::Result<Self> {
        let mut cluster = Self { nodes: Vec::new(), buses: Vec::new() };
        for _ in SLOTS {
            // By default the bus has the port 10,000 above, which a free port need not have.
            let bus = crate::ports::free()?;
            let port = bus.to_string();
            let words = ["--cluster-enabled", "yes", "--cluster-port", &port, "--cluster-node-timeout", "2000"];
            cluster.nodes.push(Redis::start_with(&words)?);
            cluster.buses.push(bus);
        }
        for (i, (node, (first, last))) in cluster.nodes.iter().zip(SLOTS).enumerate() {
            said(node, &format!("CLUSTER SET-CONFIG-EPOCH {}", i + 1))?;
            said(node, &format!("CLUSTER ADDSLOTSRANGE {first} {last}"))?;
        }
        for (node, bus) in cluster.nodes.iter().zip(&cluster.buses).skip(1) {
            said(&cluster.nodes[0], &format!("CLUSTER MEET 127.0.0.1 {} {bus}", node.port()))?;
        }
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// `redis+cluster://` and the nodes' addresses.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// Waits until every node sees all slots served and all nodes.
    ///
    /// # Errors
    /// When that takes longer than 20 s.
    pub fn wait_until_ready(&self) -> anyhow::Result<()> {
        let ready = |node: &Redis| {
            let state = node.text("CLUSTER INFO").unwrap_or_default();
            state.contains("cluster_state:ok") && state.contains("cluster_known_nodes:3")
        };
        for _ in 0..LOOKS {
            if self.nodes.iter().all(ready) {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
        let node = self.nodes.first().context("a cluster has nodes")?;
        bail!("the cluster is not ready after 20 s: {}", node.text("CLUSTER INFO").unwrap_or_default())
    }
}

fn said(node: &Redis, command: &str) -> anyhow::Result<()> {
    let said = node.command(command)?;
    if said == "+OK" { Ok(()) } else { bail!("{command}: {said}") }
}
