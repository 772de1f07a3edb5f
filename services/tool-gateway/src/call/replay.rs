//! Results that are there already: a fork is given what the log of its origin holds, as far as its own policies let it.
//!
//! What has passed the same checks before comes out as it went in, to the bit. The log tells a remark of the gateway's from
//! what a tool wrote by its words alone.

use mar_alignment::Tool;
use mar_proto::types::{Executor, Origin, Part, part};

use super::{Denial, Dispatcher, Invocation, Kind, Maker, Record, elsewhere, result};
use crate::cap::cap;
use crate::outcome::Answer;

/// The longest remark of the gateway's, in bytes.
const MAX_NOTE: usize = 1 << 10;
/// How its remarks begin and end.
const NOTES: [(&str, &str); 4] = [
    ("[The tool returned nothing.]", ""),
    ("[Dropped: ", ".]"),
    ("[The result of ", " or for a part of it.]"),
    (result::WITHHELD.0, result::WITHHELD.1),
];

impl Dispatcher {
    /// Decides on the recorded result of a call.
    pub(super) fn replay(&self, call: &Invocation, maker: &Maker<'_>, tool: Tool, record: &mut Record) -> Kind {
        let Some(recorded) = call.recorded.clone() else {
            return Denial::told("POLICY_DENIED", "no result is recorded");
        };
        let bounds = match maker {
            Maker::Upstream(upstream) => {
                Some((upstream.config.max_result_bytes.as_len(), upstream.config.is_trusted()))
            }
            Maker::Other(_) if elsewhere::executor(&tool.upstream).is_none() => None,
            Maker::Other(_) => match elsewhere::bringer(&call.tool) {
                Some(Executor::Runtime) => None,
                Some(_) => Some((elsewhere::MAX_RESULT_BYTES, false)),
                None => return Kind::Recorded(recorded),
            },
        };
        let answer = match bounds {
            Some((limit, trusted)) => cut(if trusted { recorded } else { tainted(recorded) }, limit),
            None => recorded,
        };
        let decision = self.decide_result(call, tool, &answer);
        let kind = if decision.is_allowed() || answer.parts == result::withheld(&answer, &decision).parts_of_tool() {
            Kind::Recorded(answer)
        } else {
            let message = decision.message.as_deref().unwrap_or("the policy does not allow this result");
            Denial::told("POLICY_DENIED", format!("{message} (the result is recorded; it is withheld)"))
        };
        record.received(decision);
        kind
    }
}

impl Answer {
    /// Its parts as a log has them.
    fn parts_of_tool(mut self) -> Vec<Part> {
        self.parts.iter_mut().for_each(|part| part.set_origin(Origin::Tool));
        self.parts
    }
}

/// What comes from a tool that nobody trusts is tainted, also where it was trusted then.
fn tainted(mut answer: Answer) -> Answer {
    for part in answer.parts.iter_mut().filter(|part| part.origin() == Origin::Tool && !is_note(part)) {
        part.tainted = true;
    }
    answer
}

/// Cuts a result to today's bounds; one that fits stays as it is.
fn cut(answer: Answer, limit: usize) -> Answer {
    let mut marked = answer.clone();
    marked.parts.iter_mut().filter(|part| is_note(part)).for_each(|part| part.set_origin(Origin::Platform));
    let shortened = cap(marked.clone(), limit);
    if shortened == marked { answer } else { shortened }
}

fn is_note(part: &Part) -> bool {
    let Some(part::Content::Text(text)) = &part.content else { return false };
    let fits = |(first, last): &(&str, &str)| {
        text.strip_prefix(first).is_some_and(|rest| match *last {
            "" => rest.is_empty(),
            last => rest.ends_with(last),
        })
    };
    !part.tainted && text.len() <= MAX_NOTE && NOTES.iter().any(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{note, tool_text};

    /// As a log has it.
    fn recorded(answer: Answer) -> Answer {
        Answer { parts: answer.clone().parts_of_tool(), ..answer }
    }

    #[test]
    fn what_was_cut_to_a_bound_is_not_cut_to_it_again() {
        let whole = Answer { parts: vec![tool_text("x".repeat(50))], size: 50, ..Answer::default() };
        let once = recorded(cap(whole, 20));
        assert!(once.truncated && once.parts.len() == 2);
        assert_eq!(cut(once.clone(), 20), once);
        let again = cut(once.clone(), 19);
        assert_eq!(again.parts.len(), 3, "{again:?}");
        assert_eq!(cut(recorded(again.clone()), 19), recorded(again));
    }

    #[test]
    fn remarks_of_the_gateway_do_not_taint() {
        let parts = vec![tool_text("x"), note("[The tool returned nothing.]"), note("[Dropped: an image.]")];
        let answer = tainted(recorded(Answer { parts, ..Answer::default() }));
        assert_eq!(answer.parts.iter().map(|part| part.tainted).collect::<Vec<_>>(), [true, false, false]);
        let long =
            Answer { parts: vec![tool_text(format!("[Dropped: {}.]", "x".repeat(MAX_NOTE)))], ..Answer::default() };
        assert!(tainted(long).parts[0].tainted);
    }
}
