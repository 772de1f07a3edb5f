//! Counters on other servers than one plain Redis: Valkey, a cluster, TLS, and a server that was replaced by a replica
//! which had not seen the last writes.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use mar_session::counters::{
    Advance, Amounts, Carve, Counters, Draw, Error, Held, Pool, PoolRebuild, Verdict,
    budget::{Budget, BudgetRebuild, Budgets, Granted, Slice, Window},
    redis::{RedisConfig, RedisCounters},
};
use mar_testkit::{
    redis::{Redis, cluster::Cluster},
    wait,
};

use crate::budget_cases::{rebuild, slice, spend};
use crate::counter_cases::{NOTHING, Subject, after, amounts, first};
use crate::redis::{assert_unavailable, back, counters, inspect};
use crate::rows::id;

const STEP: Amounts = amounts(1, 0, 0, 0, 0);
const PATIENCE: Duration = Duration::from_secs(20);

mod valkey {
    use super::{Arc, Redis, Subject, counters};

    async fn open() -> Option<Subject> {
        let valkey = match Redis::start_valkey() {
            Ok(valkey) => valkey,
            Err(error) => {
                let required = std::env::var_os("MAR_REQUIRE_TOOLS").is_some_and(|value| value == "1");
                assert!(!required, "{error:#}");
                eprintln!("skipped: {error:#}");
                return None;
            }
        };
        Some(Subject { counters: Arc::new(counters(valkey.url())), _keep: Box::new(valkey) })
    }

    counter_suite!(open);
}

mod cluster {
    use std::sync::LazyLock;

    use super::{Arc, Cluster, Subject, counters};

    /// The nodes take some seconds to agree; they stop with the process.
    static SHARED: LazyLock<Cluster> = LazyLock::new(|| Cluster::start().unwrap());

    async fn open() -> Option<Subject> {
        Some(Subject { counters: Arc::new(counters(SHARED.url())), _keep: Box::new(()) })
    }

    counter_suite!(open);
}

/// Makes a replica of one server of another, with all that it has.
async fn replicate(replica: &Redis, master: &Redis) {
    assert_eq!(replica.command(&format!("REPLICAOF 127.0.0.1 {}", master.port())).unwrap(), "+OK");
    let synchronous = || async {
        let state = replica.text("INFO replication").ok()?;
        (state.contains("master_link_status:up") && state.contains("master_sync_in_progress:0")).then_some(())
    };
    wait::until_some(PATIENCE, synchronous).await.unwrap();
}

