//! Random histories of children that draw from one pool: interleaved changes, commits and takeovers, late copies of old
//! messages, lost keys, rebuilds that are read at one time and written at another. No limit is ever exceeded, nothing of it
//! is lost for good, and memory and Redis answer the same.

use mar_session::counters::{
    Advance, Amounts, Answer, Carve, Counters, Draw, Error, Held, Pool, PoolRebuild, Verdict, memory::MemoryCounters,
    redis::RedisCounters,
};
use mar_testkit::redis::Redis;
use proptest::{prelude::*, test_runner::TestRunner};
use uuid::Uuid;

use crate::counter_cases::{NOTHING, amounts, first};
use crate::redis::{counters, inspect};
use crate::rows::id;

const CHILDREN: usize = 5;
const STEPS: [i64; 2] = [1, 9];
const STEP: Amounts = amounts(1, 0, 0, 0, 100);
const WANT: Amounts = amounts(3, 0, 0, 0, 300);

const fn steps(count: i64) -> Amounts {
    amounts(count, 0, 0, 0, count * 100)
}

/// Every child's allotment, and the pool.
const ALLOTMENT: Amounts = steps(STEPS[0]);
const SIZE: Amounts = steps(STEPS[1]);

/// What happens next; a number chooses the child or the message.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Advance(usize),
    Commit(usize),
    Takeover(usize),
    End(usize, bool),
    Copy(usize),
    LoseRun(usize),
    LosePool,
    LoseAll,
    ReadLogs,
    Rebuild(usize),
    /// The pool is lost, which the first child that draws finds out and mends.
    LoseAndRebuild,
}

fn history() -> impl Strategy<Value = Vec<Happens>> {
    let child = || 0..CHILDREN;
    let one = prop_oneof![
        16 => child().prop_map(Happens::Advance),
        14 => child().prop_map(Happens::Commit),
        2 => child().prop_map(Happens::Takeover),
        1 => (child(), any::<bool>()).prop_map(|(child, told)| Happens::End(child, told)),
        3 => any::<usize>().prop_map(Happens::Copy),
        2 => child().prop_map(Happens::LoseRun),
        1 => Just(Happens::LosePool),
        1 => Just(Happens::LoseAll),
        3 => Just(Happens::ReadLogs),
        4 => any::<usize>().prop_map(Happens::Rebuild),
        2 => Just(Happens::LoseAndRebuild),
    ];
    prop::collection::vec(one, 10..90)
}

/// A child as its log has it, and the change that was answered but is not committed.
#[derive(Debug, Clone)]
struct Child {
    run: Uuid,
    epoch: i64,
    seq: i64,
    last_seq: i64,
    used: Amounts,
    drawn: Amounts,
    ended: bool,
    answered: Option<Answer>,
}

impl Child {
    fn limits(&self) -> Amounts {
        ALLOTMENT + self.drawn
    }

    /// The ceiling rule: it follows from the log alone.
    fn draws(&self) -> bool {
        !self.ended && (self.limits() - self.used).steps < 2
    }

    fn held(&self) -> Held {
        let ceiling = if self.draws() { WANT } else { NOTHING };
        let amounts = if self.ended { self.used - ALLOTMENT } else { self.drawn + ceiling };
        Held { run: self.run, epoch: self.epoch, seq: self.seq - 1, amounts }
    }
}

/// The same thing for both, where their nonces and tokens differ.
type Both<T> = [T; 2];

struct World<'a> {
    memory: MemoryCounters,
    redis: &'a RedisCounters,
    url: &'a str,
    root: Uuid,
    pools: Both<Pool>,
    children: Vec<Child>,
    sent: Vec<Both<Advance>>,
    /// Tokens of the last loss, and what was read since.
    lost: Option<Both<i64>>,
    rebuilds: Vec<Both<PoolRebuild>>,
}

/// What has to be the same: all but the token and the nonce.
fn said(answer: &Result<Answer, Error>) -> Result<Answer, String> {
    match answer {
        Ok(answer) => Ok(Answer { opened: answer.opened.map(|_| 0), ..*answer }),
        Err(error) => Err(error.to_string()),
    }
}

