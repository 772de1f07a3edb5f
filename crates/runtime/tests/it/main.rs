//! Real calls through the layers, each over TCP and in process.

mod auth;
mod calls;
mod drain;
mod harness;
mod trace;
