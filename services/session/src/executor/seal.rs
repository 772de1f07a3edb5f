//! The end of a run: what it is bound to.

use std::sync::Arc;

use bytes::Bytes;
use mar_descriptor::{Commitment, Error, Outcome, RunSeal as Seal};
use mar_proto::session::{RunSeal, RunState};
use mar_proto::types::Signature;

use super::{Executor, Halt};
use crate::crash::Point;
use crate::feed::View;
use crate::view;

impl Executor {
    /// Seals the run, notes its end beside the log, and lets go of what was kept for it. Repeating it after a crash gives
    /// the same seal.
    pub(super) async fn seal(&mut self) -> Result<(), Halt> {
        self.shared.crash.pass_in(Point::EndCommitted, self.state.run).await;
        let seal = match self.run_seal() {
            Ok(seal) => seal,
            Err(error) => {
                // Nobody sees an ended run without its seal.
                tracing::error!(run.id = %self.state.run, error = %error, "run cannot be sealed");
                return Err(Halt::Broken);
            }
        };
        self.tell_parent().await?;
        let state = view::run_state(self.state.phase).into();
        self.give_back().await?;
        let change = self.change(state, Some(seal.clone()));
        let mut wait = self.store_wait();
        loop {
            let tenant = &self.context.caller.tenant;
            match self.shared.store.run_change(tenant, self.state.run, &change).await {
                Ok(_) => break,
                Err(error) if self.tail_is_lost(&error).await => return Err(self.stop_for_lost_tail().await),
                Err(error) => self.rest(&mut wait, &error).await?,
            }
        }
        self.shared.crash.pass_in(Point::EndSealed, self.state.run).await;
        let run = Arc::new(view::run(&self.state, self.shared.clock.now(), Some(seal)));
        self.feed.publish(
            &self.last_rows,
            View { run, attempt: None, stopping: true, over: true, left: false, stuck: false },
        );
        self.shared.peers.forget(&self.context);
        self.release().await;
        Ok(())
    }

    fn run_seal(&self) -> Result<RunSeal, Error> {
        let descriptor_hash = view::descriptor_hash(&self.state);
        let (input, session) = (self.first_commitment("task"), self.first_commitment("session_json"));
        let outcome = view::run_state(self.state.phase);
        let seal = Seal {
            descriptor_hash: descriptor_hash.parse().ok(),
            input_commitment: committed(&input),
            session_commitment: committed(&session),
            outcome: sealed_outcome(outcome),
            head: self.log.head(),
        };
        let hash = seal.hash()?.to_string();
        let statement = seal.sign(&self.shared.seal_key)?;
        Ok(RunSeal {
            descriptor_hash,
            input_commitment: input,
            session_commitment: session,
            outcome: outcome.as_str_name().trim_start_matches("RUN_STATE_").to_owned(),
            head: Bytes::copy_from_slice(self.log.head().hash.as_bytes()),
            head_seq: self.log.head().seq,
            hash,
            signature: statement
                .signatures
                .into_iter()
                .next()
                .map(|signature| Signature { key_id: signature.key_id, sig: signature.sig.into() }),
        })
    }
}

/// 32 bytes as a commitment; zeros where the first event has none.
fn committed(bytes: &Bytes) -> Commitment {
    Commitment::from_bytes(<[u8; 32]>::try_from(bytes.as_ref()).unwrap_or_default())
}

fn sealed_outcome(state: RunState) -> Outcome {
    match state {
        RunState::Succeeded => Outcome::Succeeded,
        RunState::Halted => Outcome::Halted,
        RunState::Denied => Outcome::Denied,
        RunState::Cancelled => Outcome::Cancelled,
        _ => Outcome::Failed,
    }
}
