//! Random histories of children that draw from one pool: interleaved changes, commits and takeovers, several owners of a
//! child at a time of which the log takes one's commit, late copies of old messages, lost keys, rebuilds that are read at
//! one time and written at another. No limit is ever exceeded, nothing of it is lost for good, and memory and Redis answer
//! the same.

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

/// What happens next; a number chooses the child or the message, a second one which of the child's owners does it.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Advance(usize, usize),
    Commit(usize, usize),
    /// Both, so many times, while everybody else stands still.
    Go(usize, usize, usize),
    /// Somebody reads the log, to go on in its owner's place. That one may not know.
    Takeover(usize),
    /// An owner is no more.
    Die(usize, usize),
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
        10 => (child(), any::<usize>()).prop_map(|(child, owner)| Happens::Advance(child, owner)),
        8 => (child(), any::<usize>()).prop_map(|(child, owner)| Happens::Commit(child, owner)),
        6 => (child(), any::<usize>(), 1..5_usize).prop_map(|(child, owner, times)| Happens::Go(child, owner, times)),
        3 => child().prop_map(Happens::Takeover),
        1 => (child(), any::<usize>()).prop_map(|(child, owner)| Happens::Die(child, owner)),
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

/// A child's log.
#[derive(Debug, Clone, Copy)]
struct Log {
    /// Ownership of its last event.
    epoch: i64,
    seq: i64,
    last_seq: i64,
    used: Amounts,
    drawn: Amounts,
    ended: bool,
}

/// Who thinks that a child is theirs.
#[derive(Debug, Clone, Copy)]
struct Owner {
    epoch: i64,
    /// As far as they have read and written it.
    log: Log,
    /// What was answered and is not committed.
    answered: Option<Answer>,
}

#[derive(Debug, Clone)]
struct Child {
    run: Uuid,
    /// Ownerships so far.
    epochs: i64,
    log: Log,
    owners: Vec<Owner>,
}

impl Log {
    const fn new() -> Self {
        Self { epoch: 1, seq: 1, last_seq: -1, used: NOTHING, drawn: NOTHING, ended: false }
    }

    fn limits(&self) -> Amounts {
        ALLOTMENT + self.drawn
    }

    /// The ceiling rule: it follows from the log alone.
    fn draws(&self) -> bool {
        !self.ended && (self.limits() - self.used).steps < 2
    }

    /// A takeover's first commit has its claim, too, which no change is counted under.
    fn commit(&mut self, epoch: i64, answer: &Answer) {
        let claimed = self.epoch != epoch;
        (self.used, self.drawn, self.epoch) = (answer.used, self.drawn + answer.drawn, epoch);
        self.last_seq = if claimed { -1 } else { self.seq };
        self.seq += 1 + i64::from(claimed);
    }
}

impl Child {
    fn new() -> Self {
        let owner = Owner { epoch: 1, log: Log::new(), answered: None };
        Self { run: id(), epochs: 1, log: Log::new(), owners: vec![owner] }
    }

    fn owner(&mut self, choice: usize) -> Option<&mut Owner> {
        let index = choice.checked_rem(self.owners.len())?;
        self.owners.get_mut(index)
    }

    fn take_over(&mut self) {
        if !self.log.ended {
            self.epochs += 1;
            self.owners.push(Owner { epoch: self.epochs, log: self.log, answered: None });
        }
    }

    fn commit(&mut self, choice: usize) {
        let Some(owner) = self.owner(choice).copied() else { return };
        let Some(answer) = owner.answered else { return };
        // The key of the log's next event takes one.
        if owner.log.seq == self.log.seq && !self.log.ended {
            self.log.commit(owner.epoch, &answer);
            let log = self.log;
            if let Some(owner) = self.owner(choice) {
                *owner = Owner { log, answered: None, ..*owner };
            }
        } else {
            self.owners.retain(|other| other.epoch != owner.epoch);
        }
    }

    fn held(&self) -> Held {
        let log = &self.log;
        let ceiling = if log.draws() { WANT } else { NOTHING };
        let amounts = if log.ended { log.used - ALLOTMENT } else { log.drawn + ceiling };
        Held { run: self.run, epoch: log.epoch, seq: log.seq - 1, amounts }
    }

