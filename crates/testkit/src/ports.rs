//! Free loopback ports. A server that can be handed a bound listener should be; a port number is for child processes.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// A loopback port that was free a moment ago. Someone else may take it before it is used.
///
/// # Errors
/// When no port can be bound.
pub fn free() -> io::Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr().map(|address| address.port())
}

/// Different free loopback ports, as [`free`].
///
/// # Errors
/// When they cannot all be bound.
pub fn free_many(count: usize) -> io::Result<Vec<u16>> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held = (0..count).map(bind).collect::<io::Result<Vec<_>>>()?;
    held.iter().map(|listener| listener.local_addr().map(|address| address.port())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let ports = super::free_many(20).unwrap();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 20);
        std::net::TcpListener::bind(("127.0.0.1", super::free().unwrap())).unwrap();
    }
}