/// Waits until the replica has all that the master has.
async fn caught_up(replica: &Redis, key: &str, field: &str, value: &str) {
    let client = redis::Client::open(replica.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let same = || async {
        let found: Option<String> =
            redis::cmd("HGET").arg(key).arg(field).query_async(&mut connection.clone()).await.unwrap();
        (found? == value).then_some(())
    };
    wait::until_some(PATIENCE, same).await.unwrap();
}

fn detach(replica: &Redis) {
    // Still a replica, but of nobody: what the master writes from here on is lost with it.
    assert_eq!(replica.command("REPLICAOF 127.0.0.1 1").unwrap(), "+OK");
}

fn promote(replica: &Redis) {
    assert_eq!(replica.command("REPLICAOF NO ONE").unwrap(), "+OK");
}

#[tokio::test]
async fn a_promotion_with_lost_writes_is_rebuilt_and_exceeds_nothing() {
    let (master, replica) = (Redis::start().unwrap(), Redis::start().unwrap());
    let before = counters(master.url());
    let limits = amounts(5, 9, 9, 9, 9);
    let mut change = Advance { reserve: STEP, limits, ..first() };
    assert_eq!(before.advance(change).await.unwrap().used.steps, 1);
    replicate(&replica, &master).await;
    detach(&replica);
    for used in 2..=4 {
        change = Advance { totals: amounts(used - 1, 0, 0, 0, 0), ..after(&change) };
        assert_eq!(before.advance(change).await.unwrap().used.steps, used);
    }
    master.stop();
    assert_unavailable(&before, after(&change)).await;
    promote(&replica);

    let promoted = counters(replica.url());
    let next = Advance { totals: amounts(4, 0, 0, 0, 0), ..after(&change) };
    let answer = promoted.advance(next).await.unwrap();
    assert_eq!((answer.verdict, answer.used.steps, answer.rebuilt), (Verdict::Granted, 5, Some(1)));
    let over = Advance { totals: answer.used, ..after(&next) };
    let answer = promoted.advance(over).await.unwrap();
    assert_eq!((answer.used.steps, answer.rebuilt), (5, None));
    assert!(matches!(answer.verdict, Verdict::Refused(_)));
}

#[tokio::test]
async fn a_promotion_with_lost_draws_loses_the_pool() {
    let (master, replica) = (Redis::start().unwrap(), Redis::start().unwrap());
    // The first replica gives its master another replication id.
    replicate(&replica, &master).await;
    let before = counters(master.url());
    let size = amounts(4, 0, 0, 0, 0);
    let parent = Advance { reserve: size, limits: size, carve: Some(Carve::Open(size)), ..first() };
    let nonce = before.advance(parent).await.unwrap().opened.unwrap();
    let pool = Pool { parent: parent.run, seq: parent.seq, nonce };
    caught_up(&replica, &format!("halt:{{{}}}:{}:{}", parent.root, pool.parent, pool.seq), "nonce", &nonce.to_string())
        .await;
    detach(&replica);
    let draw = |want| Some(Draw { pool, drawn: NOTHING, want });
    let child = Advance { carve: None, limits: NOTHING, reserve: STEP, ..parent };
    let one = Advance { run: id(), draw: draw(amounts(3, 0, 0, 0, 0)), ..child };
    assert_eq!(before.advance(one).await.unwrap().drawn.steps, 3);
    master.stop();
    promote(&replica);

    // The replica still says that four are left. A sibling that never drew must not believe it.
    let promoted = counters(replica.url());
    let other = Advance { run: id(), draw: draw(size), ..child };
    let Err(Error::PoolLost(token)) = promoted.advance(other).await else { panic!("a stale pool gave") };
    let held = vec![Held { run: one.run, epoch: one.epoch, seq: one.seq, amounts: amounts(3, 0, 0, 0, 0) }];
    let truth = PoolRebuild { root: parent.root, pool, token, size, held };
    promoted.rebuild_pool(&truth).await.unwrap();
    assert_eq!(promoted.advance(other).await.unwrap().drawn, STEP);
}

#[tokio::test]
async fn a_promotion_with_lost_grants_loses_the_budget() {
    let (master, replica) = (Redis::start().unwrap(), Redis::start().unwrap());
    replicate(&replica, &master).await;
    let before = counters(master.url());
    let budget = Budget::session(id());
    before.rebuild_budget(&rebuild(&budget, 1, Vec::new())).await.unwrap();
    caught_up(&replica, &format!("budget:{{{}}}:30000", budget.as_str()), "generation", "1").await;
    detach(&replica);
    let one = Slice { want: spend(900, 1), ..slice(&budget) };
    assert_eq!(before.grant(&one).await.unwrap().verdict, Granted::Slice(spend(900, 1)));
    master.stop();
    promote(&replica);

    let promoted = counters(replica.url());
    let other = Slice { least: spend(1, 1), ..slice(&budget) };
    let lost = promoted.grant(&other).await;
    assert!(matches!(lost, Err(Error::BudgetLost(-1))), "{lost:?}");
    promoted.rebuild_budget(&rebuild(&budget, 2, vec![(one.id, spend(900, 1))])).await.unwrap();
    let answer = promoted.grant(&Slice { generation: 2, ..other }).await.unwrap();
    assert_eq!((answer.verdict, answer.used), (Granted::Slice(spend(100, 1)), spend(1_000, 2)));
}

#[tokio::test]
async fn a_demoted_server_is_unavailable_until_it_leads_again() {
    let (server, other) = (Redis::start().unwrap(), Redis::start().unwrap());
    let counters = counters(server.url());
    let one = Advance { reserve: STEP, ..first() };
    counters.advance(one).await.unwrap();
    replicate(&server, &other).await;
    let next = Advance { totals: STEP, ..after(&one) };
    assert_unavailable(&counters, next).await;
    assert!(counters.grant(&slice(&Budget::session(id()))).await.is_err());
    promote(&server);
    let answer = back(&counters, next).await;
    assert_eq!((answer.used.steps, answer.rebuilt), (2, Some(-1)));
}

#[tokio::test]
async fn a_server_without_memory_is_unavailable() {
    let server = Redis::start().unwrap();
    let counters = counters(server.url());
    let one = Advance { reserve: STEP, ..first() };
    counters.advance(one).await.unwrap();
    assert_eq!(server.command("CONFIG SET maxmemory 1").unwrap(), "+OK");
    let next = Advance { totals: STEP, ..after(&one) };
    assert_unavailable(&counters, next).await;
    assert_eq!(server.command("CONFIG SET maxmemory 0").unwrap(), "+OK");
    let answer = back(&counters, next).await;
    assert_eq!((answer.used.steps, answer.rebuilt), (2, None));
}

#[tokio::test]
async fn a_loading_server_is_unavailable() {
    // What it saves takes ten seconds to load.
    let slow = ["--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024"];
    let server = Redis::start_with(&[&["--enable-debug-command", "yes"], &slow[..]].concat()).unwrap();
    let counters = counters(server.url());
    let one = Advance { reserve: STEP, ..first() };
    counters.advance(one).await.unwrap();
    assert_eq!(server.command("DEBUG POPULATE 2000 ballast 100").unwrap(), "+OK");
    let reload = tokio::spawn(inspect_quietly(server.url(), &["DEBUG", "RELOAD"]));
    let loading = || async { server.command("PING").is_ok_and(|said| said.starts_with("-LOADING")).then_some(()) };
    wait::until_some(PATIENCE, loading).await.unwrap();
    assert_unavailable(&counters, Advance { totals: STEP, ..after(&one) }).await;
    assert!(matches!(counters.grant(&slice(&Budget::session(id()))).await, Err(Error::Unavailable(_))));
    reload.abort();
}

async fn inspect_quietly(url: String, words: &'static [&'static str]) {
    if let Ok(mut connection) = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await {
        let _: Result<String, _> = redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await;
    }
}

