//! Issuing a generation.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use mar_proto::router::stream_generate_response::Frame;
use mar_proto::router::{Budget, Turn, TurnDelta};
use mar_proto::session::run_frame::Frame as Shown;
use mar_proto::session::{AttemptStarted, Delta, FinishReason, ReservationPrice, RunFrame};
use mar_proto::types::Usage;

use super::blobs::{self, Unresolved};
use super::{Executor, Shared};
use crate::clients::{Refusal, RunContext, TurnRequest};
use crate::counters::Amounts;
use crate::crash::Point;
use crate::feed::Feed;
use crate::run::{Aim, FinishedTurn, Input, Retry, SUMMARISE};

/// The longest that one generation may take.
const MAX_TIME: Duration = Duration::from_secs(600);
/// Attempts that the router may make within one of ours: enough to go past several dead models.
const ROUTER_ATTEMPTS: i32 = 8;
/// Failed models that the router is told of at most.
const MOST_FAILED: usize = 256;
/// Our attempts and the router's are numbered together.
const ATTEMPT_STRIDE: i64 = ROUTER_ATTEMPTS as i64;

/// Reason of a generation that was given up because the service stops.
const DRAINING: &str = "DRAINING";

/// Numbers of a generation, for what is shown of it.
#[derive(Debug, Clone, Copy)]
struct Place {
    step: i64,
    epoch: i64,
    attempt: i64,
}

impl Executor {
    /// Issues the open generation.
    pub(super) fn generate(&mut self, step: i64, attempt: i64) {
        self.context.agent.clone_from(&self.state.agent);
        let Some(generation) = &self.state.generation else { return };
        let reservation = generation.reservation;
        let mut request = self.generation_request(step, attempt, reservation);
        let price = self.state.agent.as_ref().and_then(|agent| agent.price).unwrap_or_default();
        let place = Place { step, epoch: self.state.epoch, attempt };
        let (shared, context, feed) = (Arc::clone(&self.shared), self.context.clone(), self.feed.clone());
        let deadline = self.time_left().min(MAX_TIME);
        let written = Arc::new(AtomicI64::new(0));
        let counting = Arc::clone(&written);
        let effect = async move {
            if let Err(input) = resolve(&shared, &context, &mut request, place).await {
                return input;
            }
            let turn = follow(&shared, &context, &feed, request, place, deadline, &counting).await;
            shared.crash.pass_in(Point::TurnInHand, context.run).await;
            match turn {
                Ok(turn) => Input::Turn(Box::new(finished(place, turn))),
                Err(refusal) => {
                    tracing::warn!(run.id = %context.run, run.step = step, error = %refusal, "generation failed");
                    failed(place, &refusal, spent(reservation, price, counting.load(Ordering::Relaxed)))
                }
            }
        };
        let draining = self.shutdown.clone();
        self.start(effect, move || {
            let usage = Some(spent(reservation, price, written.load(Ordering::Relaxed)));
            // Nobody wants the run to stop when the service does: its next owner tries again.
            let (reason, retry) =
                if draining.is_cancelled() { (DRAINING, Retry::WhenBack) } else { ("CANCELLED", Retry::Never) };
            Some(Input::GenerationFailed {
                step,
                attempt,
                reason: reason.to_owned(),
                retry,
                usage,
                message: String::new(),
                models: Vec::new(),
                attempts: Vec::new(),
            })
        });
    }

    fn generation_request(&self, step: i64, attempt: i64, reservation: Amounts) -> TurnRequest {
        let asked = match self.state.generation.as_ref().map(|open| open.aim).unwrap_or_default() {
            aim @ (Aim::Summary { .. } | Aim::History { .. }) => TurnRequest {
                model_role: SUMMARISE.to_owned(),
                messages: self.state.summary_prompt(aim).into_iter().map(Arc::new).collect(),
                ..TurnRequest::default()
            },
            Aim::Turn => TurnRequest {
                messages: self.state.transcript.clone(),
                tools_of: self.state.agent.clone(),
                output_schema_json: Arc::clone(&self.state.output_schema),
                ..TurnRequest::default()
            },
        };
        TurnRequest {
            generation_id: format!("{}/{step}/{attempt}", self.state.run),
            budget: Budget {
                max_cost_nano_usd: reservation.cost_nano_usd,
                max_input_tokens: reservation.input_tokens,
                max_output_tokens: reservation.output_tokens,
                max_attempts: ROUTER_ATTEMPTS,
            },
            try_last: self.state.failed_models.iter().take(MOST_FAILED).cloned().collect(),
            ..asked
        }
    }

    /// How long the run may still be active.
    pub(super) fn time_left(&self) -> Duration {
        let deadline = self.state.active_deadline().unwrap_or(self.state.expires_at).min(self.state.expires_at);
        let left = deadline - self.shared.clock.now();
        Duration::try_from(left).unwrap_or(Duration::from_millis(1)).max(Duration::from_millis(1))
    }
}

/// Puts what the prompt names into the request. What cannot be read now is read again with the next attempt; nothing was sent.
async fn resolve(shared: &Shared, context: &RunContext, request: &mut TurnRequest, place: Place) -> Result<(), Input> {
    let failure = match blobs::resolve(&*shared.store, &context.caller.tenant, request).await {
        Ok(()) => return Ok(()),
        Err(failure) => failure,
    };
    tracing::warn!(run.id = %context.run, run.step = place.step, error = %failure, "blobs of the prompt cannot be read");
    let (reason, retry) = match &failure {
        Unresolved::Store(error) if error.is_unavailable() => ("STORE_UNAVAILABLE", Retry::WhenBack),
        Unresolved::Store(_) => ("INTERNAL", Retry::Never),
        Unresolved::Gone(_) => ("NOT_FOUND", Retry::Never),
    };
    Err(Input::GenerationFailed {
        step: place.step,
        attempt: place.attempt,
        reason: reason.to_owned(),
        retry,
        usage: Some(Usage::default()),
        message: failure.to_string(),
        models: Vec::new(),
        attempts: Vec::new(),
    })
}

