//! Reading what a verification needs.

use std::collections::BTreeMap;

use mar_descriptor::Hash;
use mar_proto::session::{RunAdmitted, SessionState, VerifyRunResponse, event_leaf};
use mar_runtime::status::Resource;
use uuid::Uuid;

use crate::error::Error;
use crate::log;
use crate::runs::Runs;
use crate::sessions::name as session_name;
use crate::store::{self, EventRow, Page, RunRow, SessionLogRow, SessionRow, Store};
use crate::verify::{Keys, Rows, Verifier, stored_seals};
use crate::view;

/// Events read at a time.
const READ_EVENTS: i64 = 256;
/// Payload read at a time.
const READ_BYTES: usize = 1 << 20;
/// Runs read at a time.
const READ_RUNS: i64 = 200;
/// Tries of a reading that a state change falls into: a run changes its state a few times in its life.
const TRIES: usize = 8;
/// Positions that are looked at one by one behind a row that cannot be read.
const PROBES: i64 = 1_024;

/// What stands beside a run's events, as of one moment.
#[derive(PartialEq, Eq)]
struct Beside {
    session: SessionRow,
    session_log: Vec<SessionLogRow>,
    run: RunRow,
    seals: BTreeMap<Uuid, Hash>,
    /// The event of another run that the run's chain begins with.
    intent: Option<EventRow>,
}

/// Verifies a stored run. Rows are read one after the other while the run may go on: a state change in between makes the
/// reading begin again, so that what is compared belongs together.
pub async fn verify(
    runs: &Runs,
    keys: &Keys,
    tenant: &str,
    session: Uuid,
    run: Uuid,
) -> Result<VerifyRunResponse, Error> {
    let store = runs.store();
    let mut tries = 0;
    let mut beside = read_beside(store, tenant, session, run).await?;
    loop {
        let found = {
            let rows = Rows {
                session: &beside.session,
                session_log: &beside.session_log,
                run: &beside.run,
                intent: beside.intent.as_ref(),
                seals: &beside.seals,
            };
            let mut verifier = Verifier::new(keys, rows);
            read_events(store, &beside.run, &mut verifier).await?;
            verifier.finish()
        };
        tries += 1;
        let now = read_beside(store, tenant, session, run).await?;
        // The session's log grows with its other runs, which is nothing to this one.
        if (now.run == beside.run && now.session == beside.session) || tries == TRIES {
            return Ok(found);
        }
        beside = now;
    }
}

async fn read_beside(store: &dyn Store, tenant: &str, session: Uuid, run: Uuid) -> Result<Beside, Error> {
    let none = || Error::NotFound { kind: Resource::Run, name: view::run_name(session, run) };
    let run = store.run_get(tenant, run).await?.filter(|row| row.session == session).ok_or_else(none)?;
    let row = store.session_get(tenant, session).await?;
    let row = row.ok_or_else(|| Error::NotFound { kind: Resource::Session, name: session_name(session) })?;
    let session_log = store.session_log(tenant, session).await?;
    let over = row.state >= SessionState::Ended as i16;
    let seals = if over { seals(store, tenant, session).await? } else { BTreeMap::new() };
    let intent = intent(store, &run).await?;
    Ok(Beside { session: row, session_log, run, seals, intent })
}

/// The event of another run that a run's chain begins with, where its first event names one. What cannot be read is told by
/// the verifier.
async fn intent(store: &dyn Store, run: &RunRow) -> Result<Option<EventRow>, store::Error> {
    let tenant = run.tenant.as_str();
    let read = |run: Uuid, seq: i64| async move {
        match store.event_read(tenant, run, seq, 1, READ_BYTES).await {
            Ok(mut rows) => Ok(rows.pop().filter(|row| row.seq == seq)),
            Err(store::Error::Corrupt(_)) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let Some(first) = read(run.id, 0).await? else { return Ok(None) };
    let Ok(leaf) = log::leaf(run.id, first.leaf) else { return Ok(None) };
    let (from, seq) = match leaf.body {
        Some(event_leaf::Body::RunAdmitted(RunAdmitted { fork: Some(fork), .. })) => (fork.run, fork.through_seq),
        Some(event_leaf::Body::RunAdmitted(RunAdmitted { parent: Some(parent), .. })) => {
            (parent.run, parent.intent_seq)
        }
        _ => return Ok(None),
    };
    match from.parse() {
        Ok(id) => read(id, seq).await,
        Err(_) => Ok(None),
    }
}

/// The hashes of the seals of a session's runs, as far as they have one.
pub async fn seals(store: &dyn Store, tenant: &str, session: Uuid) -> Result<BTreeMap<Uuid, Hash>, store::Error> {
    let mut found = BTreeMap::new();
    let mut page = Page { limit: READ_RUNS, ..Page::default() };
    loop {
        let rows = store.run_list(tenant, Some(session), page).await?;
        found.extend(stored_seals(&rows));
        page.before = rows.last().map(|row| row.id);
        if page.before.is_none() {
            return Ok(found);
        }
    }
}

/// Hands the events over, page by page. A row that cannot even be read is told, and the ones behind it are looked for.
async fn read_events(store: &dyn Store, run: &RunRow, verifier: &mut Verifier<'_>) -> Result<(), Error> {
    let (mut from, mut probes) = (0, 0);
    loop {
        let rows = match store.event_read(&run.tenant, run.id, from, READ_EVENTS, READ_BYTES).await {
            Ok(rows) => rows,
            Err(store::Error::Corrupt(_)) => match one_by_one(store, run, from, verifier).await? {
                Some(row) => vec![row],
                None if probes < PROBES => {
                    probes += 1;
                    from += 1;
                    continue;
                }
                None => return Ok(()),
            },
            Err(error) => return Err(error.into()),
        };
        for row in &rows {
            verifier.event(row);
        }
        match rows.last().and_then(|row| row.seq.checked_add(1)) {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}

/// The row at a position, where it can be read; one that cannot is told.
async fn one_by_one(
    store: &dyn Store,
    run: &RunRow,
    seq: i64,
    verifier: &mut Verifier<'_>,
) -> Result<Option<EventRow>, Error> {
    match store.event_read(&run.tenant, run.id, seq, 1, READ_BYTES).await {
        Ok(mut rows) => Ok(rows.pop()),
        Err(store::Error::Corrupt(what)) => {
            verifier.unreadable(seq, what);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