#[tokio::test]
async fn what_a_server_evicts_is_known() {
    let keeps = Redis::start_with(&["--maxmemory", "64mb"]).unwrap();
    assert_eq!(counters(keeps.url()).eviction().await.unwrap(), None);
    let drops = Redis::start_with(&["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]).unwrap();
    assert_eq!(counters(drops.url()).eviction().await.unwrap().as_deref(), Some("allkeys-lru"));
    let boundless = Redis::start_with(&["--maxmemory-policy", "allkeys-lru"]).unwrap();
    assert_eq!(counters(boundless.url()).eviction().await.unwrap(), None);
    drops.stop();
    assert!(counters(drops.url()).eviction().await.is_err());
}

#[tokio::test]
async fn budgets_expire_after_their_window_and_its_grace() {
    let url = Redis::shared().unwrap().database().unwrap();
    let counters = counters(url.clone());
    let budget = Budget::session(id());
    counters.rebuild_budget(&rebuild(&budget, 1, Vec::new())).await.unwrap();
    counters.grant(&slice(&budget)).await.unwrap();
    let key = |window| format!("budget:{{{}}}:{window}", budget.as_str());
    let at: i64 = inspect(url.clone(), &["EXPIRETIME", &key("30000")]).await.parse().unwrap();
    assert_eq!(at, (30_000 + 1 + 3) * 24 * 3600);
    let life = BudgetRebuild { window: Window::Lifetime, ..rebuild(&budget, 1, Vec::new()) };
    counters.rebuild_budget(&life).await.unwrap();
    let left: i64 = inspect(url, &["TTL", &key("life")]).await.parse().unwrap();
    let expected = 35 * 24 * 3600;
    assert!((expected - 60..=expected).contains(&left), "{left}");
}

#[tokio::test]
async fn a_damaged_budget_is_lost() {
    let url = Redis::shared().unwrap().database().unwrap();
    let counters = counters(url.clone());
    let budget = Budget::session(id());
    counters.rebuild_budget(&rebuild(&budget, 1, Vec::new())).await.unwrap();
    let key = format!("budget:{{{}}}:30000", budget.as_str());
    inspect(url, &["HDEL", &key, "used"]).await;
    assert!(matches!(counters.grant(&slice(&budget)).await, Err(Error::BudgetLost(-1))));
}

/// An own cluster: its slots move and a node of it dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_slots_are_followed_and_a_missing_node_is_unavailable() {
    let cluster = Cluster::start().unwrap();
    let counters = counters(cluster.url());
    let changes: Vec<Advance> = (0..24).map(|_| Advance { reserve: STEP, ..first() }).collect();
    for change in &changes {
        assert_eq!(counters.advance(*change).await.unwrap().used, STEP);
    }
    // What the third node serves moves to the second one; its keys are lost on the way.
    let [first_node, second, third] = cluster.nodes() else { panic!("three nodes") };
    let heir = second.text("CLUSTER MYID").unwrap();
    let slot_of = |change: &Advance| {
        let said = second.command(&format!("CLUSTER KEYSLOT {{{}}}", change.root)).unwrap();
        said.trim_start_matches(':').parse::<u16>().unwrap()
    };
    third.flush().unwrap();
    // The higher epoch wins where nodes disagree.
    second.command("CLUSTER BUMPEPOCH").unwrap();
    for slot in changes.iter().map(slot_of).filter(|slot| *slot >= 10_923) {
        for node in [second, third, first_node] {
            assert_eq!(node.command(&format!("CLUSTER SETSLOT {slot} NODE {heir}")).unwrap(), "+OK");
        }
    }
    cluster.wait_until_ready().unwrap();
    let mut rebuilt = 0;
    let mut last = Vec::new();
    for change in &changes {
        let next = Advance { totals: STEP, ..after(change) };
        let answer = back(&counters, next).await;
        assert_eq!(answer.used.steps, 2);
        rebuilt += usize::from(answer.rebuilt.is_some());
        last.push(Advance { totals: answer.used, ..after(&next) });
    }
    assert!((1..24).contains(&rebuilt), "{rebuilt}");

    second.stop();
    let mut silent = 0;
    for change in &last {
        match counters.advance(*change).await {
            Ok(answer) => assert_eq!(answer.used.steps, 3),
            Err(Error::Unavailable(_)) => silent += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(silent > 0);
}

fn openssl(directory: &Path, words: &str) {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn tls_is_spoken_to_a_server_of_a_trusted_authority() {
    if Command::new("openssl").arg("version").output().is_err() {
        assert!(std::env::var_os("MAR_REQUIRE_TOOLS").is_none_or(|value| value != "1"), "openssl is not installed");
        eprintln!("skipped: openssl, which makes the certificates, is not installed");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).display().to_string();
    let request = "req -x509 -newkey rsa:2048 -nodes -days 2";
    openssl(home.path(), &format!("{request} -keyout ca.key -out ca.pem -subj /CN=authority"));
    openssl(home.path(), "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost");
    std::fs::write(home.path().join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(
        home.path(),
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
    );
    let port = mar_testkit::ports::free().unwrap().to_string();
    let files = [path("server.pem"), path("server.key"), path("ca.pem")];
    let _server = Redis::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &files[0],
        "--tls-key-file",
        &files[1],
        "--tls-ca-cert-file",
        &files[2],
        "--tls-auth-clients",
        "no",
    ])
    .unwrap();
    let url = format!("rediss://localhost:{port}");
    let ca_pem = Some(std::fs::read(home.path().join("ca.pem")).unwrap());
    let trusting = RedisConfig { ca_pem, ..RedisConfig::new(url.clone().into()) };
    let trusting = RedisCounters::new(&trusting).unwrap();
    assert_eq!(trusting.advance(Advance { reserve: STEP, ..first() }).await.unwrap().used, STEP);
    // Without its authority the server is nobody.
    assert_unavailable(&counters(url), first()).await;
}
