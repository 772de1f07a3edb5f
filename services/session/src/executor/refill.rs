//! Asking budgets for slices, and giving back what was not used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mar_proto::session::BudgetScope;

use super::{COUNTERS_BACKOFF, Executor, Halt, Shared};
use crate::budgets::{Answer, BudgetLimit, Budgets, Claim, Error};
use crate::clients::RunContext;
use crate::run::{Input, Lack};

/// Pause before a budget that did not answer is asked again: doubling between these.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

impl Executor {
    /// Asks a budget for what the run lacks, once at a time.
    pub(super) fn refill(&mut self, lack: Lack) {
        if self.refilling.swap(true, Ordering::AcqRel) {
            // The machine asks with every look at the clock; the answer comes by itself.
            self.counters_after = Some(self.shared.clock.now() + COUNTERS_BACKOFF);
            return;
        }
        let (shared, context, inbox) = (Arc::clone(&self.shared), self.context.clone(), self.inbox.clone());
        let done = Raised(Arc::clone(&self.refilling));
        let effect = async move {
            let _done = done;
            let mut pause = PAUSE.0;
            loop {
                match ask(&shared, &context, lack).await {
                    Ok(Answer::Granted(granted)) => return Input::Granted(Box::new(granted)),
                    Ok(Answer::Exhausted { again_at }) => {
                        return Input::Exhausted { scope: lack.scope, number: lack.number, again_at };
                    }
                    Err(error) => {
                        tracing::warn!(run.id = %context.run, error = %mar_runtime::status::chain(&error), "slice waits");
                        inbox.send(Input::SliceDelayed { dependency: dependency(&error).to_owned() });
                    }
                }
                shared.clock.sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        };
        self.start(effect, || None);
    }

    /// Gives back what the run did not use of its slices.
    pub(super) async fn give_back(&self) -> Result<(), Halt> {
        if self.state.budgets.is_empty() {
            return Ok(());
        }
        let claim = claim(&self.context);
        let mut wait = self.store_wait();
        while let Err(error) = budgets(&self.shared).settle(&claim, self.state.used.cost_nano_usd).await {
            self.rest(&mut wait, &error).await?;
        }
        Ok(())
    }
}

/// Lowers a flag when the task that raised it is over, however it ends.
struct Raised(Arc<AtomicBool>);

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn budgets(shared: &Shared) -> Budgets {
    Budgets::new(Arc::clone(&shared.store), Arc::clone(&shared.counters), Arc::clone(&shared.clock))
}

fn claim(context: &RunContext) -> Claim<'_> {
    Claim { tenant: &context.caller.tenant, session: context.session, run: context.run }
}

/// Asks with the limit as it is today: who raises or lifts one does so for the runs that are on their way, too.
async fn ask(shared: &Shared, context: &RunContext, lack: Lack) -> Result<Answer, Error> {
    let limit = match lack.scope {
        BudgetScope::Session => {
            let session = shared.store.session_get(&context.caller.tenant, context.session).await?;
            let body = session.as_ref().and_then(|session| crate::runs::session_body(session).ok()).unwrap_or_default();
            BudgetLimit::of_session(&body.budget.unwrap_or_default())
        }
        BudgetScope::Tenant | BudgetScope::Unspecified => shared.tenants.of(&context.caller.tenant).budget,
    };
    budgets(shared).ask(&claim(context), lack, limit).await
}

fn dependency(error: &Error) -> &'static str {
    match error {
        Error::Store(_) => "session store",
        Error::Counters(_) => "budget counters",
    }
}
