//! Choices of a history. They come from a script that proptest makes and shrinks; where it ends, each choice is the
//! first, and the first is always the one that brings the run to a good end.

/// A reader of a script.
#[derive(Debug)]
pub struct Dice {
    script: Vec<u8>,
    at: usize,
}

impl Dice {
    pub fn new(script: Vec<u8>) -> Self {
        Self { script, at: 0 }
    }

    /// Whether only first choices are left.
    pub fn spent(&self) -> bool {
        self.at >= self.script.len()
    }

    /// A reader of the next `len` choices, which are its own.
    pub fn part(&mut self, len: usize) -> Self {
        let rest = self.script.get(self.at..).unwrap_or_default();
        let part = Self::new(rest[..len.min(rest.len())].to_vec());
        self.at += len;
        part
    }

    /// A number below `sides`.
    pub fn below(&mut self, sides: usize) -> usize {
        let rolled = self.script.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        usize::from(rolled) % sides.max(1)
    }

    /// One of these.
    pub fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    /// True once in `sides` times.
    pub fn once_in(&mut self, sides: usize) -> bool {
        self.below(sides) == sides - 1
    }
}
