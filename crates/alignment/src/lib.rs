//! Alignment policies: parse, validate and evaluate what an agent may do. No I/O, no clock, no async.
//!
//! A [`Policy`] is a versioned Cedar text of one [`Layer`], validated strictly against the embedded schema. A [`Stack`]
//! holds the layers that bind a decision; [`Stack::decide`] and [`decide_both`] answer a [`Request`] with a
//! [`Decision`], which is the whole decision record: the facts, the policy hashes, the rules that determined it, and
//! the verdict.
//!
//! **Invariants**
//! - Every layer that is present must allow: a lower layer narrows what an upper one allows and never widens it.
//! - A stack without a platform policy denies, and so does every error: in evaluating a rule (Cedar itself skips a
//!   `forbid` whose condition fails), in building the facts, or in arguments that are missing or too large.
//! - A rule about a point that no service decides is refused, because it would never be asked ([`Point::is_decided`]).
//! - The sealed layers and the platform's current ones must both allow: tightening binds at once, loosening never.
//!
//! Rules carry annotations: `@id` names a rule in records (unique in its policy); `@verdict("require_approval")` on a
//! permit of calls lets the call go ahead only once approved, and then `@approvers("group")` says by whose members,
//! `@approvals("2")` by how many (1 to 16, else 1) and `@expires("30m")` within what time (1 minute to 30 days, else an
//! hour); `@mode("log_only")` on a forbid records it without enforcing it;
//! `@guidance("refuse" | "ask" | "hand_over" | "continue_without")` and `@message("…")` say what the agent does next;
//! `@description("…")` is for readers. Any other annotation is refused, so a misspelt one cannot go unnoticed.

mod decision;
mod engine;
mod layer;
mod policy;
mod request;
mod room;
mod schema;
mod stack;

pub use decision::{Approval, Decision, Effect, Failure, Guidance, PolicyRef, RuleRef, Verdict};
pub use layer::{Layer, PolicyText, default_platform};
pub use policy::{MAX_NESTING, MAX_OPERATORS, MAX_RULES, MAX_TEXT_BYTES, MAX_VIOLATIONS, Policy, Violation};
pub use request::{
    Agent, Answer, Arguments, Caller, MAX_ARGUMENT_FACT_BYTES, MAX_ARGUMENT_VALUES, Model, Point, Question, Request,
    ResultFacts, RunFacts, Session, Tool, TrustTier,
};
pub use stack::{Stack, decide_both};
