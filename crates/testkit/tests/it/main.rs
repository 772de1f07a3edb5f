//! The testkit's own tests, over real sockets and processes.

#[cfg(test)]
mod rehearsal;
#[cfg(test)]
mod servers;
