//! The crate as its callers use it.

#[cfg(test)]
mod decisions;
#[cfg(test)]
mod narrowing;
#[cfg(test)]
mod refusals;
