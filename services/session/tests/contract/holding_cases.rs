//! Runs that are parked, what wakes them, and what replicas leave behind.

use std::sync::Arc;

use bytes::Bytes;
use mar_session::store::{ApprovalPage, ApprovalRow, CommandRow, Hold, Outcome, RequestKey, RunRow};
use time::{Duration, OffsetDateTime};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::PATIENCE;
use crate::rows::{OWNER, Subject, TENANT, change, id, key, now};

const NO_REST: std::time::Duration = std::time::Duration::ZERO;
const HELD: Hold<'static> = Hold { owner: OWNER, epoch: 1 };

fn later() -> OffsetDateTime {
    // The store's clock is the real one.
    OffsetDateTime::from_unix_timestamp(4_000_000_000).unwrap()
}

fn past() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::days(1)
}

pub fn command() -> CommandRow {
    CommandRow { id: id(), body: Bytes::from_static(b"\x00wanted\xff") }
}

async fn put(subject: &Subject, run: &RunRow, command: &CommandRow) -> Option<Outcome<Uuid>> {
    subject.store.command_put(TENANT, run.id, None, command).await.unwrap()
}

async fn claimed(subject: &Subject, owner: &str) -> Vec<(Uuid, i64)> {
    let claimed = subject.store.run_claim(owner, 1, 10, PATIENCE).await.unwrap();
    claimed.into_iter().map(|claimed| (claimed.run.id, claimed.epoch)).collect()
}

pub async fn a_parked_run_is_claimed_at_its_time(subject: Subject) {
    let (sleeping, _) = subject.admitted().await;
    let (due, _) = subject.admitted().await;
    assert!(subject.store.run_park(TENANT, sleeping.id, HELD, later()).await.unwrap());
    assert!(subject.store.run_park(TENANT, due.id, HELD, past()).await.unwrap());
    // Its last holder takes it as well as another.
    assert_eq!(claimed(&subject, OWNER).await, [(due.id, 2)]);
    assert_eq!(claimed(&subject, OWNER).await, []);
}

pub async fn only_its_holder_parks_a_run(subject: Subject) {
    let (run, _) = subject.admitted().await;
    for hold in [Hold { owner: "replica-2", epoch: 1 }, Hold { owner: OWNER, epoch: 2 }] {
        assert!(!subject.store.run_park(TENANT, run.id, hold, past()).await.unwrap());
    }
    assert!(!subject.store.run_park("globex", run.id, HELD, past()).await.unwrap());
    assert_eq!(claimed(&subject, OWNER).await, []);
    assert!(subject.store.run_park(TENANT, run.id, HELD, later()).await.unwrap());
    assert!(!subject.store.run_park(TENANT, run.id, HELD, past()).await.unwrap(), "it is held no more");
}

pub async fn a_command_wakes_a_parked_run(subject: Subject) {
    let (run, _) = subject.admitted().await;
    assert!(subject.store.run_park(TENANT, run.id, HELD, later()).await.unwrap());
    let wanted = command();
    assert_eq!(put(&subject, &run, &wanted).await, Some(Outcome::Done(wanted.id)));
    assert_eq!(claimed(&subject, "replica-2").await, [(run.id, 2)]);
    let hold = Hold { owner: "replica-2", epoch: 2 };
    assert_eq!(subject.store.command_read(TENANT, run.id, hold).await.unwrap(), [wanted]);
}

pub async fn a_command_keeps_a_run_from_parking(subject: Subject) {
    let (run, _) = subject.admitted().await;
    put(&subject, &run, &command()).await;
    assert!(!subject.store.run_park(TENANT, run.id, HELD, later()).await.unwrap());
    assert_eq!(subject.store.command_runs(OWNER).await.unwrap(), [run.id]);
    assert_eq!(subject.store.command_runs("replica-2").await.unwrap(), [] as [Uuid; 0]);
    // Once it is read the run may park, dropped or not: who read it takes it first.
    subject.store.command_read(TENANT, run.id, HELD).await.unwrap();
    assert_eq!(subject.store.command_runs(OWNER).await.unwrap(), [] as [Uuid; 0]);
    assert!(subject.store.run_park(TENANT, run.id, HELD, later()).await.unwrap());
}

