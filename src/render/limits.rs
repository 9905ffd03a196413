//! How much a template may cost: each limit has its number here, and its refusal names it.

use std::time::{Duration, Instant};

use super::Code;
use super::jinja::Stop;

/// The longest template, in bytes.
pub(super) const TEMPLATE_BYTES: u64 = 16 << 20;
/// All templates of a bundle together, in bytes: what is held in memory at once.
pub(super) const TEMPLATES_BYTES: u64 = 32 << 20;
/// How many templates a bundle may have.
pub(super) const TEMPLATES: usize = 10_000;
/// All results of a bundle together, in bytes.
pub(super) const OUTPUT_BYTES: usize = 64 << 20;
/// Texts and lists that one template has at a time on its way to the result, in bytes.
const MADE_BYTES: usize = 32 << 20;
/// Steps of one template.
const OPERATIONS: u64 = 50_000_000;
/// How deep statements, expressions, variables in variables and directories may nest.
pub(super) const RECURSION: usize = 100;
/// Frames of evaluation at once: bounds the stack where nested variables hold nested expressions.
pub(super) const FRAMES: usize = 3_000;
/// Names, operators and texts of one template: a syntax tree takes about 200 bytes for each.
pub(super) const WORDS: usize = 250_000;
/// Names, operators and texts between two braces: the parser recurses on some of them.
pub(super) const TAG_WORDS: usize = 4_000;
/// For all templates of a bundle together.
pub(super) const TIME: Duration = Duration::from_secs(5);
/// What a template gets before the others had their turn.
pub(super) const FIRST_SLICE: Duration = Duration::from_millis(500);
/// The stack of the thread that renders; pages are only taken when they are used.
pub(super) const STACK: usize = 64 << 20;

/// What a template may still use.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    deadline: Instant,
    operations: u64,
    /// How much may still be made.
    made: usize,
    /// How much of what was made is kept to the end.
    kept: usize,
    output: usize,
    until_look: u64,
}

/// What was made before a piece of work, so that what the work alone needed can be given back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    made: usize,
    kept: usize,
}

impl Budget {
    pub(super) fn new(deadline: Instant, output: usize) -> Self {
        Self { deadline, operations: OPERATIONS, made: MADE_BYTES, kept: 0, output, until_look: 0 }
    }

    /// Some steps are about to be done. The clock is read every 256 of them.
    pub(super) fn spend(&mut self, steps: u64) -> Result<(), Stop> {
        let left = self.operations.checked_sub(steps);
        self.operations = left.ok_or_else(|| limit("it takes more than 50 million operations"))?;
        match self.until_look.checked_sub(steps) {
            Some(left) => self.until_look = left,
            None => {
                self.until_look = 256;
                self.look()?;
            }
        }
        Ok(())
    }

    /// Reads the clock.
    pub(super) fn look(&self) -> Result<(), Stop> {
        if Instant::now() < self.deadline { Ok(()) } else { Err(Stop::late()) }
    }

    /// A text or list of this many bytes is about to be made; its copying counts as steps too.
    pub(super) fn make(&mut self, bytes: usize) -> Result<(), Stop> {
        let left = self.made.checked_sub(bytes);
        self.made = left.ok_or_else(|| limit("the texts and lists that it works with exceed 32 MiB"))?;
        self.spend(bytes as u64 / 64)
    }

    /// Adds a piece to a text that is being made.
    pub(super) fn add(&mut self, out: &mut String, piece: &str) -> Result<(), Stop> {
        self.spend(1)?;
        self.make(piece.len())?;
        out.push_str(piece);
        Ok(())
    }

    /// All of a text is about to be looked at.
    pub(super) fn read(&mut self, text: &str) -> Result<(), Stop> {
        self.spend(1 + text.len() as u64 / 16)
    }

    /// What was made so far.
    pub(super) fn mark(&self) -> Mark {
        Mark { made: self.made, kept: self.kept }
    }

    /// All that was made since the mark is gone, but for what is kept.
    pub(super) fn release(&mut self, mark: Mark) {
        self.made = mark.made.saturating_sub(self.kept - mark.kept);
    }

    /// All that was made since the mark is kept to the end.
    pub(super) fn keep(&mut self, mark: Mark) {
        self.kept = mark.kept + mark.made.saturating_sub(self.made);
    }

    /// This many bytes are about to be written to the result.
    pub(super) fn write(&mut self, bytes: usize) -> Result<(), Stop> {
        let left = self.output.checked_sub(bytes);
        self.output = left.ok_or_else(|| limit("the output exceeds 64 MiB"))?;
        self.spend(1 + bytes as u64 / 64)
    }
}

/// A limit was exceeded.
pub(super) fn limit(message: &str) -> Stop {
    Stop::new(Code::Limit, message, "look for a loop over more than was meant, or split the template")
}