    /// What the log can come to by what was answered for its next event.
    fn most(&self, of: impl Fn(&Log) -> Amounts) -> Amounts {
        let mut most = of(&self.log);
        for owner in self.owners.iter().filter(|owner| owner.log.seq == self.log.seq && !self.log.ended) {
            let mut log = self.log;
            owner.answered.iter().for_each(|answer| log.commit(owner.epoch, answer));
            most = most.max(of(&log));
        }
        most
    }
}

/// The same thing for both, where their nonces and tokens differ.
type Both<T> = [T; 2];

/// A Redis, and where it is.
type Server<'a> = (&'a RedisCounters, &'a str);

struct World<'a> {
    memory: MemoryCounters,
    /// Where memory is not alone.
    redis: Option<Server<'a>>,
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
    async fn new(redis: Option<Server<'a>>) -> Self {
        let memory = MemoryCounters::new();
        let reserve = SIZE + steps(STEPS[0] * 5);
        let parent = Advance { reserve, limits: reserve, carve: Some(Carve::Open(SIZE)), ..first() };
        let here = memory.advance(parent).await.unwrap().opened.unwrap();
        let there = match redis {
            Some((redis, _)) => redis.advance(parent).await.unwrap().opened.unwrap(),
            None => here,
        };
        Self {
            memory,
            redis,
            root: parent.root,
            pools: [here, there].map(|nonce| Pool { parent: parent.run, seq: parent.seq, nonce }),
            children: (0..CHILDREN).map(|_| Child::new()).collect(),
            sent: vec![[parent; 2]],
            lost: None,
            rebuilds: Vec::new(),
        }
    }

    async fn send(&mut self, change: Both<Advance>) -> Result<Result<Answer, Error>, TestCaseError> {
        let here = self.memory.advance(change[0]).await;
        let Some((redis, _)) = self.redis else {
            if let Err(Error::PoolLost(token)) = &here {
                self.lost = Some([*token; 2]);
            }
            return Ok(here);
        };
        let there = redis.advance(change[1]).await;
        prop_assert_eq!(said(&here), said(&there), "{:?}", change[0]);
        if let (Err(Error::PoolLost(here)), Err(Error::PoolLost(there))) = (&here, &there) {
            self.lost = Some([*here, *there]);
        }
        Ok(here)
    }

    async fn advance(&mut self, index: usize, choice: usize) -> Result<(), TestCaseError> {
        let child = &mut self.children[index];
        let run = child.run;
        let Some(owner) = child.owner(choice).copied() else { return Ok(()) };
        if owner.log.ended || owner.answered.is_some() {
            return Ok(());
        }
        let log = owner.log;
        let draw = |pool| log.draws().then_some(Draw { pool, drawn: log.drawn, want: WANT });
        let change = self.pools.map(|pool| Advance {
            root: self.root,
            run,
            epoch: owner.epoch,
            seq: log.seq,
            last_seq: log.last_seq,
            totals: log.used,
            reserve: STEP,
            limits: log.limits(),
            draw: draw(pool),
            ..first()
        });
        self.sent.push(change);
        let answer = self.send(change).await?;
        let child = &mut self.children[index];
        match answer {
            Ok(answer) => child.owner(choice).into_iter().for_each(|owner| owner.answered = Some(answer)),
            Err(Error::Stale(..)) => child.owners.retain(|other| other.epoch != owner.epoch),
            Err(_) => {}
        }
        self.assert_within()
    }

    /// Mends a lost pool first, as an executor does.
    async fn advance_in_tree(&mut self, index: usize, choice: usize) -> Result<(), TestCaseError> {
        self.lost = None;
        self.advance(index, choice).await?;
        if self.lost.is_some() {
            self.read_logs();
            self.rebuild(0).await;
            self.advance(index, choice).await?;
        }
        Ok(())
    }

    /// Whoever owns it.
    async fn end(&mut self, index: usize, told: bool) {
        let child = &mut self.children[index];
        child.commit(0);
        child.log.seq += i64::from(!child.log.ended);
        child.log.ended = true;
        if told {
            let held = child.held();
            self.memory.release(self.root, self.pools[0], held).await.unwrap();
            if let Some((redis, _)) = self.redis {
                redis.release(self.root, self.pools[1], held).await.unwrap();
                // It remembers for a while where the log ended.
                redis.forget(self.root, held.run).await.unwrap();
            }
        }
    }

    async fn lose_run(&self, index: usize) {
        self.memory.forget(self.root, self.children[index].run).await.unwrap();
        if let Some((redis, _)) = self.redis {
            redis.forget(self.root, self.children[index].run).await.unwrap();
        }
    }

    async fn lose_pool(&self) {
        let Pool { parent, seq, .. } = self.pools[0];
        self.memory.lose_pool(self.root, parent, seq);
        if let Some((_, url)) = self.redis {
            inspect(url.to_owned(), &["DEL", &format!("halt:{{{}}}:{parent}:{seq}", self.root)]).await;
        }
    }

    async fn lose_all(&self) {
        self.memory.clear();
        if let Some((_, url)) = self.redis {
            inspect(url.to_owned(), &["FLUSHDB"]).await;
        }
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
            if let Some((redis, _)) = self.redis {
                redis.rebuild_pool(&self.rebuilds[index][1]).await.unwrap();
            }
        }
    }

    /// What is answered may be committed and paid for, so it counts: neither what is used nor what open children may still
    /// use is more than there is.
    fn assert_within(&self) -> Result<(), TestCaseError> {
        let sum = |of: fn(&Log) -> Amounts| {
            self.children.iter().map(|child| child.most(of)).fold(NOTHING, |sum, most| sum + most)
        };
        let most = STEPS[1] + STEPS[0] * 5;
        let used = sum(|log| log.used);
        let limits = sum(|log| if log.ended { log.used } else { log.limits() });
        prop_assert!(limits.steps <= most && limits.cost_nano_usd <= most * 100, "limits {:?} of {}", limits, most);
        prop_assert!(used.steps <= most && used.cost_nano_usd <= most * 100, "{:?} of {}", used, most);
        Ok(())
    }

    async fn lose_and_rebuild(&mut self) -> Result<(), TestCaseError> {
        self.lose_pool().await;
        self.lost = None;
        for index in 0..CHILDREN {
            if self.lost.is_none() && self.children[index].log.draws() {
                self.advance(index, 0).await?;
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
            Happens::Advance(child, owner) => self.advance(child, owner).await?,
            Happens::Commit(child, owner) => self.children[child].commit(owner),
            Happens::Go(child, owner, times) => {
                for _ in 0..times {
                    self.advance_in_tree(child, owner).await?;
                    self.children[child].commit(owner);
                }
            }
            Happens::Takeover(child) => self.children[child].take_over(),
            Happens::Die(child, owner) => {
                let owners = &mut self.children[child].owners;
                if let Some(index) = owner.checked_rem(owners.len()) {
                    owners.remove(index);
                }
            }
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
        for child in &mut self.children {
            child.owners.clear();
            child.take_over();
        }
        let mut idle = 0;
        while idle <= CHILDREN * 2 {
            for index in 0..CHILDREN {
                let before = self.children[index].log.used;
                self.advance_in_tree(index, 0).await?;
                let child = &mut self.children[index];
                let answered = child.owner(0).and_then(|owner| owner.answered);
                prop_assert!(child.log.ended || answered.is_some());
                idle += usize::from(answered.is_none_or(|answer| answer.verdict != Verdict::Granted));
                child.commit(0);
                if child.log.used != before {
                    idle = 0;
                }
            }
        }
        let used: i64 = self.children.iter().map(|child| child.log.used.steps).sum();
        if self.children.iter().any(|child| !child.log.ended) {
            prop_assert_eq!(used, STEPS[1] + STEPS[0] * 5);
        }
        Ok(())
    }
}

async fn holds(redis: Option<Server<'_>>, history: Vec<Happens>) -> Result<(), TestCaseError> {
    let mut world = World::new(redis).await;
    for what in history {
        world.happens(what).await?;
    }
    world.goes_on_to_the_end().await
}

fn no_history_exceeds(redis: Option<Server<'_>>, runtime: &tokio::runtime::Runtime, cases: u32) {
    TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() })
        .run(&history(), |history| runtime.block_on(holds(redis, history)))
        .unwrap();
}

#[test]
fn no_history_exceeds_the_parents_limits() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let url = Redis::shared().unwrap().database().unwrap();
    let redis = runtime.block_on(async { counters(url.clone()) });
    no_history_exceeds(Some((&redis, &url)), &runtime, 150);
}

/// More of them, where they cost less.
#[test]
fn no_history_in_memory_exceeds_the_parents_limits() {
    no_history_exceeds(None, &tokio::runtime::Runtime::new().unwrap(), 4_000);
}
