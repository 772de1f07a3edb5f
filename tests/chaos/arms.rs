//! At which point a replica dies next: where the fewest have died so far.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mar_session::crash::Point;

use mar_tests::dice::Dice;

/// Every point that a run, a run with child runs, or an upload passes.
pub fn points() -> impl Iterator<Item = &'static Point> {
    Point::ALL.iter().chain(Point::OF_CHILDREN).chain(Point::OF_UPLOADS)
}

/// Deaths so far are in a file that the dying write.
#[derive(Debug)]
pub struct Arms {
    journal: PathBuf,
    /// Points that living replicas are armed for.
    armed: Mutex<BTreeMap<&'static str, usize>>,
}

impl Arms {
    pub fn new(folder: &Path) -> Self {
        Self { journal: folder.join("deaths"), armed: Mutex::default() }
    }

    /// Where the dying write.
    pub fn journal(&self) -> String {
        self.journal.display().to_string()
    }

    /// Each death: its point, and the run in which it was passed, or the session of the upload.
    pub fn deaths_in_runs(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(&self.journal).unwrap_or_default();
        let words = text.lines().map(|line| line.split_once(' ').unwrap_or((line, "")));
        words.map(|(point, run)| (point.to_owned(), run.to_owned())).collect()
    }

    /// Deaths at each point.
    pub fn deaths(&self) -> BTreeMap<String, usize> {
        self.deaths_in_runs().into_iter().fold(BTreeMap::new(), |mut deaths, (point, _)| {
            *deaths.entry(point).or_default() += 1;
            deaths
        })
    }

    /// The fewest deaths at any point.
    pub fn fewest(&self) -> usize {
        let deaths = self.deaths();
        points().map(|point| deaths.get(point.name()).copied().unwrap_or(0)).min().unwrap_or(0)
    }

    /// Arms for a point, to be given back by [`Arms::disarm`], and says at which passing.
    pub fn arm(&self, dice: &mut Dice) -> (Point, u64) {
        let deaths = self.deaths();
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |point: &Point| {
            let living = armed.get(point.name()).copied().unwrap_or(0);
            deaths.get(point.name()).copied().unwrap_or(0) + living
        };
        let fewest = points().map(count).min().unwrap_or(0);
        let due: Vec<&Point> = points().filter(|point| count(point) == fewest).collect();
        let point = *due[dice.index(due.len())];
        *armed.entry(point.name()).or_default() += 1;
        // Points that a replica seldom passes are died at the first time.
        let rare = matches!(point, Point::CommandStored | Point::ParkDone | Point::ClaimTaken)
            || Point::OF_CHILDREN.contains(&point)
            || Point::OF_UPLOADS.contains(&point);
        (point, if rare { 1 } else { 1 + dice.below(4) })
    }

    pub fn disarm(&self, point: Point) {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(living) = armed.get_mut(point.name()) {
            *living = living.saturating_sub(1);
        }
    }
}
