//! A storm from its first request to its judgement.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mar_session::sabotage::Fault;
use mar_testkit::ports;
use mar_testkit::process::Process;
use mar_tests::Deployment;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::arms::Arms;
use crate::heirs::Heirs;
use crate::judge::Judged;
use crate::replica::Place;
use crate::report::Report;
use crate::story::{Kind, Teller, Told};
use crate::weather::Weather;
use crate::{judge, scene};
use mar_tests::dice::Dice;

/// What is to happen.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    /// At least so many runs.
    pub runs: usize,
    /// Runs at a time.
    pub lanes: usize,
    /// Replicas of session.
    pub replicas: usize,
    /// Goes on, up to three times the runs, until so many have died at each point.
    pub deaths: usize,
    /// Longest pause between two events of the weather, in milliseconds.
    pub pace: u64,
    /// How long a run may take.
    pub patience: Duration,
    /// What session is told to leave out.
    pub fault: Option<Fault>,
}

impl Plan {
    fn seed() -> u64 {
        std::env::var("MAR_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
    }

    /// For `make test`.
    pub fn short() -> Self {
        let patience = Duration::from_secs(180);
        Self { seed: Self::seed(), runs: 40, lanes: 8, replicas: 2, deaths: 0, pace: 1_500, patience, fault: None }
    }

    /// For `make test-chaos`.
    pub fn long() -> Self {
        Self { runs: 1_000, replicas: 3, deaths: 20, ..Self::short() }
    }

    /// In which a fault has to be found.
    pub fn sabotaged(fault: Fault) -> Self {
        Self { runs: 100, patience: Duration::from_secs(60), pace: 700, fault: Some(fault), ..Self::short() }
    }
}

/// A system with a storm to come.
pub struct Storm {
    plan: Plan,
    system: Deployment,
    heirs: Heirs,
    arms: Arc<Arms>,
    dice: Dice,
}

impl Storm {
    pub async fn start(plan: Plan) -> anyhow::Result<Self> {
        say(&format!("storm {}: {} runs, {} replicas", plan.seed, plan.runs, plan.replicas));
        let system = scene::start().await?;
        let heirs = Heirs::of(&system)?;
        let arms = Arc::new(Arms::new(system.folder()));
        let dice = Dice::new(plan.seed);
        Ok(Self { plan, system, heirs, arms, dice })
    }

    /// Has everything happen, and judges it.
    pub async fn rage(self) -> anyhow::Result<Report> {
        let seed = self.plan.seed;
        self.unfold().await.with_context(|| format!("MAR_CHAOS_SEED={seed}"))
    }

    async fn unfold(mut self) -> anyhow::Result<Report> {
        let began = Instant::now();
        let calm = CancellationToken::new();
        let ports = ports::free_many(self.plan.replicas)?;
        let endpoints = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let args: Vec<String> = self.plan.fault.iter().map(|fault| format!("--sabotage={}", fault.name())).collect();
        let (mut living, mut places) = (JoinSet::new(), Vec::new());
        for port in ports {
            let (sender, blows) = mpsc::unbounded_channel();
            let place = Place {
                launcher: self.system.launcher()?,
                arms: Arc::clone(&self.arms),
                port,
                args: args.clone(),
                dice: self.dice.fork(),
                blows,
                calm: calm.clone(),
            };
            places.push(sender);
            living.spawn(place.live());
        }
        let teller = Teller { endpoints, patience: self.plan.patience, dice: self.dice.fork() };
        let folder = self.system.folder().to_owned();
        let weather = Weather {
            system: self.system,
            heirs: self.heirs,
            dice: self.dice.fork(),
            places,
            pace: self.plan.pace,
            calm: calm.clone(),
        };
        let mut raging = JoinSet::new();
        raging.spawn(weather.rage());
        let stories = tokio::select! {
            stories = tell(&self.plan, &teller, &self.arms, &mut self.dice) => stories?,
            // Before the calm it only ends by a failure, and the system with it.
            ended = raging.join_next() => {
                ended.context("no weather")???;
                anyhow::bail!("the weather ended before the storm");
            }
        };
        calm.cancel();
        let (_standing, weather) = raging.join_next().await.context("no weather")???;
        let mut processes: Vec<Process> = Vec::new();
        while let Some(process) = living.join_next().await {
            processes.push(process??);
        }
        let mut report = Report { seed: self.plan.seed, took: began.elapsed(), weather, ..Report::default() };
        let mut ended = BTreeMap::new();
        for (told, judged) in &stories {
            report.add(told, judged);
            ended.extend(judged.ended.clone());
        }
        report.die(self.arms.deaths_in_runs(), &ended);
        report.effects = judge::effects(&folder, &report.scars)?;
        Ok(report)
    }
}

/// Has all stories told, some at a time, each judged when it has ended.
async fn tell(plan: &Plan, teller: &Teller, arms: &Arc<Arms>, dice: &mut Dice) -> anyhow::Result<Vec<(Told, Judged)>> {
    let begun = Arc::new(AtomicUsize::new(0));
    let mut lanes = JoinSet::new();
    for _ in 0..plan.lanes {
        let (plan, begun, arms) = (plan.clone(), Arc::clone(&begun), Arc::clone(arms));
        let mut teller = Teller { dice: dice.fork(), ..teller.clone() };
        lanes.spawn(async move {
            let mut stories = Vec::new();
            loop {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                if number >= plan.runs && (number >= 3 * plan.runs || arms.fewest() >= plan.deaths) {
                    return anyhow::Ok(stories);
                }
                let kind = Kind::of(number, &mut teller.dice);
                let told = teller.tell(kind).await?;
                let judged = judged(&mut teller, &told).await?;
                stories.push((told, judged));
            }
        });
    }
    let mut stories = Vec::new();
    while let Some(lane) = lanes.join_next().await {
        stories.extend(lane??);
    }
    Ok(stories)
}

/// Judges a run through any replica; one that dies meanwhile is no judge.
async fn judged(teller: &mut Teller, told: &Told) -> anyhow::Result<Judged> {
    let mut last = None;
    for _ in 0..40 {
        let client = teller.client().await;
        match judge::run(client, told).await {
            Ok(judged) => return Ok(judged),
            Err(error) if error.downcast_ref::<tonic::Status>().is_some() => last = Some(error),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("nobody judges")))
}

/// Says something to who watches the test.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
