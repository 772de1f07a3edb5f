//! Counters in Redis, and what they do when it is slow, empty or gone.

use std::{process::Command, sync::Arc, time::Duration};

use mar_session::counters::{
    Advance, Amounts, Answer, Counters, Error, Held, Pool,
    memory::MemoryCounters,
    redis::{RedisConfig, RedisCounters},
};
use mar_testkit::{redis::Redis, wait};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::time::timeout;

use crate::counter_cases::{NOTHING, Subject, after, amounts, first};

/// Within this every change has an answer, whatever Redis does.
const BOUND: Duration = Duration::from_secs(2);

pub fn counters(url: String) -> RedisCounters {
    RedisCounters::new(&RedisConfig::new(url.into())).unwrap()
}

async fn open() -> Option<Subject> {
    let url = Redis::shared().unwrap().database().unwrap();
    Some(Subject { counters: Arc::new(counters(url)), _keep: Box::new(()) })
}

counter_suite!(open);

/// Waits until the counters answer a change again.
pub async fn back(counters: &RedisCounters, change: Advance) -> Answer {
    let look = || async { counters.advance(change).await.ok() };
    wait::until_some(Duration::from_secs(10), look).await.unwrap()
}

pub async fn assert_unavailable(counters: &RedisCounters, change: Advance) {
    let answer = timeout(BOUND, counters.advance(change)).await.expect("an answer in time");
    assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
}

pub async fn inspect(url: String, words: &[&str]) -> String {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await.unwrap()
}

fn signal(name: &str, pid: &str) {
    assert!(Command::new("kill").args(["-s", name, pid]).status().unwrap().success());
}

#[tokio::test]
async fn keys_have_the_trees_hash_tag_and_expire() {
    let url = Redis::shared().unwrap().database().unwrap();
    let counters = counters(url.clone());
    let change = first();
    counters.advance(change).await.unwrap();
    let key = format!("halt:{{{}}}:{}", change.root, change.run);
    let left: i64 = inspect(url.clone(), &["TTL", &key]).await.parse().unwrap();
    let expected = 35 * 24 * 3600;
    assert!((expected - 60..=expected).contains(&left), "{left}");
    counters.forget(change.root, change.run).await.unwrap();
    assert_eq!(inspect(url, &["EXISTS", &key]).await, "0");
}

/// A store that comes back without the end of a run is found out by who goes on from what it has.
#[tokio::test]
async fn for_a_while_it_is_remembered_where_an_ended_run_ended() {
    let url = Redis::shared().unwrap().database().unwrap();
    let counters = counters(url.clone());
    let (root, child) = (first(), Advance { run: crate::rows::id(), ..first() });
    for run in [root, child] {
        counters.advance(run).await.unwrap();
    }
    counters.retire(root.root, root.run, 9).await.unwrap();
    let held = Held { run: child.run, epoch: 1, seq: 8, amounts: NOTHING };
    let pool = Pool { parent: child.root, seq: 1, nonce: 1 };
    counters.release(child.root, pool, held).await.unwrap();
    for run in [root, child] {
        let key = format!("halt:{{{}}}:{}", run.root, run.run);
        let left: i64 = inspect(url.clone(), &["TTL", &key]).await.parse().unwrap();
        assert!((540..=600).contains(&left), "{left}");
        let successor = Advance { epoch: 2, seq: 4, last_seq: 1, ..run };
        assert_eq!(counters.advance(successor).await.unwrap().rebuilt, Some(9));
    }
    // One that is not there any more is not made up.
    let gone = first();
    counters.retire(gone.root, gone.run, 9).await.unwrap();
    assert_eq!(counters.advance(Advance { epoch: 2, seq: 4, ..gone }).await.unwrap().rebuilt, None);
}

#[tokio::test]
async fn a_damaged_key_counts_as_gone() {
    let url = Redis::shared().unwrap().database().unwrap();
    let counters = counters(url.clone());
    for damaged in ["", "x", "1 1 0 0 0 0 0", "1 1 0 0 0 0|0||", "1 1 0 0 0 0 x|0||", "1 1 0 0 0 0 0|0||one"] {
        let change = first();
        let key = format!("halt:{{{}}}:{}", change.root, change.run);
        counters.advance(change).await.unwrap();
        inspect(url.clone(), &["SET", &key, damaged]).await;
        let next = Advance { totals: amounts(1, 1, 1, 1, 1), ..after(&change) };
        let answer = counters.advance(next).await.unwrap();
        assert_eq!((answer.used, answer.rebuilt), (next.totals, Some(-1)), "{damaged:?}");
    }
}

#[tokio::test]
async fn a_flush_is_rebuilt() {
    let redis = Redis::start().unwrap();
    let counters = counters(redis.url());
    let one = Advance { reserve: amounts(1, 0, 10, 10, 10), ..first() };
    let used = counters.advance(one).await.unwrap().used;
    redis.flush().unwrap();
    redis.command("SCRIPT FLUSH").unwrap();
    let next = Advance { totals: used, ..after(&one) };
    let answer = counters.advance(next).await.unwrap();
    assert_eq!((answer.used, answer.rebuilt), (amounts(2, 0, 20, 20, 20), Some(-1)));
}

#[tokio::test]
async fn a_restart_is_rebuilt() {
    let redis = Redis::start().unwrap();
    let counters = counters(redis.url());
    let one = Advance { reserve: amounts(1, 0, 10, 10, 10), ..first() };
    let used = counters.advance(one).await.unwrap().used;
    redis.restart().unwrap();
    let next = Advance { totals: used, ..after(&one) };
    let answer = back(&counters, next).await;
    assert_eq!((answer.used, answer.rebuilt), (amounts(2, 0, 20, 20, 20), Some(-1)));
}

