//! The time, and how a moment stands on the clock on the wall: names of images carry it.

use crate::domain::build::Moment;

/// The time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Moment;

    /// A moment on the clock on the wall.
    fn local(&self, at: Moment) -> LocalTime;
}

/// A moment on the clock on the wall of the factory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// The year: 2026.
    pub year: i16,
    /// The month, from 1.
    pub month: u8,
    /// The day of the month, from 1.
    pub day: u8,
    /// The hour, from 0 to 23.
    pub hour: u8,
    /// The minute.
    pub minute: u8,
    /// The second.
    pub second: u8,
}

impl LocalTime {
    /// The moment as image names have it, to the minute: `2026-11-231402`.
    pub fn stamp(&self) -> String {
        format!("{}{}", self.date(), self.time())
    }

    /// The day: `2026-11-23`.
    pub fn date(&self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    /// The time of the day, to the minute: `1402`.
    pub fn time(&self) -> String {
        format!("{:02}{:02}", self.hour, self.minute)
    }
}
