//! The gateway over real gRPC, with a real MCP server over stdio and HTTP and real folders.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time")]

#[cfg(test)]
mod approvals;
#[cfg(test)]
mod deciding;
#[cfg(test)]
mod decisions;
#[cfg(test)]
mod elsewhere;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod order;
#[cfg(test)]
mod probes;
#[cfg(test)]
mod results;
#[cfg(test)]
mod searching;
#[cfg(test)]
mod upstreams;
