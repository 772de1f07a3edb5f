//! Signals between replicas, through a real Redis.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mar_session::counters::redis::RedisConfig;
use mar_session::signals::{Signal, Signals, redis::RedisSignals};
use mar_testkit::redis::{Redis, cluster::Cluster};
use mar_testkit::wait;
use tokio::task::JoinSet;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);

fn signals(url: &str) -> RedisSignals {
    RedisSignals::new(&RedisConfig::new(url.to_owned().into())).unwrap()
}

/// A replica that listens.
struct Listener {
    heard: Arc<Mutex<Vec<Signal>>>,
    _listening: JoinSet<()>,
}

impl Listener {
    fn start(url: &str, replica: &'static str) -> Self {
        let (signals, heard) = (signals(url), Arc::new(Mutex::new(Vec::new())));
        let mut listening = JoinSet::new();
        let kept = Arc::clone(&heard);
        listening.spawn(async move {
            signals.listen(replica, &|signal| kept.lock().unwrap().push(signal)).await;
        });
        Self { heard, _listening: listening }
    }

    fn has(&self, signal: &Signal) -> bool {
        self.heard.lock().unwrap().contains(signal)
    }

    /// Tells until it is heard: what is told before somebody listens is lost.
    async fn hears(&self, teller: &RedisSignals, replica: Option<&str>, signal: &Signal) {
        let heard = || async {
            teller.tell(replica, signal).await;
            self.has(signal)
        };
        wait::until(PATIENCE, heard).await.unwrap();
    }
}

#[tokio::test]
async fn all_hear_what_is_told_to_all_and_one_what_is_told_to_it() {
    let url = Redis::shared().unwrap().database().unwrap();
    let (one, two, teller) = (Listener::start(&url, "one"), Listener::start(&url, "two"), signals(&url));
    let run = Uuid::now_v7();
    for listener in [&one, &two] {
        listener.hears(&teller, None, &Signal::Wanted(run)).await;
    }
    let frame = Bytes::from(vec![0xff; 100_000]);
    one.hears(&teller, Some("one"), &Signal::Shown(run, frame.clone())).await;
    two.hears(&teller, None, &Signal::Moved(run)).await;
    assert!(!two.has(&Signal::Shown(run, frame)), "it was told to another");
}

/// Two installations on one server do not hear each other.
#[tokio::test]
async fn another_database_is_another_installation() {
    let redis = Redis::shared().unwrap();
    let (url, other) = (redis.database().unwrap(), redis.database().unwrap());
    assert_ne!(url, other);
    let (here, there) = (Listener::start(&url, "one"), Listener::start(&other, "one"));
    let (mine, theirs) = (Signal::Wanted(Uuid::now_v7()), Signal::Wanted(Uuid::now_v7()));
    here.hears(&signals(&url), None, &mine).await;
    there.hears(&signals(&other), None, &theirs).await;
    assert!(!here.has(&theirs) && !there.has(&mine));
}

#[tokio::test]
async fn they_are_heard_again_after_a_restart() {
    let redis = Redis::start().unwrap();
    let (listener, teller) = (Listener::start(&redis.url(), "one"), signals(&redis.url()));
    listener.hears(&teller, None, &Signal::Wanted(Uuid::from_u128(1))).await;
    redis.restart().unwrap();
    listener.hears(&teller, None, &Signal::Wanted(Uuid::from_u128(2))).await;
    redis.stop();
    // Nobody waits for what cannot be told.
    teller.tell(None, &Signal::Wanted(Uuid::from_u128(3))).await;
}

#[tokio::test]
async fn what_is_no_signal_is_passed_over() {
    let redis = Redis::start().unwrap();
    let (listener, teller) = (Listener::start(&redis.url(), "one"), signals(&redis.url()));
    listener.hears(&teller, None, &Signal::Wanted(Uuid::from_u128(1))).await;
    for garbage in ["", "x", "\u{1}0123456789abcdef-"] {
        crate::redis::inspect(redis.url(), &["PUBLISH", "session:0:signals", garbage]).await;
    }
    listener.hears(&teller, None, &Signal::Wanted(Uuid::from_u128(2))).await;
    assert!(listener.heard.lock().unwrap().iter().all(|signal| matches!(signal, Signal::Wanted(_))));
}

/// What is told by way of one node is heard on any.
#[tokio::test]
async fn a_cluster_carries_them() {
    let cluster = Cluster::start().unwrap();
    let (one, two) = (Listener::start(&cluster.url(), "one"), Listener::start(&cluster.url(), "two"));
    let (teller, run) = (signals(&cluster.url()), Uuid::now_v7());
    for listener in [&one, &two] {
        listener.hears(&teller, None, &Signal::Wanted(run)).await;
    }
    two.hears(&teller, Some("two"), &Signal::Moved(run)).await;
}
