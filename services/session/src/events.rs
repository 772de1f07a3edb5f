//! Reading a run's log in pages.

use mar_proto::session::Event;
use uuid::Uuid;

use crate::error::Error;
use crate::grpc::EventListing;
use crate::log;
use crate::runs::Runs;
use crate::view;

/// Payload of one page at the most, below the size of a message.
const PAGE_BYTES: usize = 2 << 20;

/// A page of events.
pub struct EventPage {
    /// Oldest first.
    pub events: Vec<Event>,
    /// Where the next page begins, if there is one.
    pub next: Option<i64>,
}

/// Reads a page.
pub async fn page(
    runs: &Runs,
    tenant: &str,
    session: Uuid,
    run: Uuid,
    listing: &EventListing,
) -> Result<EventPage, Error> {
    let name = view::run_name(session, run);
    let end = runs.get(tenant, session, run, &name).await?.next_seq;
    let limit = i64::try_from(listing.size).unwrap_or(i64::MAX);
    let rows = runs.store().event_read(tenant, run, listing.from_seq, limit, PAGE_BYTES).await?;
    let rows = rows.iter().filter(|row| row.seq < end);
    let events =
        rows.map(|row| log::present(session, run, row, listing.include_leaf)).collect::<Result<Vec<_>, _>>()?;
    let next = events.last().map(|event| event.seq + 1).filter(|next| *next < end);
    Ok(EventPage { events, next })
}
