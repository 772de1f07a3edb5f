//! One simulated world: replicas of session on a store, counters and peers, with callers and weather.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use mar_descriptor::SigningKey;
use mar_runtime::clock::Clock;
use mar_session::budgets::BudgetLimit;
use mar_session::counters::memory::MemoryCounters;
use mar_session::crash::{CrashPoints, Point};
use mar_session::executor::Shared;
use mar_session::runs::{Limits, Replicas, Runs, has_ended};
use mar_session::sabotage::{Fault, Sabotage};
use mar_session::signals::{Signals, Silence};
use mar_session::store::EventRow;
use mar_session::tenants::{Tenants, Terms};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::counters::SimCounters;
use crate::judge::{self, Judged};
use crate::link::{Chance, Health, Link, Part, SimIds, Weather};
use crate::peers::{Journal, Prompts, SimPeers};
use crate::signals::{Air, SimSignals};
use crate::store::{SimStore, Truth};
use crate::story::{self, Kind, Story};
use crate::time::Time;

/// Replicas of session.
const PLACES: usize = 3;
/// Runs of a world.
const STORIES: u64 = 4;
/// How long the weather lasts.
const WEATHER: Duration = Duration::from_secs(12);
/// When every run has to have ended: far beyond the expiry of all.
const END: Duration = Duration::from_secs(900);
/// One in so many passings of a point is a death, of the world's favourite point one in so many.
const DEATHS: (u64, u64) = (150, 3);

/// A living replica.
struct Replica {
    link: Arc<Link>,
    runs: Runs,
}

/// How often each crash point was passed, and died at.
#[derive(Debug, Clone, Default)]
pub struct Points(Arc<Mutex<BTreeMap<Point, (u64, u64)>>>);

impl Points {
    pub fn counts(&self) -> MutexGuard<'_, BTreeMap<Point, (u64, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The world.
pub struct World {
    pub time: Arc<Time>,
    pub chance: Chance,
    pub truth: Truth,
    pub journal: Journal,
    pub prompts: Prompts,
    pub points: Points,
    weather: Arc<Weather>,
    memory: Arc<MemoryCounters>,
    sabotage: Sabotage,
    places: Mutex<Vec<Option<Replica>>>,
    /// Where deaths are told.
    graves: mpsc::UnboundedSender<usize>,
    /// Where most die.
    favourite: Point,
    /// Whether runs are paused and resumed all the time while the weather lasts.
    restless: bool,
    /// Whether its store goes back in time.
    pub forgets: bool,
    /// Events that are gone with that.
    pub lost: Mutex<Vec<(Uuid, EventRow)>>,
    /// What all runs of a day may cost, in worlds whose tenant has a budget.
    pub poor: Option<i64>,
    /// Through what replicas tell each other things, where they do.
    air: Option<Air>,
    /// How much a run may see of those before it in its session: all of it, some of it with a summary of the rest, or some.
    pub history_tokens: i64,
}

/// Every point that simulated runs pass: sessions that are erased, and hooks, have tests of their own.
pub fn points() -> impl Iterator<Item = Point> {
    Point::ALL.iter().chain(Point::OF_CHILDREN).copied()
}

/// What is asked for in a world where most die at a point: nobody dies where nobody comes by.
fn kinds(favourite: Point) -> &'static [Kind] {
    match favourite {
        _ if Point::OF_CHILDREN.contains(&favourite) => &[Kind::Family],
        Point::ParkDone | Point::CommandStored => &[Kind::Medley, Kind::Errand, Kind::Long, Kind::Family],
        _ => &Kind::ALL,
    }
}

/// What came of a world.
pub struct Outcome {
    pub judged: Judged,
    pub points: BTreeMap<Point, (u64, u64)>,
    pub endings: BTreeMap<String, usize>,
}

/// Lets a world run its course.
///
/// # Errors
/// What does not hold in it.
pub fn simulate(seed: u64, fault: Option<Fault>) -> anyhow::Result<Outcome> {
    run(seed, fault, false)
}

