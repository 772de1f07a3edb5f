//! The router over real gRPC, with scripted providers.

#[cfg(test)]
mod alone;
#[cfg(test)]
mod budget;
#[cfg(test)]
mod constrained;
#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod generate;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod live;
