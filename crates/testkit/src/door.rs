//! A stable address in front of servers that take each other's place, as a virtual address or a proxy gives one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Context as _;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A port of 127.0.0.1 that leads to another one. Dropping it closes it with every connection.
#[derive(Debug)]
pub struct Door {
    port: u16,
    behind: Arc<AtomicU16>,
    _keeper: JoinSet<()>,
}

impl Door {
    /// Opens a door to a port. Needs a tokio runtime.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn open(behind: u16) -> anyhow::Result<Self> {
        let port = crate::ports::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.context("a door")?;
        let behind = Arc::new(AtomicU16::new(behind));
        let mut keeper = JoinSet::new();
        keeper.spawn(keep(listener, Arc::clone(&behind)));
        Ok(Self { port, behind, _keeper: keeper })
    }

    /// From now on it leads there. Connections that were made before stay where they are.
    pub fn lead_to(&self, port: u16) {
        self.behind.store(port, Ordering::Release);
    }

    /// Its own port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

async fn keep(listener: TcpListener, behind: Arc<AtomicU16>) {
    let mut guests = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((guest, _)) = accepted {
                    let host = SocketAddr::from((Ipv4Addr::LOCALHOST, behind.load(Ordering::Acquire)));
                    guests.spawn(lead(guest, host));
                }
            }
            Some(_) = guests.join_next() => {}
        }
    }
}

/// Until either side is gone. Nobody behind the door closes it at once.
async fn lead(mut guest: TcpStream, host: SocketAddr) {
    if let Ok(mut host) = TcpStream::connect(host).await {
        drop((guest.set_nodelay(true), host.set_nodelay(true)));
        drop(copy_bidirectional(&mut guest, &mut host).await);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn says(word: &'static [u8]) -> (u16, JoinSet<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(async move {
            while let Ok((mut guest, _)) = listener.accept().await {
                guest.write_all(word).await.unwrap();
            }
        });
        (port, server)
    }

    async fn heard(door: &Door) -> Vec<u8> {
        let mut heard = Vec::new();
        let mut guest = TcpStream::connect((Ipv4Addr::LOCALHOST, door.port())).await.unwrap();
        drop(guest.read_to_end(&mut heard).await);
        heard
    }

    #[tokio::test]
    async fn a_door_leads_where_it_was_told_last() {
        let ((one, server), (other, _other)) = (says(b"one").await, says(b"other").await);
        let door = Door::open(one).await.unwrap();
        assert_eq!(heard(&door).await, b"one");
        drop(server);
        assert_eq!(heard(&door).await, b"");
        door.lead_to(other);
        assert_eq!(heard(&door).await, b"other");
    }
}
