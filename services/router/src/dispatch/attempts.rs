//! One attempt after another, until a model answers or nothing is left to try.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use mar_runtime::clock::random;
use mar_runtime::violations::Violations;
use serde::{Deserialize, Serialize};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::round::Round;
use super::seen::Seen;
use super::spend::Spend;
use super::{Choice, Frame, Prepared, Turn};
use crate::catalogue::{Model, ToolCalling};
use crate::error::Error;
use crate::price::Tokens;
use crate::provider::{Answer, Call, Consumed, Event, Events, Failure, FailureClass};

/// Tools that a selection names.
const MOST_NAMED: usize = 32;

/// `[router.retry]`. Not reloadable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// The first pause before a model is tried again, 200 ms by default; each further one is twice as long.
    #[serde(with = "mar_runtime::config::duration")]
    pub base: Duration,
    /// The longest pause, 5 s by default. A provider that asks for a longer one is not waited for.
    #[serde(with = "mar_runtime::config::duration")]
    pub max: Duration,
    /// How often a model is tried in one call, 3 by default; 1 to 10. The call's budget may allow less.
    pub rounds: u32,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { base: Duration::from_millis(200), max: Duration::from_secs(5), rounds: 3 }
    }
}

impl RetryConfig {
    /// Records what is wrong.
    pub fn validate(&self, found: &mut Violations) {
        found.require(!self.base.is_zero() && self.base <= self.max, "base", "must be above 0 and at most max");
        found.require(self.max <= Duration::from_secs(60), "max", "must be at most 1m");
        found.require((1..=10).contains(&self.rounds), "rounds", "must be 1 to 10");
    }
}

impl Prepared {
    /// Tries the models. Dropping the stream closes the provider's connection.
    pub fn run(self) -> BoxStream<'static, Result<Frame, Error>> {
        frames(self).boxed()
    }

    fn call(&self, choice: &Choice) -> Call {
        Call {
            model: Arc::clone(&choice.model),
            prompt: Arc::clone(&self.wish.prompt),
            sampling: self.sampling.clone(),
            max_output_tokens: choice.max_output_tokens,
            delivery: self.wish.delivery,
        }
    }

    /// One span per attempt, by the names of the GenAI semantic conventions; no prompt and no answer in it.
    fn span(&self, choice: &Choice, number: u32) -> Span {
        let model = &choice.model;
        tracing::info_span!(
            parent: &self.wish.span,
            "chat",
            otel.name = %format!("chat {}", model.provider_model),
            otel.kind = "client",
            gen_ai.operation.name = "chat",
            gen_ai.provider.name = %model.provider,
            gen_ai.request.model = %model.provider_model,
            gen_ai.request.max_tokens = choice.max_output_tokens,
            gen_ai.usage.input_tokens = Empty,
            gen_ai.usage.output_tokens = Empty,
            error.type = Empty,
            agentruntime.attempt = number,
        )
    }

    async fn begin(&self, choice: &Choice) -> Result<Events, Failure> {
        match self.dispatcher.pool.get(&choice.model.provider) {
            Some(provider) => provider.generate(self.call(choice)).await,
            None => Err(Failure::new(FailureClass::Credential, "is not configured")),
        }
    }

    async fn turn(&self, choice: &Choice, answer: Answer, tried: &Tried) -> Turn {
        let mut spend = tried.spend;
        match answer.tokens {
            Some(tokens) => spend.add(choice, tokens, false),
            None => {
                let counting = &self.dispatcher.counting;
                let mut tokens = counting.output(&self.wish.tenant, &choice.model, &answer.parts).await;
                tokens.input = choice.input_tokens;
                spend.add(choice, tokens, true);
            }
        }
        Turn {
            parts: answer.parts,
            model: choice.model.name.clone(),
            selection: self.selection(choice, tried),
            tokens: spend.tokens,
            cost_nano_usd: spend.cost_nano_usd,
            estimated: spend.estimated,
            finish: answer.finish,
            warnings: answer.warnings,
            failed: tried.failed.clone(),
        }
    }

    /// Counts the output that came before an attempt failed.
    async fn output(&self, choice: &Choice, seen: Seen) -> Tokens {
        if !seen.began() {
            return Tokens::default();
        }
        self.dispatcher.counting.output(&self.wish.tenant, &choice.model, &seen.into_parts()).await
    }

    fn selection(&self, choice: &Choice, tried: &Tried) -> String {
        let rank = self.options.iter().position(|other| other.model.name == choice.model.name);
        let rank = rank.unwrap_or(0) + 1;
        let (all, policy, version) = (self.options.len(), self.policy.name(), self.policy.version());
        let score = choice.score_micros;
        let after = match tried.failed.len() {
            0 => String::new(),
            1 => ", after 1 failed attempt".to_owned(),
            count => format!(", after {count} failed attempts"),
        };
        let offered = self.offered(&choice.model);
        format!(
            "number {rank} of {all} admitted under {policy} version {version} with a score of {score} millionths{after}{offered}"
        )
    }

    /// What the model's turn was constrained to be one of, where its calls are constrained output: who reads the log sees what
    /// it had to choose from.
    fn offered(&self, model: &Model) -> String {
        let tools = &self.wish.prompt.tools;
        if model.tool_calling != ToolCalling::Constrained || tools.is_empty() {
            return String::new();
        }
        let named: Vec<&str> = tools.iter().take(MOST_NAMED).map(|tool| tool.alias.as_str()).collect();
        let more = match tools.len() - named.len() {
            0 => String::new(),
            count => format!(", {count} more tools"),
        };
        format!("; its output was constrained to one of {}{more} and answer", named.join(", "))
    }

    /// Whether what is left of the budget pays for one more attempt.
    fn covers(&self, choice: &Choice, tried: &Tried) -> bool {
        let budget = &self.wish.budget;
        tried.number < budget.max_attempts && tried.spend.covers(budget, choice)
    }

    fn has_credential(&self, choice: &Choice) -> bool {
        self.dispatcher.pool.credential_problem(&choice.model.provider).is_none()
    }

    /// The pause before the next round over `live`; none when there is to be no further round.
    fn before_next(&self, rounds: u32, live: &[Choice], tried: &Tried) -> Option<Duration> {
        let over = rounds + 1 >= self.dispatcher.retry.rounds || tried.number >= self.wish.budget.max_attempts;
        if live.is_empty() || over {
            return None;
        }
        self.pause(rounds, tried.worst.as_ref()?)
    }

    /// How long to wait before the same models are tried again; none when it is not worth it.
    fn pause(&self, rounds: u32, failure: &Failure) -> Option<Duration> {
        let retry = self.dispatcher.retry;
        let longest = retry.base.saturating_mul(1 << rounds.min(10)).min(retry.max);
        // Half fixed, half random, so that callers that failed together do not come back together.
        let dice = u32::from(u16::from_be_bytes(random::<2>(&*self.dispatcher.ids)));
        let jitter = (longest / 2).saturating_mul(dice) / u32::from(u16::MAX);
        let pause = failure.retry_after.unwrap_or(longest / 2 + jitter);
        let now = self.dispatcher.clock.monotonic();
        let in_time = self.wish.deadline.is_none_or(|deadline| now.saturating_add(pause) < deadline);
        (pause <= retry.max && in_time).then_some(pause)
    }
}

