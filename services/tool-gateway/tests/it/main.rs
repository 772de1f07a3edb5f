//! The gateway over real gRPC, with a real MCP server over stdio and HTTP and real folders.

#[cfg(test)]
mod decisions;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod searching;
#[cfg(test)]
mod upstreams;
