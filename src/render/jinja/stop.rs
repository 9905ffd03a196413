//! Why a rendering stops, and where.

use crate::render::Code;

/// The first thing that is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::render) struct Stop {
    pub(in crate::render) code: Code,
    pub(in crate::render) message: String,
    pub(in crate::render) help: String,
    place: Option<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Bytes from the start of the source.
    Offset(usize),
    /// A line and a column, both from 1.
    Line(usize, usize),
}

const LATE: &str = "rendering takes longer than 5 s";

impl Stop {
    pub(in crate::render) fn new(code: Code, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: help.into(), place: None }
    }

    /// A construct or value that is not known to render as Ansible renders it.
    pub(super) fn not_native(what: &str) -> Self {
        let help =
            "known are text, variables, if, for, set, with, macro, call, filter, comparisons, common filters and tests";
        Self::new(Code::NotNative, format!("{what} is not known to render as Ansible does"), help)
    }

    /// The same with other help.
    pub(super) fn with_help(mut self, help: &str) -> Self {
        help.clone_into(&mut self.help);
        self
    }

    /// A value of the wrong kind.
    pub(in crate::render) fn value(message: impl Into<String>) -> Self {
        Self::new(Code::Value, message, "")
    }

    /// The time is over.
    pub(in crate::render) fn late() -> Self {
        Self::new(Code::Limit, LATE, "look for loops within loops")
    }

    pub(in crate::render) fn is_late(&self) -> bool {
        self.code == Code::Limit && self.message == LATE
    }

    /// Whether Ansible may know better: what is not known here, or can't be parsed here. A template that ends too early
    /// ends too early for everybody, and its author is told so at once.
    pub(in crate::render) fn is_for_ansible(&self) -> bool {
        match self.code {
            Code::NotNative => true,
            Code::Syntax => !self.message.starts_with("unexpected end of"),
            _ => false,
        }
    }

    /// Says where, in bytes of the source, unless that is known more exactly already.
    pub(in crate::render) fn at(mut self, offset: usize) -> Self {
        self.place.get_or_insert(Place::Offset(offset));
        self
    }

    /// Says where, by line and column.
    pub(in crate::render) fn at_line(mut self, line: usize, column: usize) -> Self {
        self.place.get_or_insert(Place::Line(line.max(1), column.max(1)));
        self
    }

    /// The same, as seen from a source with so many bytes more before it.
    pub(super) fn moved(mut self, bytes: usize) -> Self {
        if let Some(Place::Offset(offset)) = &mut self.place {
            *offset += bytes;
        }
        self
    }

    /// The same, found in the text of a variable: where in the text is said in words, the place is left open.
    pub(super) fn within(mut self, variable: &str) -> Self {
        if !self.message.starts_with("in the variable") && !self.is_late() {
            self.message = format!("in the variable `{variable}`: {}", self.message);
        }
        self.place = None;
        self
    }

    /// Line and column, both from 1.
    ///
    /// Offsets count in the source with its ends of lines made one byte, so they are followed through the content.
    pub(in crate::render) fn place(&self, content: &[u8]) -> (usize, usize) {
        let offset = match self.place {
            None => return (1, 1),
            Some(Place::Line(line, column)) => return (line, column),
            Some(Place::Offset(offset)) => offset,
        };
        let (mut line, mut column, mut seen) = (1, 1, 0);
        let mut bytes = content.iter().peekable();
        while let (true, Some(byte)) = (seen < offset, bytes.next()) {
            seen += 1;
            match byte {
                b'\r' if bytes.peek() == Some(&&b'\n') => seen -= 1,
                b'\n' | b'\r' => (line, column) = (line + 1, 1),
                // The later bytes of a character in UTF-8.
                0x80..=0xbf => {}
                _ => column += 1,
            }
        }
        (line, column)
    }
}