/// Lets a world run its course whose store goes back in time by up to a second and a half.
///
/// # Errors
/// What does not hold in it.
pub fn forget(seed: u64) -> anyhow::Result<Outcome> {
    run(seed, None, true)
}

fn run(seed: u64, fault: Option<Fault>, forgets: bool) -> anyhow::Result<Outcome> {
    let outcome = in_its_time(|time| World::unfold(seed, fault, forgets, time));
    outcome.with_context(|| format!("MAR_SIMULATION_SEED={seed}"))
}

/// Has something happen in simulated time, on this thread.
///
/// # Errors
/// Its own.
pub fn in_its_time<T, F>(act: impl FnOnce(Arc<Time>) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let time = Arc::new(Time::default());
    let jumping = Arc::clone(&time);
    // Nothing here waits for anything outside: a thread that would park has nothing left to do at this time.
    let runtime = tokio::runtime::Builder::new_current_thread().on_thread_park(move || jumping.jump()).build()?;
    let outcome = runtime.block_on(act(time));
    runtime.shutdown_background();
    outcome
}

impl World {
    /// A world in which nothing has happened, and where its deaths are told.
    fn new(seed: u64, fault: Option<Fault>, forgets: bool, time: Arc<Time>) -> (Self, mpsc::UnboundedReceiver<usize>) {
        let chance = Chance::new(seed);
        let (graves, dying) = mpsc::unbounded_channel();
        let sabotage = fault.map(Sabotage::of).unwrap_or_default();
        let world = Self {
            favourite: points().nth(chance.index(points().count())).unwrap_or(Point::CommitDone),
            restless: chance.once_in(6),
            poor: chance.once_in(5).then(|| 10_000_000 + i64::try_from(chance.below(20_000_000)).unwrap_or(0)),
            history_tokens: [8_192, 512, 512, 300][chance.index(4)],
            air: chance.once_in(2).then(|| Air::new(4_000)),
            forgets,
            lost: Mutex::default(),
            truth: Truth::default(),
            journal: Journal::default(),
            prompts: Prompts::default(),
            points: Points::default(),
            weather: Arc::default(),
            memory: Arc::new(MemoryCounters::of(sabotage)),
            sabotage,
            places: Mutex::new((0..PLACES).map(|_| None).collect()),
            graves,
            time,
            chance,
        };
        (world, dying)
    }

    async fn unfold(seed: u64, fault: Option<Fault>, forgets: bool, time: Arc<Time>) -> anyhow::Result<Outcome> {
        let (world, mut dying) = Self::new(seed, fault, forgets, time);
        let world = Arc::new(world);
        let mut tasks = JoinSet::new();
        for place in 0..PLACES {
            tasks.spawn(Arc::clone(&world).revive(place, Duration::ZERO));
        }
        let reviving = Arc::clone(&world);
        tasks.spawn(async move {
            let mut revived = JoinSet::new();
            while let Some(place) = dying.recv().await {
                let pause = reviving.chance.span(50_000, 3_000_000);
                revived.spawn(Arc::clone(&reviving).revive(place, pause));
            }
        });
        tasks.spawn(Arc::clone(&world).rage());
        if forgets {
            tasks.spawn(Arc::clone(&world).fall_back());
        }
        let mut telling = JoinSet::new();
        for number in 0..STORIES {
            let world = Arc::clone(&world);
            let kinds = kinds(world.favourite);
            let kind = kinds[world.chance.index(kinds.len())];
            let (chance, begins) = (world.chance.fork(), world.chance.span(1_000, 3_000_000));
            telling.spawn(async move {
                world.time.sleep(begins).await;
                let (mut told, mut next) = (Vec::new(), Some(Story::new(number, kind, chance)));
                while let Some(mut story) = next {
                    let ended = world.time.within(END, story.tell(&world)).await;
                    let ended = ended.context("the run does not end").and_then(|ended| ended);
                    story::context(ended, &story)?;
                    told.push(story);
                    next = Story::sequel(&told);
                }
                anyhow::Ok(told)
            });
        }
        let mut sessions = Vec::new();
        while let Some(stories) = telling.join_next().await {
            sessions.push(stories??);
        }
        // What is still on its way arrives. Children may outlive parents that could not wait for them.
        world.time.sleep(Duration::from_secs(5)).await;
        while world.time.now() < END && world.truth.tables().runs.values().any(|run| !has_ended(run.state)) {
            world.time.sleep(Duration::from_secs(5)).await;
        }
        let judged = if forgets { judge::forgetful(&world, &sessions)? } else { judge::world(&world, &sessions)? };
        let mut endings = BTreeMap::new();
        for story in sessions.iter().flatten() {
            let kind = if story.branch.is_some() { "fork" } else { story.kind.word() };
            *endings.entry(format!("{kind:<8} {}", story::named(story.ending()))).or_default() += 1;
        }
        let points = world.points.counts().clone();
        Ok(Outcome { judged, points, endings })
    }

