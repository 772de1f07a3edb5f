//! The service over real gRPC, with a router and a tool gateway that answer as they are told.

#[cfg(test)]
mod fakes;
#[cfg(test)]
mod generate;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod migrating;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod process;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod render;
#[cfg(test)]
mod stored;
