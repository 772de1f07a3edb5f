//! The gateway over real gRPC, with a real MCP server over stdio and HTTP and real folders.

mod decisions;
mod foreign;
mod harness;
mod searching;
mod upstreams;
