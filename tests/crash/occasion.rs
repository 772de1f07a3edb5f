//! When each named point is passed: no point is left out, because a new one does not compile here until somebody says which
//! test dies at it.

use mar_session::crash::Point;

/// What has to happen so that a point is passed, and which test has it happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// A run that nobody commands, parks or claims: `points`.
    Run,
    /// A run whose process died is taken over: `takeover`.
    Takeover,
    /// A caller wants something of a run: `commands`.
    Command,
    /// A run waits for somebody: `parking`.
    Parking,
    /// A run delegates: `children`.
    Children,
    /// A session is erased: `an_erasure_that_was_cut_off_is_completed` in `tests/suite/erasing.rs`.
    Erasure,
    /// Something is streamed in: `an_upload_that_dies_with_its_process_is_whole_or_not_there` in
    /// `tests/suite/uploading/dying.rs`.
    Upload,
    /// A hook is told something: `a_notice_whose_taking_was_not_noted_comes_again` in `tests/suite/hooking.rs`.
    Hook,
}

/// The occasion of a point.
pub const fn of(point: Point) -> Occasion {
    match point {
        Point::AdmitOffered
        | Point::AdmitCommitted
        | Point::AdvanceBefore
        | Point::AdvanceDone
        | Point::CommitBefore
        | Point::CommitDone
        | Point::GenerationSent
        | Point::GenerationStreaming
        | Point::TurnInHand
        | Point::CallSent
        | Point::ResultInHand
        | Point::EndCommitted
        | Point::EndSealed => Occasion::Run,
        Point::ClaimTaken => Occasion::Takeover,
        Point::CommandStored => Occasion::Command,
        Point::ParkDone => Occasion::Parking,
        Point::ChildrenCommitted | Point::ChildAdmitted | Point::ChildStopped | Point::ParentTold => Occasion::Children,
        Point::ErasureRecorded | Point::ErasureRun | Point::ErasureBlobs | Point::ErasureDone => Occasion::Erasure,
        Point::UploadBegun | Point::UploadPiece | Point::UploadReceived | Point::UploadWhole => Occasion::Upload,
        Point::HookTaken => Occasion::Hook,
    }
}

/// The points of an occasion, in the order of the registry.
pub fn points(occasion: Occasion) -> Vec<Point> {
    Point::all().filter(|point| of(*point) == occasion).collect()
}

/// The tests go through whole lists of the registry or through those of an occasion: together these are all of them.
#[test]
fn every_point_of_the_registry_is_died_at() {
    use Occasion::{Children, Command, Erasure, Hook, Parking, Run, Takeover, Upload};
    let died_at: Vec<Point> = [Run, Takeover, Command, Parking].into_iter().flat_map(points).collect();
    assert!(Point::ALL.iter().all(|point| died_at.contains(point)), "{died_at:?}");
    assert_eq!(died_at.len(), Point::ALL.len());
    assert_eq!(points(Children), Point::OF_CHILDREN);
    assert_eq!(points(Upload), Point::OF_UPLOADS);
    // The tests beside tell erasures by their names, and die at the one point of hooks.
    let named = |what: &str| -> Vec<Point> {
        Point::BESIDE.iter().copied().filter(|point| point.name().starts_with(what)).collect()
    };
    assert_eq!(points(Erasure), named("erasure"));
    assert_eq!(points(Hook), [Point::HookTaken]);
    assert_eq!(Point::BESIDE.len(), points(Erasure).len() + 1);
}