/// What became of a call that no model answered.
#[derive(Debug)]
pub struct Failed {
    /// Every attempt: model and what happened.
    pub attempts: Vec<String>,
    /// `models/{model}` that were tried, each once.
    pub models: Vec<String>,
    /// The last attempt of each.
    pub last: Vec<String>,
    /// Providers that were not called for want of a credential, and what is wrong with it.
    pub passed_over: BTreeMap<String, String>,
    /// How many admitted models were not.
    pub untried: usize,
    /// What all attempts used.
    pub spend: Spend,
}

/// What has been tried.
#[derive(Debug, Default)]
struct Tried {
    spend: Spend,
    number: u32,
    failed: Vec<String>,
    models: Vec<String>,
    /// What came of each model when it was last tried.
    last: Vec<String>,
    worst: Option<Failure>,
}

impl Tried {
    /// `place` is the provider's.
    fn failed(&mut self, choice: &Choice, place: &str, failure: Failure, output: Tokens) {
        self.spend.add_failed(choice, &failure, output);
        let told = format!("{}: {} ({place} {failure})", choice.model.name, failure.class.as_str());
        match self.models.iter().position(|model| *model == choice.model.name) {
            Some(at) => self.last[at].clone_from(&told),
            None => {
                self.models.push(choice.model.name.clone());
                self.last.push(told.clone());
            }
        }
        self.failed.push(told);
        tracing::warn!(
            model = %choice.model.name,
            provider = %choice.model.provider,
            attempt = self.number,
            failure.class = failure.class.as_str(),
            failure.detail = %failure,
            "model attempt failed"
        );
        let says_more = self.worst.as_ref().is_none_or(|worst| weight(failure.class) >= weight(worst.class));
        if says_more {
            self.worst = Some(failure);
        }
    }

    /// Closes an attempt that failed: what it took is counted, and where nothing may come after it, why.
    async fn close(&mut self, prepared: &Prepared, choice: &Choice, mut failure: Failure, seen: Seen) -> Option<Error> {
        let began = seen.began();
        if began {
            failure.consumed = Consumed::Input;
        }
        let output = prepared.output(choice, seen).await;
        let place = prepared.dispatcher.pool.place(&choice.model.provider);
        self.failed(choice, &place, failure.clone(), output);
        self.end(failure, began, prepared)
    }