impl<'a> World<'a> {
    async fn new(redis: &'a RedisCounters, url: &'a str) -> Self {
        let memory = MemoryCounters::new();
        let reserve = SIZE + steps(STEPS[0] * 5);
        let parent = Advance { reserve, limits: reserve, carve: Some(Carve::Open(SIZE)), ..first() };
        let nonces = [memory.advance(parent).await, redis.advance(parent).await].map(|a| a.unwrap().opened.unwrap());
        let child = || Child {
            run: id(),
            epoch: 1,
            seq: 1,
            last_seq: -1,
            used: NOTHING,
            drawn: NOTHING,
            ended: false,
            answered: None,
        };
        Self {
            memory,
            redis,
            url,
            root: parent.root,
            pools: nonces.map(|nonce| Pool { parent: parent.run, seq: parent.seq, nonce }),
            children: (0..CHILDREN).map(|_| child()).collect(),
            sent: vec![[parent; 2]],
            lost: None,
            rebuilds: Vec::new(),
        }
    }

    async fn send(&mut self, change: Both<Advance>) -> Result<Result<Answer, Error>, TestCaseError> {
        let (here, there) = (self.memory.advance(change[0]).await, self.redis.advance(change[1]).await);
        prop_assert_eq!(said(&here), said(&there), "{:?}", change[0]);
        if let (Err(Error::PoolLost(here)), Err(Error::PoolLost(there))) = (&here, &there) {
            self.lost = Some([*here, *there]);
        }
        Ok(here)
    }

    async fn advance(&mut self, index: usize) -> Result<(), TestCaseError> {
        let child = &self.children[index];
        if child.ended || child.answered.is_some() {
            return Ok(());
        }
        let draw = |pool| child.draws().then_some(Draw { pool, drawn: child.drawn, want: WANT });
        let change = self.pools.map(|pool| Advance {
            root: self.root,
            run: child.run,
            epoch: child.epoch,
            seq: child.seq,
            last_seq: child.last_seq,
            totals: child.used,
            reserve: STEP,
            limits: child.limits(),
            draw: draw(pool),
            ..first()
        });
        self.sent.push(change);
        if let Ok(answer) = self.send(change).await? {
            self.children[index].answered = Some(answer);
        }
        self.assert_within()
    }

    fn commit(&mut self, index: usize) {
        let child = &mut self.children[index];
        if let Some(answer) = child.answered.take() {
            child.used = answer.used;
            child.drawn = child.drawn + answer.drawn;
            (child.last_seq, child.seq) = (child.seq, child.seq + 1);
        }
    }

    /// The claim is an event.
    fn takeover(&mut self, index: usize) {
        let child = &mut self.children[index];
        if !child.ended {
            (child.answered, child.epoch, child.seq) = (None, child.epoch + 1, child.seq + 1);
        }
    }

    async fn end(&mut self, index: usize, told: bool) {
        self.commit(index);
        let child = &mut self.children[index];
        child.seq += i64::from(!child.ended);
        child.ended = true;
        if told {
            let held = child.held();
            self.memory.release(self.root, self.pools[0], held).await.unwrap();
            self.redis.release(self.root, self.pools[1], held).await.unwrap();
        }
    }

    async fn lose_run(&self, index: usize) {
        self.memory.forget(self.root, self.children[index].run).await.unwrap();
        self.redis.forget(self.root, self.children[index].run).await.unwrap();
    }

    async fn lose_pool(&self) {
        let Pool { parent, seq, .. } = self.pools[0];
        self.memory.lose_pool(self.root, parent, seq);
        inspect(self.url.to_owned(), &["DEL", &format!("halt:{{{}}}:{parent}:{seq}", self.root)]).await;
    }

    async fn lose_all(&self) {
        self.memory.clear();
        inspect(self.url.to_owned(), &["FLUSHDB"]).await;
    }

    fn read_logs(&mut self) {
        if let Some(tokens) = self.lost {
            let held: Vec<Held> = self.children.iter().map(Child::held).collect();
            let rebuild = |i: usize| PoolRebuild {
                root: self.root,
                pool: self.pools[i],
                token: tokens[i],
                size: SIZE,
                held: held.clone(),
            };
            self.rebuilds.push([rebuild(0), rebuild(1)]);
        }
    }