#[tokio::test]
async fn a_dead_redis_is_unavailable_and_comes_back() {
    let redis = Redis::start().unwrap();
    let counters = counters(redis.url());
    let one = Advance { reserve: amounts(1, 0, 0, 0, 0), ..first() };
    counters.advance(one).await.unwrap();
    redis.stop();
    let next = Advance { totals: amounts(1, 0, 0, 0, 0), ..after(&one) };
    for _ in 0..3 {
        assert_unavailable(&counters, next).await;
    }
    let forgotten = timeout(BOUND, counters.forget(one.root, one.run)).await.expect("an answer in time");
    assert!(matches!(forgotten, Err(Error::Unavailable(_))));
    redis.resume().unwrap();
    assert_eq!(back(&counters, next).await.rebuilt, Some(-1));
}

#[tokio::test]
async fn counters_may_start_before_redis() {
    let redis = Redis::start().unwrap();
    redis.stop();
    let counters = counters(redis.url());
    let change = first();
    assert_unavailable(&counters, change).await;
    redis.resume().unwrap();
    assert_eq!(back(&counters, change).await.rebuilt, None);
}

#[tokio::test]
async fn a_hanging_redis_is_unavailable_and_counts_once() {
    let redis = Redis::start().unwrap();
    let counters = counters(redis.url());
    let one = Advance { reserve: amounts(1, 0, 0, 0, 0), ..first() };
    counters.advance(one).await.unwrap();
    let server = inspect(redis.url(), &["INFO", "server"]).await;
    let pid = server.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap().trim().to_owned();

    signal("STOP", &pid);
    let next = Advance { totals: amounts(1, 0, 0, 0, 0), ..after(&one) };
    for _ in 0..3 {
        assert_unavailable(&counters, next).await;
    }
    let fresh = self::counters(redis.url());
    assert_unavailable(&fresh, first()).await;
    signal("CONT", &pid);

    // What waited in the connection runs now; repeating it does not count again.
    let answer = back(&counters, next).await;
    assert_eq!((answer.used, answer.rebuilt), (amounts(2, 0, 0, 0, 0), None));
    let settled = Advance { totals: answer.used, reserve: NOTHING, ..after(&next) };
    assert_eq!(counters.advance(settled).await.unwrap().used, amounts(2, 0, 0, 0, 0));
}

#[tokio::test]
async fn an_address_that_makes_no_sense_is_refused() {
    assert!(RedisCounters::new(&RedisConfig::new("gopher://nowhere".to_owned().into())).is_err());
}

/// One step of a random history; the rest of the change follows from what came before.
#[derive(Debug, Clone)]
enum Step {
    /// The next change, `skip` positions on, in an epoch raised by `rise`.
    Next { skip: i64, rise: i64, totals: Amounts, settle: Amounts, reserve: Amounts },
    /// The last change again.
    Again,
    /// A change of an epoch before.
    Late,
    /// The counters lose the run.
    Forget,
}

fn some_amounts(low: i64, high: i64) -> impl Strategy<Value = Amounts> {
    let amount = || prop_oneof![3 => low.max(-40)..=high.min(40), 1 => low..=high, 1 => Just(0)];
    (amount(), amount(), amount(), amount(), amount()).prop_map(|(a, b, c, d, e)| amounts(a, b, c, d, e))
}

fn some_step() -> impl Strategy<Value = Step> {
    const MAX: i64 = mar_session::counters::MAX_AMOUNT;
    prop_oneof![
        8 => (prop_oneof![5 => Just(0), 1 => 1..3_i64], prop_oneof![5 => Just(0), 1 => Just(1)],
              some_amounts(-MAX, MAX), some_amounts(-MAX, MAX), some_amounts(0, MAX))
            .prop_map(|(skip, rise, totals, settle, reserve)| Step::Next { skip, rise, totals, settle, reserve }),
        1 => Just(Step::Again),
        1 => Just(Step::Late),
        1 => Just(Step::Forget),
    ]
}

fn said(answer: Result<Answer, Error>) -> Result<Answer, String> {
    answer.map_err(|error| error.to_string())
}

async fn same_answers(redis: &RedisCounters, limits: Amounts, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let memory = MemoryCounters::new();
    let mut last = Advance { limits, epoch: 3, seq: 0, last_seq: -1, ..first() };
    for step in steps {
        let change = match step {
            Step::Next { skip, rise, totals, settle, reserve } => {
                let started = last.seq > 0;
                Advance {
                    epoch: last.epoch + rise,
                    seq: last.seq + skip + 1,
                    last_seq: if started { last.seq + skip } else { -1 },
                    totals,
                    settle,
                    reserve,
                    ..last
                }
            }
            Step::Again => Advance { seq: last.seq.max(1), ..last },
            Step::Late => Advance { epoch: last.epoch - 1, seq: last.seq + 1, ..last },
            Step::Forget => {
                redis.forget(last.root, last.run).await.unwrap();
                memory.forget(last.root, last.run).await.unwrap();
                continue;
            }
        };
        let (here, there) = (said(memory.advance(change).await), said(redis.advance(change).await));
        prop_assert_eq!(&here, &there, "{:?}", change);
        if here.is_ok() {
            last = change;
        }
    }
    Ok(())
}

#[test]
fn memory_and_redis_agree_on_every_history() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let url = Redis::shared().unwrap().database().unwrap();
    let redis = runtime.block_on(async { counters(url) });
    let limits = prop_oneof![some_amounts(0, i64::MAX), Just(amounts(50, 50, 50, 50, 50))];
    let histories = (limits, prop::collection::vec(some_step(), 1..24));
    TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })
        .run(&histories, |(limits, steps)| runtime.block_on(same_answers(&redis, limits, steps)))
        .unwrap();
}