    /// The error of a call that its last failure ends: an answer that had begun cannot begin again with another model, and
    /// what one provider refuses is not taken to the next.
    fn end(&mut self, last: Failure, began: bool, prepared: &Prepared) -> Option<Error> {
        if began {
            self.worst = Some(Failure { class: FailureClass::Broken, ..last });
            return Some(std::mem::take(self).into_error(prepared));
        }
        matches!(last.class, FailureClass::Refused).then(|| std::mem::take(self).into_error(prepared))
    }

    /// Of the admitted models those that failed are named, and the others counted.
    fn into_error(self, prepared: &Prepared) -> Error {
        // Models whose provider has no credential are not tried; the last of them died since they were chosen.
        let none = || Failure::new(FailureClass::Credential, "has no usable credential");
        let failed = Failed {
            untried: prepared.options.len().saturating_sub(self.models.len()),
            attempts: self.failed,
            models: self.models,
            last: self.last,
            passed_over: prepared.passed_over.clone(),
            spend: self.spend,
        };
        Error::Provider { failure: self.worst.unwrap_or_else(none), failed: Box::new(failed) }
    }
}

/// Of several failures the one counts after which a retry is worth most.
fn weight(class: FailureClass) -> u8 {
    match class {
        FailureClass::Credential => 0,
        FailureClass::Broken => 1,
        FailureClass::RateLimited => 2,
        FailureClass::Unavailable => 3,
        // Ends everything.
        FailureClass::Refused => 4,
    }
}

/// Whether the same model may do better in a later round.
fn may_pass(class: FailureClass) -> bool {
    match class {
        FailureClass::Refused | FailureClass::Credential => false,
        FailureClass::RateLimited | FailureClass::Unavailable | FailureClass::Broken => true,
    }
}

fn record_usage(span: &Span, turn: &Turn) {
    span.record("gen_ai.usage.input_tokens", turn.tokens.all_input());
    span.record("gen_ai.usage.output_tokens", turn.tokens.all_output());
}

fn frames(prepared: Prepared) -> impl Stream<Item = Result<Frame, Error>> + Send {
    stream! {
        let mut tried = Tried::default();
        let mut live: Vec<Choice> = prepared.options.clone();
        let mut rounds = 0;
        loop {
            let mut round = Round::new(std::mem::take(&mut live));
            while let Some(choice) = round.next(|choice| prepared.has_credential(choice)) {
                if !prepared.covers(&choice, &tried) {
                    if tried.worst.is_some() {
                        continue;
                    }
                    yield Err(uncovered(&prepared, &choice));
                    return;
                }
                tried.number += 1;
                yield Ok(Frame::Attempt { number: tried.number, model: choice.model.name.clone() });
                let mut seen = Seen::default();
                let span = prepared.span(&choice, tried.number);
                let failure = match prepared.begin(&choice).instrument(span.clone()).await {
                    Err(failure) => failure,
                    Ok(mut events) => loop {
                        match events.next().await {
                            Some(Ok(Event::Began)) => seen.begin(),
                            Some(Ok(Event::Delta(delta))) => {
                                seen.add(&delta);
                                yield Ok(Frame::Delta(delta));
                            }
                            Some(Ok(Event::Finished(answer))) => {
                                let turn = prepared.turn(&choice, *answer, &tried).await;
                                record_usage(&span, &turn);
                                yield Ok(Frame::Turn(Box::new(turn)));
                                return;
                            }
                            Some(Err(failure)) => break failure,
                            None => break Failure::broken("ended without an answer"),
                        }
                    },
                };
                span.record("error.type", failure.class.as_str());
                drop(span);
                round.note(&choice.model.provider, failure.class);
                let passes = may_pass(failure.class);
                let end = tried.close(&prepared, &choice, failure, seen).await;
                if passes {
                    live.push(choice);
                }
                if let Some(end) = end {
                    yield Err(end);
                    return;
                }
            }
            live.retain(|choice| prepared.has_credential(choice));
            let Some(pause) = prepared.before_next(rounds, &live, &tried) else {
                yield Err(tried.into_error(&prepared));
                return;
            };
            prepared.dispatcher.clock.sleep(pause).await;
            rounds += 1;
        }
    }
}

/// The first attempt is not covered. Selection has checked each model, so this is the rare case of a budget without
/// attempts.
fn uncovered(prepared: &Prepared, choice: &Choice) -> Error {
    let budget = &prepared.wish.budget;
    let most = choice.price.most(choice.input_tokens, choice.max_output_tokens);
    Error::Budget {
        field: "budget",
        detail: format!(
            "an attempt needs {} input tokens and {most} nano-USD, the budget has {} and {}",
            choice.input_tokens, budget.max_input_tokens, budget.max_cost_nano_usd
        ),
    }
}