    async fn rebuild(&self, choice: usize) {
        // The last ones more often than old ones.
        let newest = self.rebuilds.len().min(2 + choice % 7);
        if let Some(back) = choice.checked_rem(newest) {
            let index = self.rebuilds.len() - 1 - back;
            self.memory.rebuild_pool(&self.rebuilds[index][0]).await.unwrap();
            self.redis.rebuild_pool(&self.rebuilds[index][1]).await.unwrap();
        }
    }

    /// What is answered may be committed and paid for, so it counts: neither what is used nor what open children may still
    /// use is more than there is.
    fn assert_within(&self) -> Result<(), TestCaseError> {
        let used = self.children.iter().map(|child| child.answered.map_or(child.used, |answer| answer.used));
        let used = used.fold(NOTHING, |sum, used| sum + used);
        let most = STEPS[1] + STEPS[0] * 5;
        let limits = self.children.iter().map(|child| match child.answered {
            _ if child.ended => child.used,
            Some(answer) => child.limits() + answer.drawn,
            None => child.limits(),
        });
        let limits = limits.fold(NOTHING, |sum, limits| sum + limits);
        prop_assert!(limits.steps <= most && limits.cost_nano_usd <= most * 100, "limits {:?} of {}", limits, most);
        prop_assert!(used.steps <= most && used.cost_nano_usd <= most * 100, "{:?} of {}", used, most);
        Ok(())
    }

    async fn lose_and_rebuild(&mut self) -> Result<(), TestCaseError> {
        self.lose_pool().await;
        self.lost = None;
        for index in 0..CHILDREN {
            if self.lost.is_none() && self.children[index].draws() {
                self.advance(index).await?;
            }
        }
        if self.lost.is_some() {
            self.read_logs();
            self.rebuild(0).await;
        }
        Ok(())
    }

    async fn happens(&mut self, what: Happens) -> Result<(), TestCaseError> {
        match what {
            Happens::Advance(child) => self.advance(child).await?,
            Happens::Commit(child) => self.commit(child),
            Happens::Takeover(child) => self.takeover(child),
            Happens::End(child, told) => self.end(child, told).await,
            Happens::Copy(choice) => {
                let copy = self.sent[choice % self.sent.len()];
                let _ = self.send(copy).await?;
            }
            Happens::LoseRun(child) => self.lose_run(child).await,
            Happens::LosePool => self.lose_pool().await,
            Happens::LoseAll => self.lose_all().await,
            Happens::ReadLogs => self.read_logs(),
            Happens::Rebuild(choice) => self.rebuild(choice).await,
            Happens::LoseAndRebuild => self.lose_and_rebuild().await?,
        }
        Ok(())
    }

    /// Without further losses the open children use all that there is, to the last step.
    async fn goes_on_to_the_end(&mut self) -> Result<(), TestCaseError> {
        self.lose_pool().await;
        (0..CHILDREN).for_each(|child| self.takeover(child));
        let mut idle = 0;
        while idle <= CHILDREN * 2 {
            for index in 0..CHILDREN {
                let before = self.children[index].used;
                self.lost = None;
                self.advance(index).await?;
                if self.lost.is_some() {
                    self.read_logs();
                    self.rebuild(0).await;
                    self.advance(index).await?;
                }
                let refused = |answer: Answer| answer.verdict != Verdict::Granted;
                prop_assert!(self.children[index].ended || self.children[index].answered.is_some());
                idle += usize::from(self.children[index].answered.is_none_or(refused));
                self.commit(index);
                if self.children[index].used != before {
                    idle = 0;
                }
            }
        }
        let used: i64 = self.children.iter().map(|child| child.used.steps).sum();
        if self.children.iter().any(|child| !child.ended) {
            prop_assert_eq!(used, STEPS[1] + STEPS[0] * 5);
        }
        Ok(())
    }
}

async fn holds(redis: &RedisCounters, url: &str, history: Vec<Happens>) -> Result<(), TestCaseError> {
    let mut world = World::new(redis, url).await;
    for what in history {
        world.happens(what).await?;
    }
    world.goes_on_to_the_end().await
}

#[test]
fn no_history_exceeds_the_parents_limits() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let url = Redis::shared().unwrap().database().unwrap();
    let redis = runtime.block_on(async { counters(url.clone()) });
    TestRunner::new(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })
        .run(&history(), |history| runtime.block_on(holds(&redis, &url, history)))
        .unwrap();
}