/// Follows a generation to its turn, showing attempts and deltas on the way.
async fn follow(
    shared: &Shared,
    context: &RunContext,
    feed: &Feed,
    request: TurnRequest,
    mut place: Place,
    deadline: Duration,
    written: &AtomicI64,
) -> Result<Turn, Refusal> {
    let first = (place.attempt - 1) * ATTEMPT_STRIDE;
    let shown = request.model_role != SUMMARISE;
    shared.crash.pass_in(Point::GenerationSent, context.run).await;
    let mut frames = shared.peers.stream_generate(context, request, deadline).await?;
    while let Some(frame) = frames.next().await {
        match frame?.frame {
            Some(Frame::Attempt(attempt)) => {
                place.attempt = first + i64::from(attempt.attempt);
                feed.delta(shown_attempt(place, attempt.model));
            }
            Some(Frame::Delta(delta)) => {
                shared.crash.pass_in(Point::GenerationStreaming, context.run).await;
                written.fetch_add(i64::try_from(delta.text.len()).unwrap_or(i64::MAX), Ordering::Relaxed);
                // Notes for the agent are nothing of what it says.
                if shown {
                    feed.delta(shown_delta(place, delta));
                }
            }
            Some(Frame::Turn(turn)) => return Ok(turn),
            None => {}
        }
    }
    Err(Refusal {
        reason: "PROVIDER_BROKEN".to_owned(),
        message: "the stream ended without a turn".to_owned(),
        transient: true,
        never_sent: false,
        retry_after: None,
        spent: None,
        failed_models: Vec::new(),
        attempts: Box::default(),
    })
}

fn shown_attempt(place: Place, model: String) -> RunFrame {
    let attempt = AttemptStarted { step: place.step, epoch: place.epoch, attempt: place.attempt, model };
    RunFrame { frame: Some(Shown::Attempt(attempt)) }
}

fn shown_delta(place: Place, delta: TurnDelta) -> RunFrame {
    let delta = Delta {
        step: place.step,
        epoch: place.epoch,
        attempt: place.attempt,
        part: delta.part,
        offset: delta.offset,
        // The two enums have the same numbers.
        kind: delta.kind,
        text: delta.text,
    };
    RunFrame { frame: Some(Shown::Delta(delta)) }
}

fn finished(place: Place, turn: Turn) -> FinishedTurn {
    let finish_reason = match turn.finish_reason.as_str() {
        "STOP" => FinishReason::Stop,
        "TOOL_CALLS" => FinishReason::ToolCalls,
        "LENGTH" => FinishReason::Length,
        "CONTENT_FILTER" => FinishReason::ContentFilter,
        _ => FinishReason::Unspecified,
    };
    FinishedTurn {
        step: place.step,
        attempt: place.attempt,
        message: turn.message.unwrap_or_default(),
        model: turn.model,
        selection: turn.selection,
        usage: turn.usage.unwrap_or_default(),
        finish_reason,
        translation_warnings: turn.translation_warnings,
        failed_attempts: turn.failed_attempts,
    }
}

/// What a generation that gave no usage report settles at: its counted input and the output that was seen, one token a
/// byte at the most.
fn spent(reservation: Amounts, price: ReservationPrice, written: i64) -> Usage {
    let output_tokens = written.min(reservation.output_tokens);
    let cost = i128::from(reservation.input_tokens) * i128::from(price.input_per_million)
        + i128::from(output_tokens) * i128::from(price.output_per_million);
    Usage {
        input_tokens: reservation.input_tokens,
        output_tokens,
        cost_nano_usd: i64::try_from((cost + 999_999) / 1_000_000).unwrap_or(i64::MAX),
        estimated: true,
        ..Usage::default()
    }
}

/// A refusal as the machine knows it. The router says what its attempts used; where it says nothing, what never reached
/// it, or no provider, costs nothing, and a router that was lost with the call in its hands may have reached one.
fn failed(place: Place, refusal: &Refusal, spent: Usage) -> Input {
    let (retry, usage) = match refusal.reason.as_str() {
        _ if refusal.never_sent => (Retry::WhenBack, Usage::default()),
        "PEER_UNAVAILABLE" | "DRAINING" => (Retry::WhenBack, spent),
        "PROVIDER_UNAVAILABLE" | "PROVIDER_RATE_LIMITED" => (Retry::Bounded, Usage::default()),
        "PROVIDER_BROKEN" | "DEADLINE_EXCEEDED" => (Retry::Bounded, spent),
        _ if refusal.transient => (Retry::Bounded, spent),
        // An answer that was made and got lost on its way was paid for.
        "MESSAGE_TOO_LARGE" | "INTERNAL" => (Retry::Never, spent),
        _ => (Retry::Never, Usage::default()),
    };
    Input::GenerationFailed {
        step: place.step,
        attempt: place.attempt,
        reason: refusal.reason.clone(),
        retry,
        usage: Some(refusal.spent.as_deref().copied().unwrap_or(usage)),
        message: refusal.message.clone(),
        models: refusal.failed_models.clone(),
        attempts: refusal.attempts.to_vec(),
    }
}
