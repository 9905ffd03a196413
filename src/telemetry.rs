//! The log for the operator: what is written, and how it looks.
//!
//! Everything goes to standard error; a build's own output goes to the build's log and not here. On a terminal lines
//! are coloured, in a file they are plain, under the journal they carry their priority (`journalctl -p err`) and no
//! time, since the journal has its own.
//!
//! **Levels.** `error`: somebody must act, said once, where it is handled. `warn`: it went on, but not as it should.
//! `info`: what an operator wants to read the next day (builds, deliveries, start and stop). `debug`: every step that
//! leaves the process, arguments included. `RUST_LOG` beats the configured level: `RUST_LOG=factoryd::machine=debug`.
//!
//! **Fields.** The message is a sentence that can be read alone; the same facts stand beside it as fields, under these
//! names and no others:
//!
//! | field | what it holds |
//! |---|---|
//! | `repository`, `branch`, `commit` | names as configured; the commit in full |
//! | `bundle` | the path of the bundle |
//! | `build` | the number, without `#` |
//! | `stage`, `step` | the stage's word; the step's name |
//! | `attempt` | which attempt of a stage, from 1 |
//! | `driver`, `machine` | the driver's name in the configuration; the machine's role: `provision`, `test` |
//! | `image`, `disk` | our ids |
//! | `fingerprint` | in full, with its scheme |
//! | `delivery` | the number of the delivery |
//! | `program`, `pid`, `exit` | a child process: its name, its id, how it ended |
//! | `path`, `bytes` | a file; a size |
//! | `elapsed` | how long it took, in seconds |
//! | `by`, `request`, `status` | who asked over the socket, what (method and path), and the answer's status |
//! | `error` | the error with its causes, `: ` between them |
//!
//! The span `build` (field `build`) stands around a build. Secrets are of a type that does not print.

use std::fmt;
use std::io::{IsTerminal as _, stderr};
use std::os::unix::ffi::OsStrExt as _;

use tracing::field::Field;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{self, Format, FormatEvent, FormatFields, Full, Writer};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// What is logged is described in a way that can't be read.
    #[error(
        "{origin} says `{filter}`, which is no log filter; write a level, or pairs such as `factoryd::machine=debug`"
    )]
    Filter {
        /// `RUST_LOG` or the configured level.
        origin: &'static str,
        /// What it says.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Somebody has set up a log already.
    #[error("the log is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Where lines go, as far as it matters to how they look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// A person, in colours.
    Terminal,
    /// A file or a pipe.
    File,
    /// systemd's journal.
    Journal,
}

/// Sets up the log of this process. `level` is the configured one (`info`, or pairs as in `RUST_LOG`).
///
/// # Errors
/// A filter that can't be read, or a log that is set up already.
pub fn start(level: &str) -> Result<(), TelemetryError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => parse("RUST_LOG", &filter)?,
        _ => parse("the configured level", level)?,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).fmt_fields(fields());
    match reader() {
        Reader::Journal => lines.with_ansi(false).event_format(JournalLine::new()).finish().try_init()?,
        Reader::File => lines.with_ansi(false).finish().try_init()?,
        Reader::Terminal => lines.finish().try_init()?,
    }
    Ok(())
}

/// Fields as they are usually written, but that nothing in them moves a cursor or begins a line of its own: names of
/// bundles and messages come from repositories.
fn fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    let field = |out: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        let text = printable(&format!("{value:?}"));
        if field.name() == "message" { write!(out, "{text}") } else { write!(out, "{field}={text}") }
    };
    format::debug_fn(field).delimited(" ")
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { ' ' } else { c }).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn parse(origin: &'static str, filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter { origin, filter: filter.to_owned(), source })
}

fn reader() -> Reader {
    let journal = std::env::var_os("JOURNAL_STREAM").unwrap_or_default();
    match rustix::fs::fstat(stderr()) {
        Ok(stat) if is_stream(journal.as_bytes(), stat.st_dev, stat.st_ino) => Reader::Journal,
        _ if stderr().is_terminal() => Reader::Terminal,
        _ => Reader::File,
    }
}

/// Whether `JOURNAL_STREAM` (`device:inode`) is about this file: it is inherited by processes whose output was
/// redirected elsewhere.
fn is_stream(journal: &[u8], device: u64, inode: u64) -> bool {
    journal == format!("{device}:{inode}").as_bytes()
}

/// A line with the priority in front that the journal takes it under.
struct JournalLine {
    inner: Format<Full, ()>,
}

impl JournalLine {
    fn new() -> Self {
        Self { inner: format::format().without_time().with_level(false).with_ansi(false) }
    }
}

impl<S, N> FormatEvent<S, N> for JournalLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(out, "<{}>", priority(*event.metadata().level()))?;
        self.inner.format_event(context, out, event)
    }
}

/// The priority of syslog that a level has: 3 is an error, 7 is debugging.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no writer panicked").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_journal_gets_a_priority_and_no_time() {
        let paper = Paper::default();
        let writer = paper.clone();
        let lines = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false);
        tracing::subscriber::with_default(lines.event_format(JournalLine::new()).finish(), || {
            let _build = tracing::info_span!("build", build = 7).entered();
            tracing::warn!(stage = "boot", "The machine is late.");
        });
        let text = String::from_utf8(paper.0.lock().expect("no writer panicked").clone()).expect("text");
        let expected = "<4>build{build=7}: factoryd::telemetry::tests: The machine is late. stage=\"boot\"\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_a_repository_says_moves_no_cursor_and_begins_no_line() {
        let paper = Paper::default();
        let writer = paper.clone();
        let lines = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).without_time();
        tracing::subscriber::with_default(lines.fmt_fields(fields()).finish(), || {
            tracing::info!(bundle = %"a\u{1b}[2J\u{9b}\nERROR forged", "queued");
        });
        let text = String::from_utf8(paper.0.lock().expect("no writer panicked").clone()).expect("text");
        let said = "queued bundle=a\u{fffd}[2J\u{fffd} ERROR forged\n";
        assert!(text.ends_with(said) && text.lines().count() == 1, "{text:?}");
    }

    #[test]
    fn the_journal_is_known_by_its_file() {
        assert!(is_stream(b"9:1234", 9, 1234));
        assert!(!is_stream(b"9:1234", 9, 12345));
        assert!(!is_stream(b"", 0, 0));
    }

    #[test]
    fn a_filter_that_can_not_be_read_is_refused_by_name() {
        let error = parse("RUST_LOG", "factoryd=loud").expect_err("no such level");
        assert_eq!(
            error.to_string(),
            "RUST_LOG says `factoryd=loud`, which is no log filter; write a level, or pairs such as \
             `factoryd::machine=debug`"
        );
        assert!(parse("the configured level", "info,factoryd::machine=debug").is_ok());
    }
}
