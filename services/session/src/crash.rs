//! The registry of crash points: named moments at which a test build may be made to die.
//!
//! `MAR_CRASH_AT=<point>[@<n>]` aborts the process, as SIGKILL would, at the n-th time that the point is passed, 1 by
//! default, and `MAR_CRASH_JOURNAL=<file>` gets a line with the names of the point and of the run, or of the session of an
//! upload, before that. `MAR_PANIC_AT` is its like for a panic there, which ought to hurt nothing but the task that it is in. A
//! simulation decides for itself at each passing. A release build passes points without looking: nothing of this is compiled
//! into it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

macro_rules! points {
    (
        run { $($variant:ident = $name:literal, $meaning:literal;)+ }
        beside { $($erasing:ident = $step:literal, $left:literal;)+ }
        uploads { $($upload:ident = $stage:literal, $kept:literal;)+ }
        children { $($child:ident = $called:literal, $means:literal;)+ }
    ) => {
        /// A moment at which a process may die.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Point {
            $(#[doc = $meaning] $variant,)+
            $(#[doc = $left] $erasing,)+
            $(#[doc = $kept] $upload,)+
            $(#[doc = $means] $child,)+
        }

        impl Point {
            /// Every point, in the order in which a run passes them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Every point that neither a run nor an upload passes: those of an erasure, in this order, and of what hooks are told.
            pub const BESIDE: &[Self] = &[$(Self::$erasing),+];

            /// Every point of an upload, in the order in which it passes them.
            pub const OF_UPLOADS: &[Self] = &[$(Self::$upload),+];

            /// Every point that only a run with child runs, or a child run, passes.
            pub const OF_CHILDREN: &[Self] = &[$(Self::$child),+];

            /// Its name, as `MAR_CRASH_AT` takes it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                    $(Self::$erasing => $step,)+
                    $(Self::$upload => $stage,)+
                    $(Self::$child => $called),+
                }
            }

            /// What is durable there, and what is not.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)+
                    $(Self::$erasing => $left,)+
                    $(Self::$upload => $kept,)+
                    $(Self::$child => $means),+
                }
            }

            /// All of them.
            pub fn all() -> impl Iterator<Item = Self> {
                [Self::ALL, Self::BESIDE, Self::OF_UPLOADS, Self::OF_CHILDREN].into_iter().flatten().copied()
            }
        }
    };
}

points! {
    run {
        AdmitOffered = "admit.offered", "a run is about to be offered to the store; nothing of it is durable";
        AdmitCommitted = "admit.committed", "the run is durable; nobody was told and nothing executes it";
        ClaimTaken = "claim.taken", "the lease of a run is taken over; its log does not say so yet";
        CommandStored = "command.stored", "a command is durable; its run has not heard of it";
        AdvanceBefore = "advance.before", "a change of the counters is about to be asked for";
        AdvanceDone = "advance.done", "the counters have changed; the commit that says so has not happened";
        CommitBefore = "commit.before", "events are decided and counted; they are about to be appended";
        CommitDone = "commit.done", "events are durable; their effects have not begun";
        GenerationSent = "generation.sent", "a generation is about to be sent to the router";
        GenerationStreaming = "generation.streaming", "a delta of a generation has come";
        TurnInHand = "turn.in_hand", "a generation is over; its turn is not durable";
        CallSent = "call.sent", "a tool call is about to be sent to the gateway";
        ResultInHand = "result.in_hand", "a tool call is over; its result is not durable";
        ParkDone = "park.done", "a run that waits has been let go of";
        EndCommitted = "end.committed", "the end of a run is durable; it is not sealed";
        EndSealed = "end.sealed", "the seal of a run is durable; nobody has seen it";
    }
    beside {
        ErasureRecorded = "erasure.recorded", "a session's log says that it goes; nothing has gone";
        ErasureRun = "erasure.run", "the payloads of one more run are gone";
        ErasureBlobs = "erasure.blobs", "some more blobs are gone";
        ErasureDone = "erasure.done", "nothing is left but the chains; nobody was told";
        HookTaken = "hook.taken", "a hook has taken a notice; that it has is not durable";
    }
    uploads {
        UploadBegun = "upload.begun", "that an upload is under way is durable, and when it goes; none of its bytes is";
        UploadPiece = "upload.piece", "one more piece of an upload is durable; nobody can read it";
        UploadReceived = "upload.received", "every byte of an upload is durable; it is not whole";
        UploadWhole = "upload.whole", "a blob is whole, with its request's id; nobody was told";
    }
    children {
        ChildrenCommitted = "children.committed", "the intent to start child runs is durable; none of them is";
        ChildAdmitted = "child.admitted", "a child run is durable; its siblings may not be";
        ChildStopped = "child.stopped", "a child run is told durably to stop; its siblings may not be";
        ParentTold = "parent.told", "the end of a child run is durable for its parent; the child is not sealed";
    }
}

