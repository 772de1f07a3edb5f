//! Says when an agent goes round in circles: the same tool with the same arguments giving the same result.
//!
//! Pure and derived from committed results alone: whoever feeds it the same calls in the same order gets the same answers.

use std::collections::VecDeque;

/// What a tool call was and what came of it, by SHA-256 digests. A call that failed has its error as its result.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Observed {
    /// `upstream.tool`.
    pub tool: String,
    /// Of the canonical arguments.
    pub arguments: [u8; 32],
    /// Of the result as the model saw it.
    pub result: [u8; 32],
}

/// When it is a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// This often in a row; 0 and 1 for never.
    pub in_row: u32,
    /// This often among the last `window` calls, whatever came between; 0 and 1 for never.
    pub in_window: u32,
    /// Calls that are looked back on, the last one included; at most [`MAX_WINDOW`].
    pub window: u32,
}

/// Most calls that are remembered.
pub const MAX_WINDOW: u32 = 256;

impl Default for Rule {
    /// Three in a row: a second call can be a check and changes nothing, a third one that learns nothing new will not be
    /// the last. Five among the last sixteen: a cycle of up to three calls. Polling is told apart by its results, which
    /// change at last; a tool that is polled longer than this needs a wait of its own.
    fn default() -> Self {
        Self { in_row: 3, in_window: 5, window: 16 }
    }
}

/// How a call was repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeated {
    /// So often in a row.
    InRow(u32),
    /// So often among the last calls.
    InWindow(u32),
}

/// Remembers the last calls of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopDetector {
    rule: Rule,
    /// Oldest first, at most `window`.
    last: VecDeque<Observed>,
    /// How often the last of them came in a row.
    row: u32,
}

impl LoopDetector {
    /// One that has seen nothing.
    #[must_use]
    pub fn new(rule: Rule) -> Self {
        let rule = Rule { window: rule.window.min(MAX_WINDOW), ..rule };
        Self { rule, last: VecDeque::new(), row: 0 }
    }

    /// Takes the next call with its result; calls of one turn come in the order of the turn. Answers when it is a loop,
    /// and goes on answering while it goes on.
    pub fn observe(&mut self, call: Observed) -> Option<Repeated> {
        let again = self.last.back() == Some(&call);
        self.row = if again { self.row.saturating_add(1) } else { 1 };
        // The last one is needed to see a row, even where no window is looked at.
        let keep = usize::try_from(self.rule.window.max(1)).unwrap_or(1);
        while self.last.len() >= keep {
            self.last.pop_front();
        }
        self.last.push_back(call);
        if self.rule.in_row > 1 && self.row >= self.rule.in_row {
            return Some(Repeated::InRow(self.row));
        }
        let call = self.last.back()?;
        let same = self.last.iter().filter(|seen| *seen == call).count();
        let same = u32::try_from(same).unwrap_or(u32::MAX);
        (self.rule.in_window > 1 && same >= self.rule.in_window).then_some(Repeated::InWindow(same))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{LoopDetector, MAX_WINDOW, Observed, Repeated, Rule};

    fn call(name: u8) -> Observed {
        Observed { tool: format!("demo.{}", name % 2), arguments: [name / 2 % 2; 32], result: [name / 4; 32] }
    }

    fn all(rule: Rule, names: &[u8]) -> Vec<Option<Repeated>> {
        let mut detector = LoopDetector::new(rule);
        names.iter().map(|name| detector.observe(call(*name))).collect()
    }

    #[test]
    fn three_in_a_row_are_a_loop() {
        let said = all(Rule::default(), &[1, 1, 1, 1, 2, 1]);
        assert_eq!(
            said,
            [None, None, Some(Repeated::InRow(3)), Some(Repeated::InRow(4)), None, Some(Repeated::InWindow(5))]
        );
    }

    #[test]
    fn tool_arguments_and_result_all_count() {
        // 0 differs from 1 in the tool, from 2 in the arguments, from 4 in the result.
        for other in [1, 2, 4] {
            assert_eq!(all(Rule::default(), &[0, 0, other, 0, 0]), [None; 5]);
        }
    }

    #[test]
    fn a_cycle_is_found_in_the_window() {
        let said = all(Rule::default(), &[1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(said.last(), Some(&Some(Repeated::InWindow(5))));
        assert!(said.iter().rev().skip(1).all(Option::is_none));
        // Spread wider than the window it is none.
        let narrow = Rule { window: 12, ..Rule::default() };
        assert_eq!(all(narrow, &[1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1]), [None; 13]);
    }

    #[test]
    fn rules_can_be_switched_off() {
        let never = Rule { in_row: 0, in_window: 0, window: 0 };
        assert_eq!(all(never, &[1; 40]), [None; 40]);
        let row = Rule { in_row: 2, ..never };
        assert_eq!(all(row, &[1, 1]), [None, Some(Repeated::InRow(2))]);
        let window = Rule { in_window: 2, window: u32::MAX, ..never };
        assert_eq!(all(window, &[1, 2, 1]), [None, None, Some(Repeated::InWindow(2))]);
    }

    proptest! {
        /// Against the definition, counted from the whole history.
        #[test]
        fn it_says_what_the_definition_says(
            names in prop::collection::vec(0_u8..6, 0..80),
            in_row in 0_u32..5,
            in_window in 0_u32..6,
            window in 0_u32..20,
        ) {
            let said = all(Rule { in_row, in_window, window }, &names);
            for (i, said) in said.iter().enumerate() {
                let row = names[..=i].iter().rev().take_while(|name| **name == names[i]).count();
                let seen = names[..=i].iter().rev().take((window as usize).max(1));
                let same = seen.filter(|name| **name == names[i]).count();
                let expected = if in_row > 1 && row >= in_row as usize {
                    Some(Repeated::InRow(row as u32))
                } else if in_window > 1 && same >= in_window as usize {
                    Some(Repeated::InWindow(same as u32))
                } else {
                    None
                };
                prop_assert_eq!(*said, expected);
            }
        }

        #[test]
        fn what_differs_is_never_a_loop(length in 1_usize..100) {
            let mut detector = LoopDetector::new(Rule::default());
            for name in 0..length {
                let mut call = call(0);
                call.result[0] = u8::try_from(name).unwrap();
                prop_assert_eq!(detector.observe(call), None);
            }
        }

        #[test]
        fn memory_is_bounded(length in 1_usize..600) {
            let mut detector = LoopDetector::new(Rule { window: u32::MAX, ..Rule::default() });
            for name in 0..length {
                detector.observe(call(u8::try_from(name % 7).unwrap()));
            }
            prop_assert!(detector.last.len() <= MAX_WINDOW as usize);
        }
    }
}
