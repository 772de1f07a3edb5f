//! Free loopback ports. A server that can be handed a bound listener should be; a port number is for child processes.
//!
//! The numbers lie below the range that the system takes outgoing ports from, so that no connection sits on a port while
//! its server is down. Each process begins at another place and never hands a number out twice before it has been round.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

const PORTS: Range<u16> = 15_000..32_000;
/// How far apart two processes begin, whose ids usually follow each other.
const STRIDE: u32 = 409;

/// A loopback port that was free a moment ago. Someone else may take it before it is used.
///
/// # Errors
/// When no port can be bound.
pub fn free() -> io::Result<u16> {
    static HANDED_OUT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    let first = std::process::id().wrapping_mul(STRIDE) % u32::from(count);
    for _ in 0..count {
        let offset = first + u32::from(HANDED_OUT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(offset % u32::from(count)).unwrap_or_default();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no port is free"))
}

/// Different free loopback ports, as [`free`].
///
/// # Errors
/// When there are not so many.
pub fn free_many(count: usize) -> io::Result<Vec<u16>> {
    (0..count).map(|_| free()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let ports = super::free_many(20).unwrap();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 20);
        assert!(ports.iter().all(|port| super::PORTS.contains(port)));
        std::net::TcpListener::bind(("127.0.0.1", super::free().unwrap())).unwrap();
    }
}
