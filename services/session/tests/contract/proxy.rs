//! A TCP relay in front of a server that can lose an answer, or hold everything back.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// A relay on a loopback port; gone when dropped.
pub struct Proxy {
    address: SocketAddr,
    faults: Arc<Faults>,
    _accepting: JoinSet<()>,
}

struct Faults {
    /// Instead of passing on an answer with these bytes, the connection is closed. Once.
    lose: Mutex<Option<&'static [u8]>>,
    /// While set, nothing is passed on.
    hold: watch::Sender<bool>,
}

impl Proxy {
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Arc::new(Faults { lose: Mutex::new(None), hold: watch::Sender::new(false) });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, port, Arc::clone(&faults)));
        Self { address, faults, _accepting: accepting }
    }

    /// The URL with this relay in the place of the server's port.
    pub fn url(&self, url: &str, port: u16) -> String {
        url.replace(&format!(":{port}"), &format!(":{}", self.address.port()))
    }

    /// Loses the next answer that contains these bytes.
    pub fn lose(&self, answer: &'static [u8]) {
        *self.faults.lose.lock().unwrap() = Some(answer);
    }

    /// Whether the answer has been lost.
    pub fn has_lost(&self) -> bool {
        self.faults.lose.lock().unwrap().is_none()
    }

    pub fn hold(&self, hold: bool) {
        self.faults.hold.send_replace(hold);
    }
}

async fn accept(listener: TcpListener, port: u16, faults: Arc<Faults>) {
    let mut relays = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
            continue;
        };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let faults = Arc::clone(&faults);
        relays.spawn(async move {
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::select! {
                () = relay(from_client, to_server, &faults, false) => {}
                () = relay(from_server, to_client, &faults, true) => {}
            }
        });
    }
}

async fn relay(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: &Faults, answers: bool) {
    let mut hold = faults.hold.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if hold.wait_for(|hold| !hold).await.is_err() || (answers && loses(faults, &buffer[..length])) {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

fn loses(faults: &Faults, answer: &[u8]) -> bool {
    let mut lose = faults.lose.lock().unwrap();
    let found = lose.is_some_and(|lost| answer.windows(lost.len()).any(|window| window == lost));
    if found {
        *lose = None;
    }
    found
}