/// A replica that was taken for dead still reads what its run is wanted to do; its successor has to hear of it all the same.
pub async fn who_has_lost_a_run_reads_its_commands_without_a_trace(subject: Subject) {
    let (run, _) = subject.admitted().await;
    assert!(subject.store.run_park(TENANT, run.id, HELD, past()).await.unwrap());
    assert_eq!(claimed(&subject, "replica-2").await, [(run.id, 2)]);
    let wanted = command();
    put(&subject, &run, &wanted).await;
    let now = Hold { owner: "replica-2", epoch: 2 };
    for stale in [HELD, Hold { owner: "replica-2", epoch: 1 }, Hold { owner: OWNER, epoch: 2 }] {
        assert_eq!(subject.store.command_read(TENANT, run.id, stale).await.unwrap(), std::slice::from_ref(&wanted));
        assert_eq!(subject.store.command_runs("replica-2").await.unwrap(), [run.id], "read by {stale:?}");
        assert!(!subject.store.run_park(TENANT, run.id, now, later()).await.unwrap(), "read by {stale:?}");
    }
    assert_eq!(subject.store.command_read(TENANT, run.id, now).await.unwrap(), [wanted]);
    assert_eq!(subject.store.command_runs("replica-2").await.unwrap(), [] as [Uuid; 0]);
    assert!(subject.store.run_park(TENANT, run.id, now, later()).await.unwrap());
}

pub async fn only_its_holder_leaves_a_run(subject: Subject) {
    let (run, _) = subject.admitted().await;
    let (other, _) = subject.admitted().await;
    put(&subject, &run, &command()).await;
    for hold in [Hold { owner: "replica-2", epoch: 1 }, Hold { owner: OWNER, epoch: 2 }] {
        assert!(!subject.store.run_leave(run.id, hold, 1, NO_REST).await.unwrap());
    }
    let mut held = [(run.id, 1), (other.id, 1)];
    held.sort();
    assert_eq!(subject.store.run_held(OWNER).await.unwrap(), held);
    assert_eq!(subject.store.run_held("replica-2").await.unwrap(), []);
    // A command on its way is no reason to keep it.
    assert!(subject.store.run_leave(run.id, HELD, 1, NO_REST).await.unwrap());
    assert!(!subject.store.run_leave(run.id, HELD, 1, NO_REST).await.unwrap(), "it is held no more");
    assert_eq!(subject.store.run_held(OWNER).await.unwrap(), [(other.id, 1)]);
    assert_eq!(claimed(&subject, OWNER).await, [(run.id, 2)]);
}

/// A store that has gone back in time gives ownerships out again that the log knows of.
pub async fn a_run_is_left_past_an_epoch_and_for_a_while(subject: Subject) {
    let (run, _) = subject.admitted().await;
    let (rests, _) = subject.admitted().await;
    let hour = std::time::Duration::from_secs(3_600);
    assert!(subject.store.run_leave(rests.id, HELD, 1, hour).await.unwrap());
    assert!(subject.store.run_leave(run.id, HELD, 7, NO_REST).await.unwrap());
    assert_eq!(claimed(&subject, "replica-2").await, [(run.id, 8)]);
}

pub async fn commands_are_read_until_they_are_dropped(subject: Subject) {
    let (run, _) = subject.admitted().await;
    let (other, _) = subject.admitted().await;
    let wanted = [command(), command(), command()];
    for one in &wanted {
        put(&subject, &run, one).await;
    }
    put(&subject, &other, &command()).await;
    for _ in 0..2 {
        assert_eq!(subject.store.command_read(TENANT, run.id, HELD).await.unwrap(), wanted);
    }
    assert_eq!(subject.store.command_read("globex", run.id, HELD).await.unwrap(), []);
    subject.store.command_drop("globex", run.id, &[wanted[0].id]).await.unwrap();
    subject.store.command_drop(TENANT, run.id, &[wanted[0].id, wanted[2].id]).await.unwrap();
    assert_eq!(subject.store.command_read(TENANT, run.id, HELD).await.unwrap(), [wanted[1].clone()]);
    assert_eq!(subject.store.command_read(TENANT, other.id, HELD).await.unwrap().len(), 1);
}

pub async fn commands_carry_request_ids(subject: Subject) {
    let (run, _) = subject.admitted().await;
    let (key, first) = (key(), command());
    assert_eq!(subject.store.request_seen(TENANT, &key).await.unwrap(), None);
    let put = |key: RequestKey, command: CommandRow| {
        let store = Arc::clone(&subject.store);
        async move { store.command_put(TENANT, run.id, Some(&key), &command).await.unwrap() }
    };
    assert_eq!(put(key.clone(), first.clone()).await, Some(Outcome::Done(first.id)));
    assert_eq!(put(key.clone(), command()).await, Some(Outcome::Repeated(first.id)));
    let other = RequestKey { digest: [8; 32], ..key.clone() };
    assert_eq!(put(other.clone(), command()).await, Some(Outcome::Reused));
    assert_eq!(subject.store.command_read(TENANT, run.id, HELD).await.unwrap(), [first]);
    assert_eq!(subject.store.request_seen(TENANT, &key).await.unwrap(), Some(true));
    assert_eq!(subject.store.request_seen(TENANT, &other).await.unwrap(), Some(false));
    assert_eq!(subject.store.request_seen("globex", &key).await.unwrap(), None);
}

