//! Commands on their way to runs: durable first, then brought to the executor, wherever that is.

use std::time::Duration;

use mar_proto::session::Run;
use uuid::Uuid;

use super::{Runs, has_ended};
use crate::command;
use crate::crash::Point;
use crate::error::Error;
use crate::run::Command;
use crate::signals::Signal;
use crate::store::{CommandRow, Outcome, RequestKey};
use crate::view;

/// How long the answer to a command waits for the run to have taken it.
const TAKING: Duration = Duration::from_secs(5);

/// What a caller wants of a run.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Isolation boundary.
    pub tenant: String,
    /// The request's id in its scope, where it has one.
    pub key: Option<RequestKey>,
    /// The session.
    pub session: Uuid,
    /// The run.
    pub run: Uuid,
    /// What is wanted.
    pub command: Command,
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Posted {
    /// It is durable now.
    New,
    /// The same request made it durable before.
    Before,
    /// The run has ended.
    Closed,
}

impl Runs {
    /// Makes a command durable and wakes its run.
    pub(super) async fn post(
        &self,
        tenant: &str,
        run: Uuid,
        key: Option<&RequestKey>,
        wanted: &Command,
    ) -> Result<Posted, Error> {
        Ok(self.post_named(tenant, run, key, wanted).await?.0)
    }

    /// The same, with the command's id.
    pub(super) async fn post_named(
        &self,
        tenant: &str,
        run: Uuid,
        key: Option<&RequestKey>,
        wanted: &Command,
    ) -> Result<(Posted, Uuid), Error> {
        let row = CommandRow { id: self.ids().uuid_v7(), body: command::encode(wanted) };
        let (posted, id) = match self.store().command_put(tenant, run, key, &row).await? {
            Some(Outcome::Done(id)) => (Posted::New, id),
            Some(Outcome::Repeated(id)) => (Posted::Before, id),
            Some(Outcome::Reused) => return Err(Error::RequestIdReused),
            None => (Posted::Closed, row.id),
        };
        self.0.shared.crash.pass_in(Point::CommandStored, run).await;
        let live = self.live(tenant, run);
        live.iter().for_each(|live| live.inbox.mail());
        if live.is_none() || !self.stands() {
            self.0.claim.notify_one();
            self.signal(Signal::Wanted(run));
        }
        Ok((posted, id))
    }

    /// Tells a run of a tenant what is wanted, if it is in a state in which that makes sense; answers the run, when it has
    /// taken the command or a few seconds have passed. The command is durable in either case.
    pub async fn command(
        &self,
        wish: Wish,
        fits: impl Fn(&Run) -> bool + Send,
        done: impl Fn(&Run) -> bool + Send,
    ) -> Result<Run, Error> {
        let Wish { tenant, key, session, run, command } = wish;
        let name = view::run_name(session, run);
        let before = self.get(&tenant, session, run, &name).await?;
        if !fits(&before) {
            // A repetition may find that the run has moved on because of it.
            let seen = match &key {
                Some(key) => self.store().request_seen(&tenant, key).await?,
                None => None,
            };
            return match seen {
                Some(true) => Ok(before),
                Some(false) => Err(Error::RequestIdReused),
                None => Err(Error::RunState { name, state: before.state() }),
            };
        }
        match self.post(&tenant, run, key.as_ref(), &command).await? {
            Posted::New => {}
            // The run has moved on since: it is answered as it is.
            Posted::Before => return self.get(&tenant, session, run, &name).await,
            Posted::Closed => {
                let now = self.get(&tenant, session, run, &name).await?;
                return Err(Error::RunState { name, state: now.state() });
            }
        }
        let taking = self.until(&tenant, session, run, &name, done);
        match mar_runtime::clock::within(self.clock(), TAKING, taking).await {
            Ok(taken) => taken,
            Err(_) => self.get(&tenant, session, run, &name).await,
        }
    }

    /// Waits until the run is as wanted, or has ended.
    pub(super) async fn until(
        &self,
        tenant: &str,
        session: Uuid,
        run: Uuid,
        name: &str,
        wanted: impl Fn(&Run) -> bool + Send,
    ) -> Result<Run, Error> {
        let mut pause = Duration::from_millis(5);
        loop {
            let now = self.get(tenant, session, run, name).await?;
            let ended = i16::try_from(now.state).is_ok_and(has_ended);
            if ended || wanted(&now) || !self.pause_or_stop(pause).await {
                return Ok(now);
            }
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }
}
