use futures::poll;
use mar_runtime::clock::{ManualClock, SequentialIds};
use tokio_util::sync::CancellationToken;

use super::*;

/// A server that takes a connection and never says anything.
struct Silent;

#[async_trait]
impl Connector for Silent {
    async fn connect(&self) -> Result<Arc<dyn Session>, ConnectError> {
        std::future::pending().await
    }
}

fn upstream(clock: &Arc<ManualClock>) -> Arc<Upstream> {
    Arc::new(Upstream::new("silent", UpstreamConfig::new(Kind::McpHttp), Arc::<ManualClock>::clone(clock)))
}

#[tokio::test]
async fn a_call_waits_a_little_for_one_that_is_being_started() {
    let clock = Arc::new(ManualClock::default());
    let upstream = upstream(&clock);
    let mut ready = Box::pin(upstream.ready(Duration::from_secs(30)));
    assert!(poll!(&mut ready).is_pending());
    clock.advance(READY_WAIT - Duration::from_millis(1));
    assert!(poll!(&mut ready).is_pending());
    clock.advance(Duration::from_millis(1));
    assert!(ready.await.session.is_none());

    let limit = Duration::from_millis(300);
    let mut ready = Box::pin(upstream.ready(limit));
    assert!(poll!(&mut ready).is_pending());
    clock.advance(limit);
    assert!(ready.await.session.is_none(), "a caller that has less time waits less");
}

#[tokio::test]
async fn a_silent_server_is_given_up_and_tried_again() {
    let clock = Arc::new(ManualClock::default());
    let upstream = upstream(&clock);
    let (limit, pause) = (upstream.config.start_timeout, upstream.config.restart.max.0);
    let supervisor = Supervisor {
        upstream: Arc::clone(&upstream),
        connector: Box::new(Silent),
        ids: Arc::new(SequentialIds::default()),
    };
    let shutdown = CancellationToken::new();
    let mut running = Box::pin(supervisor.run(shutdown.clone()));
    for failures in 1..=3 {
        assert!(poll!(&mut running).is_pending());
        clock.advance(limit);
        assert!(poll!(&mut running).is_pending());
        let state = upstream.state();
        assert_eq!((state.failures, state.detail), (failures, format!("did not start within {limit:?}")));
        clock.advance(pause * 2);
    }
    shutdown.cancel();
    running.await;
    assert_eq!(upstream.state().detail, "the gateway is stopping");
}