pub async fn commands_need_an_open_run(subject: Subject) {
    let (run, log) = subject.admitted().await;
    let key = key();
    for (tenant, id) in [("globex", run.id), (TENANT, id())] {
        let answer = subject.store.command_put(tenant, id, Some(&key), &command()).await.unwrap();
        assert_eq!(answer, None);
    }
    put(&subject, &run, &command()).await;
    subject.store.run_change(TENANT, run.id, &change(4, Some(log.head()))).await.unwrap();
    assert_eq!(subject.store.command_read(TENANT, run.id, HELD).await.unwrap(), [], "they go with the end of the run");
    assert_eq!(subject.store.command_put(TENANT, run.id, Some(&key), &command()).await.unwrap(), None);
    assert_eq!(subject.store.request_seen(TENANT, &key).await.unwrap(), None, "a refusal uses no request id up");
}

/// Whatever comes first: a run that parks has no command that nobody would read.
pub async fn commands_and_parking_at_a_time_lose_nothing(subject: Subject) {
    for _ in 0..20 {
        let (run, log) = subject.admitted().await;
        let mut both = JoinSet::new();
        let (store, wanted) = (Arc::clone(&subject.store), command());
        both.spawn(async move { store.command_put(TENANT, run.id, None, &wanted).await.unwrap().is_some() });
        let store = Arc::clone(&subject.store);
        both.spawn(async move { store.run_park(TENANT, run.id, HELD, later()).await.unwrap() });
        both.join_all().await;
        let woken = claimed(&subject, "replica-2").await;
        let told = subject.store.command_runs(OWNER).await.unwrap();
        if woken.is_empty() {
            assert_eq!(told, [run.id], "the run is held, and its holder is told");
        } else {
            assert_eq!(woken, [(run.id, 2)]);
        }
        subject.store.run_change(TENANT, run.id, &change(4, Some(log.head()))).await.unwrap();
    }
}

pub async fn what_a_replica_leaves_is_claimed(subject: Subject) {
    let (run, _) = subject.admitted().await;
    let (other, _) = subject.admitted().await;
    subject.store.beat("replica-2", PATIENCE).await.unwrap();
    subject.store.beat("replica-2", PATIENCE).await.unwrap();
    assert!(subject.store.run_park(TENANT, other.id, HELD, later()).await.unwrap());
    subject.store.leave(OWNER).await.unwrap();
    assert_eq!(claimed(&subject, "replica-2").await, [(run.id, 2)]);
    assert_eq!(claimed(&subject, "replica-2").await, [], "what was parked sleeps on");
}

pub async fn a_claim_knows_for_how_long_nobody_was_there(subject: Subject) {
    use std::time::Duration;
    let unattended = |owner: &'static str| {
        let store = std::sync::Arc::clone(&subject.store);
        async move {
            let claimed = store.run_claim(owner, 1, 10, PATIENCE).await.unwrap();
            claimed.into_iter().map(|claimed| (claimed.run.id, claimed.unattended)).collect::<Vec<_>>()
        }
    };
    let (due, _) = subject.admitted().await;
    let (held, _) = subject.admitted().await;
    let wake = OffsetDateTime::now_utc() - Duration::from_secs(90);
    assert!(subject.store.run_park(TENANT, due.id, HELD, wake).await.unwrap());
    let claimed = unattended("replica-2").await;
    assert_eq!(claimed.iter().map(|(run, _)| *run).collect::<Vec<_>>(), [due.id, held.id]);
    let since = claimed[0].1.expect("it was to be woken");
    assert!((Duration::from_secs(89)..Duration::from_secs(600)).contains(&since), "{since:?}");
    assert_eq!(claimed[1].1, None, "nobody has heard of its owner");
    // One that leaves says when.
    subject.store.leave("replica-2").await.unwrap();
    for (_, since) in unattended("replica-3").await {
        assert!(since.is_some_and(|since| since < Duration::from_secs(60)), "{since:?}");
    }
    // Of one that is gone its last sign of life is known, where there are such.
    subject.store.beat("replica-3", PATIENCE).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let shared = matches!(subject.behind, crate::rows::Behind::Postgres(_));
    let claimed = unattended("replica-4").await;
    assert_eq!(claimed.len(), 2);
    for (_, since) in claimed {
        assert_eq!(since.is_some_and(|since| since >= Duration::from_millis(50)), shared, "{since:?}");
    }
}