    /// A world in which nothing goes wrong by itself: replicas that hear of each other by signals of so many microseconds at
    /// most.
    pub async fn quiet(seed: u64, time: Arc<Time>, slowest: u64) -> Arc<Self> {
        let (world, _) = Self::new(seed, None, false, time);
        let world = Arc::new(Self { air: Some(Air::new(slowest)), poor: None, restless: false, ..world });
        world.weather.calm();
        for place in 0..PLACES {
            Arc::clone(&world).revive(place, Duration::ZERO).await;
        }
        world
    }

    /// The replica in a place, where one lives.
    pub fn at(&self, place: usize) -> Option<Runs> {
        self.places().get(place)?.as_ref().map(|replica| replica.runs.clone())
    }

    /// Kills the replica in a place.
    pub fn kill(&self, place: usize) {
        let link = self.places()[place].as_ref().map(|replica| Arc::clone(&replica.link));
        link.iter().for_each(|link| self.bury(place, link));
    }

    /// Whether callers pause and resume whatever there is.
    pub fn is_restless(&self) -> bool {
        self.restless && !self.weather.is_calm()
    }

    /// Whether they have done so, and let everything go on now.
    pub fn is_restful(&self) -> bool {
        self.restless && self.weather.is_calm()
    }

    fn places(&self) -> MutexGuard<'_, Vec<Option<Replica>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some replica that a caller reaches.
    pub async fn replica(&self, chance: &Chance) -> Runs {
        loop {
            let found: Vec<Runs> = self.places().iter().flatten().map(|replica| replica.runs.clone()).collect();
            if !found.is_empty() {
                return found[chance.index(found.len())].clone();
            }
            self.time.sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts a replica in a place.
    async fn revive(self: Arc<Self>, place: usize, pause: Duration) {
        self.time.sleep(pause).await;
        let link = Arc::new(Link::new(Arc::clone(&self.time), self.chance.clone(), Arc::clone(&self.weather)));
        let shared = Shared {
            store: Arc::new(SimStore { link: Arc::clone(&link), truth: self.truth.clone() }),
            counters: Arc::new(SimCounters { link: Arc::clone(&link), memory: Arc::clone(&self.memory) }),
            peers: Arc::new(SimPeers {
                link: Arc::clone(&link),
                journal: self.journal.clone(),
                prompts: self.prompts.clone(),
            }),
            clock: Arc::clone(&link) as Arc<dyn Clock>,
            seal_key: SigningKey::from_seed(&[7; 32]),
            crash: self.traps(place, &link),
            sabotage: self.sabotage,
            signals: self.signals(&link),
            tenants: self.tenants(),
        };
        let ids = Arc::new(SimIds(Arc::clone(&self.time), self.chance.clone()));
        let limits = Limits { history_tokens: self.history_tokens, ..Limits::default() };
        let runs = Runs::new(shared, ids, limits, Replicas::default());
        self.places()[place] = Some(Replica { link, runs: runs.clone() });
        // As a service begins.
        runs.beat().await;
        let _ = runs.claim_all().await;
        runs.keep_claiming();
    }

    fn signals(&self, link: &Arc<Link>) -> Arc<dyn Signals> {
        match &self.air {
            Some(air) => Arc::new(SimSignals { link: Arc::clone(link), air: air.clone() }),
            None => Arc::new(Silence),
        }
    }

    fn tenants(&self) -> Tenants {
        let budget = BudgetLimit { cost_nano_usd: self.poor, runs: None };
        let terms = Terms { budget, ..Terms::default() };
        Tenants::new(self.poor.iter().map(|_| ("t".to_owned(), terms.clone())).collect())
    }

    /// Crash points that kill the replica in this place, and nobody else.
    fn traps(self: &Arc<Self>, place: usize, link: &Arc<Link>) -> CrashPoints {
        let (world, link) = (Arc::clone(self), Arc::clone(link));
        CrashPoints::trapped(Box::new(move |point, _, _| {
            if link.health() == Health::Dead {
                return true;
            }
            let odds = if point == world.favourite { DEATHS.1 } else { DEATHS.0 };
            let dies = !world.weather.is_calm() && world.chance.once_in(odds);
            let mut counts = world.points.counts();
            let (passed, died) = counts.entry(point).or_default();
            *passed += 1;
            *died += u64::from(dies);
            drop(counts);
            if dies {
                world.bury(place, &link);
            }
            dies
        }))
    }

    fn bury(&self, place: usize, link: &Link) {
        link.become_so(Health::Dead);
        self.places()[place] = None;
        let _ = self.graves.send(place);
    }

    /// Kills, freezes, cuts off and makes forget, until the calm.
    async fn rage(self: Arc<Self>) {
        let mut copied = self.memory.copy();
        while self.time.now() < WEATHER {
            self.time.sleep(self.chance.span(20_000, 700_000)).await;
            let place = self.chance.index(PLACES);
            let link = self.places()[place].as_ref().map(|replica| Arc::clone(&replica.link));
            match (self.chance.below(10), link) {
                (0, Some(link)) => self.bury(place, &link),
                (1 | 2, Some(link)) => {
                    // Beyond the patience of the others, mostly.
                    let span = self.chance.span(500_000, 6_000_000);
                    link.become_so(Health::Frozen);
                    let thawing = self.time.sleep(span);
                    tokio::spawn(async move {
                        thawing.await;
                        link.become_so(Health::Alive);
                    });
                }
                (3, _) => self.memory.clear(),
                (4, _) => copied = self.memory.copy(),
                (5 | 6, _) => self.memory.fall_back(&copied),
                (7, _) => self.away(Part::Counters, self.chance.span(100_000, 3_000_000)),
                (8, _) => self.away(Part::Store, self.chance.span(50_000, 2_000_000)),
                (9, _) => {
                    let peer = [Part::Generator, Part::Router, Part::Gateway][self.chance.index(3)];
                    self.away(peer, self.chance.span(100_000, 3_000_000));
                }
                _ => {}
            }
        }
        self.weather.calm();
    }

    /// A standby takes the store's place, and has not heard the last of it.
    async fn fall_back(self: Arc<Self>) {
        self.time.sleep(self.chance.span(2_000_000, 9_000_000)).await;
        let before = self.truth.tables().clone();
        self.time.sleep(self.chance.span(20_000, 1_500_000)).await;
        let lost = self.truth.fall_back(before);
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).extend(lost);
    }

    /// Whether something of a run is gone.
    pub fn has_lost_of(&self, run: Uuid) -> bool {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|(lost, _)| *lost == run)
    }

    fn away(&self, part: Part, span: Duration) {
        self.weather.set(part, true);
        let (back, weather) = (self.time.sleep(span), Arc::clone(&self.weather));
        tokio::spawn(async move {
            back.await;
            weather.set(part, false);
        });
    }
}