impl Point {
    /// The point of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|point| point.name() == name)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Decides at a point, which is passed for the n-th time, in this run, or session of an upload, where it is one's, whether who passes it goes on. It
/// never does after a `true`.
pub type Trap = Box<dyn Fn(Point, u64, Option<Uuid>) -> bool + Send + Sync>;

/// Counts how often each point is passed, and knows where to die, if anywhere.
#[derive(Default)]
pub struct CrashPoints {
    trap: Option<Trap>,
    passed: [AtomicU64; Point::ALL.len() + Point::BESIDE.len() + Point::OF_UPLOADS.len() + Point::OF_CHILDREN.len()],
}

impl fmt::Debug for CrashPoints {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("CrashPoints").field("passed", &self.passed).finish_non_exhaustive()
    }
}

impl CrashPoints {
    /// As the environment of a test build says.
    #[must_use]
    pub fn from_env() -> Self {
        #[cfg(debug_assertions)]
        let trap = armed::from_env();
        #[cfg(not(debug_assertions))]
        let trap = None;
        Self { trap, ..Self::default() }
    }

    /// With a trap of the caller's at each point.
    #[cfg(debug_assertions)]
    #[must_use]
    pub fn trapped(trap: Trap) -> Self {
        Self { trap: Some(trap), ..Self::default() }
    }

    /// How often a point was passed. Always 0 in a release build.
    #[must_use]
    pub fn passed(&self, point: Point) -> u64 {
        self.passed[point as usize].load(Ordering::Relaxed)
    }

    /// Passes a point that is neither a run's nor an upload's.
    pub async fn pass(&self, point: Point) {
        self.go_through(point, None).await;
    }

    /// Passes a point in a run.
    pub async fn pass_in(&self, point: Point, run: Uuid) {
        self.go_through(point, Some(run)).await;
    }

    /// Passes a point of an upload into a session.
    pub async fn pass_into(&self, point: Point, session: Uuid) {
        self.go_through(point, Some(session)).await;
    }

    #[cfg_attr(not(debug_assertions), expect(clippy::unused_async, reason = "a test build may wait here for ever"))]
    async fn go_through(&self, point: Point, whose: Option<Uuid>) {
        #[cfg(debug_assertions)]
        {
            let nth = self.passed[point as usize].fetch_add(1, Ordering::Relaxed) + 1;
            if self.trap.as_ref().is_some_and(|trap| trap(point, nth, whose)) {
                std::future::pending::<()>().await;
            }
        }
        #[cfg(not(debug_assertions))]
        let _ = (point, whose, &self.trap);
    }
}

/// Death of a whole process, in test builds only.
#[cfg(debug_assertions)]
mod armed {
    use std::io::Write as _;

    use super::{Point, Trap};

    /// The trap that the environment asks for. A name that is no point's is one that nobody passes.
    pub(super) fn from_env() -> Option<Trap> {
        if let Ok(wish) = std::env::var("MAR_PANIC_AT") {
            let (wanted, at) = read(&wish);
            return Some(Box::new(move |point, nth, _| {
                assert!(wanted != Some(point) || nth != at, "told to panic at {point}");
                false
            }));
        }
        let wish = std::env::var("MAR_CRASH_AT").ok()?;
        let journal = std::env::var_os("MAR_CRASH_JOURNAL");
        let (wanted, at) = read(&wish);
        Some(Box::new(move |point, nth, whose| {
            if wanted != Some(point) || nth != at {
                return false;
            }
            if let Some(file) = &journal
                && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(file)
            {
                let whose = whose.map(|whose| format!(" {whose}")).unwrap_or_default();
                // One write: others die at the same time.
                let _ = file.write_all(format!("{point}{whose}\n").as_bytes());
            }
            std::process::abort()
        }))
    }

    /// A point and the passing that is meant.
    fn read(wish: &str) -> (Option<Point>, u64) {
        let (name, at) = wish.split_once('@').unwrap_or((wish, "1"));
        (Point::named(name), at.parse().unwrap_or(1))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn points_are_found_by_their_names() {
        for point in Point::all() {
            assert_eq!(Point::named(point.name()), Some(point));
            assert!(!point.meaning().is_empty());
        }
        assert_eq!(Point::named("nowhere"), None);
    }

    #[test]
    fn passings_are_counted_and_a_trap_holds_who_steps_in_it() {
        let points = CrashPoints::trapped(Box::new(|point, nth, _| point == Point::CommitDone && nth == 2));
        assert!(points.pass(Point::CommitDone).now_or_never().is_some());
        assert!(points.pass(Point::EndCommitted).now_or_never().is_some());
        assert!(points.pass(Point::CommitDone).now_or_never().is_none());
        assert!(points.pass(Point::CommitDone).now_or_never().is_some());
        assert_eq!((points.passed(Point::CommitDone), points.passed(Point::EndCommitted)), (3, 1));
    }
}