/// Only Postgres has replicas that share a store.
pub async fn who_has_just_come_back_takes_nothing_over(subject: Subject) {
    if !matches!(subject.behind, crate::rows::Behind::Postgres(_)) {
        return;
    }
    let (run, _) = subject.admitted().await;
    let patience = std::time::Duration::from_millis(1_500);
    let claim = || async {
        let claimed = subject.store.run_claim("replica-2", 1, 10, patience).await.unwrap();
        claimed.into_iter().map(|claimed| (claimed.run.id, claimed.epoch)).collect::<Vec<_>>()
    };
    let beat = |owner: &'static str| subject.store.beat(owner, patience);
    // Both are there, and then the store stands still for everybody.
    beat(OWNER).await.unwrap();
    beat("replica-2").await.unwrap();
    tokio::time::sleep(patience * 2).await;
    assert_eq!(claim().await, [], "its own beats are too old to judge");
    beat("replica-2").await.unwrap();
    assert_eq!(claim().await, [], "nor does one beat make it wiser");
    // The other one is really gone. However slow the machine, beats without a gap come about in the end.
    let mut claimed = claim().await;
    for _ in 0..200 {
        if !claimed.is_empty() {
            break;
        }
        beat("replica-2").await.unwrap();
        tokio::time::sleep(patience / 10).await;
        claimed = claim().await;
    }
    assert_eq!(claimed, [(run.id, 2)]);
}

pub fn approval(run: &RunRow, id: &str, state: i16) -> ApprovalRow {
    ApprovalRow {
        session: run.session,
        run: run.id,
        id: id.to_owned(),
        state,
        body: Bytes::from(format!("{id} is {state}")),
        create_time: now(),
    }
}

pub async fn approvals_are_kept_as_they_stand(subject: Subject) {
    let (run, _) = subject.admitted().await;
    let asked = approval(&run, "1-0", 1);
    subject.store.approval_put(TENANT, &[asked.clone(), approval(&run, "1-1", 1)]).await.unwrap();
    subject.store.approval_put(TENANT, &[]).await.unwrap();
    assert_eq!(subject.store.approval_get(TENANT, run.id, "1-0").await.unwrap(), Some(asked.clone()));
    let decided = ApprovalRow { state: 2, body: Bytes::from_static(b"fine"), ..asked.clone() };
    subject.store.approval_put(TENANT, std::slice::from_ref(&decided)).await.unwrap();
    assert_eq!(subject.store.approval_get(TENANT, run.id, "1-0").await.unwrap(), Some(decided));
    assert_eq!(subject.store.approval_get(TENANT, run.id, "9-9").await.unwrap(), None);
    assert_eq!(subject.store.approval_get("globex", run.id, "1-0").await.unwrap(), None);
}

pub async fn approvals_are_paged(subject: Subject) {
    let (older, _) = subject.admitted().await;
    let (newer, _) = subject.admitted().await;
    let rows = [approval(&newer, "2-0", 1), approval(&newer, "1-0", 2), approval(&older, "1-0", 1)];
    subject.store.approval_put(TENANT, &rows).await.unwrap();
    let list = |page: ApprovalPage| {
        let store = Arc::clone(&subject.store);
        async move { store.approval_list(TENANT, &page).await.unwrap() }
    };
    let all = ApprovalPage { limit: 10, ..ApprovalPage::default() };
    assert_eq!(list(all.clone()).await, rows);
    let first = list(ApprovalPage { limit: 2, ..all.clone() }).await;
    assert_eq!(first, rows[..2]);
    let before = Some((first[1].run, first[1].id.clone()));
    assert_eq!(list(ApprovalPage { before, ..all.clone() }).await, rows[2..]);
    assert_eq!(list(ApprovalPage { state: Some(2), ..all.clone() }).await, rows[1..2]);
    assert_eq!(list(ApprovalPage { run: Some(older.id), ..all.clone() }).await, rows[2..]);
    assert_eq!(list(ApprovalPage { session: Some(newer.session), ..all.clone() }).await, rows[..2]);
    assert_eq!(subject.store.approval_list("globex", &all).await.unwrap(), []);
}
