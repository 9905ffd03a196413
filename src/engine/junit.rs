//! Reads JUnit XML reports, which come from a sandbox and are not trusted: bounded in size, depth and number, each report
//! and all of them together, no document type, no entity but XML's own five and character references.

use std::sync::Arc;

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use thiserror::Error;

/// The largest report that is read, in bytes.
pub const REPORT_BYTES: usize = 16 << 20;
/// Elements within one another; reports need five.
const DEPTH: usize = 32;
/// Test cases that are kept of all reports together.
const CASES: usize = 100_000;
/// What is kept of their texts together, in bytes.
const TEXT_BYTES: usize = 16 << 20;
/// What is read of all reports together, in bytes.
const ALL_BYTES: usize = 128 << 20;
/// What is kept of a message, in bytes.
const MESSAGE_BYTES: usize = 4096;
/// What is kept of a name, in bytes.
const NAME_BYTES: usize = 1024;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// What it checks is not so.
    Failed,
    /// It could not be run to its end.
    Errored,
    /// It was not run.
    Skipped,
}

/// One test of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct TestCase {
    /// The class or the module it belongs to, else the suite; may be empty.
    pub suite: Arc<str>,
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, in seconds; 0 where the report does not say.
    pub seconds: f64,
    /// Why it did not pass: the message, and the text below it where there is one. Empty when it passed.
    pub message: String,
}

/// Why a report can't be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReportError {
    /// It is too large.
    #[error("the report has {0} bytes; {REPORT_BYTES} are read at most")]
    TooLarge(usize),
    /// It is not UTF-8.
    #[error("the report is not UTF-8 from byte {0} on")]
    NotText(usize),
    /// It is not XML.
    #[error("the report is not well-formed XML near byte {at}: {why}")]
    NotXml {
        /// Where, in bytes from the beginning.
        at: u64,
        /// What is wrong.
        why: String,
    },
    /// It has a document type, which could define entities.
    #[error("the report has a document type, which JUnit reports do not have")]
    DocumentType,
    /// It uses an entity that XML itself does not define.
    #[error("the report uses the entity `&{0};`: entities in a JUnit report are not expanded")]
    Entity(String),
    /// Its elements lie too deep in one another.
    #[error("the report's elements lie more than {DEPTH} deep in one another")]
    TooDeep,
    /// Other reports have used up what is read.
    #[error("{} MiB of reports were read before it, and more are not", ALL_BYTES >> 20)]
    TooMany,
    /// It is something else.
    #[error("the report's first element is `{0}` and not `testsuites` or `testsuite`")]
    NotAReport(String),
    /// It ends too early: a program that was killed leaves such.
    #[error("the report ends in the middle, or is empty")]
    Cut,
}

/// How many tests ended in which way, those that are not kept among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// They passed.
    pub passed: u64,
    /// What they check is not so, or they could not be run to their end.
    pub bad: u64,
    /// They were not run.
    pub skipped: u64,
}

impl Tally {
    /// All of them.
    pub fn all(&self) -> u64 {
        self.passed + self.bad + self.skipped
    }

    fn of(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Passed => &mut self.passed,
            Outcome::Failed | Outcome::Errored => &mut self.bad,
            Outcome::Skipped => &mut self.skipped,
        }
    }
}

/// What the reports of a stage say. All of them share one budget: what is beyond it is counted and not kept.
#[derive(Debug, Default)]
pub struct Reports {
    /// The tests that are kept, in the order of the reports.
    pub cases: Vec<TestCase>,
    /// All tests.
    pub tally: Tally,
    /// Bytes of the kept tests' texts.
    kept: usize,
    /// Bytes that were read.
    read: usize,
}

impl Reports {
    /// How many tests were counted and not kept.
    pub fn left_out(&self) -> u64 {
        self.tally.all().saturating_sub(self.cases.len() as u64)
    }

    /// Whether a report of so many bytes can still be read.
    ///
    /// # Errors
    /// When it is too large, or too much was read before it.
    pub fn admits(&self, bytes: usize) -> Result<(), ReportError> {
        if bytes > REPORT_BYTES {
            return Err(ReportError::TooLarge(bytes));
        }
        if bytes > ALL_BYTES - self.read {
            return Err(ReportError::TooMany);
        }
        Ok(())
    }

    /// Reads one more report. One that has a fault adds nothing.
    ///
    /// # Errors
    /// When it is not a JUnit report, or uses what a report has no need of.
    pub fn read(&mut self, report: &[u8]) -> Result<(), ReportError> {
        self.admits(report.len())?;
        self.read += report.len();
        let before = (self.cases.len(), self.tally, self.kept);
        let done = State::new(self).read(report);
        if done.is_err() {
            self.cases.truncate(before.0);
            (self.tally, self.kept) = (before.1, before.2);
        }
        done
    }

    /// Keeps a test, if there is room for it.
    fn keep(&mut self, suite: Arc<str>, name: String, seconds: f64) -> bool {
        let bytes = suite.len() + name.len();
        // Once one was left out, all that follow are: what is kept is a beginning and has no holes.
        let kept = self.left_out() == 0 && self.cases.len() < CASES && bytes <= TEXT_BYTES - self.kept;
        if kept {
            self.kept += bytes;
            self.cases.push(TestCase { suite, name, outcome: Outcome::Passed, seconds, message: String::new() });
        }
        self.tally.passed += 1;
        kept
    }

    /// Adds to the message of the test that was kept last.
    fn tell(&mut self, text: &str) {
        let Some(case) = self.cases.last_mut() else { return };
        let before = case.message.len();
        append(&mut case.message, text, MESSAGE_BYTES.min(before + TEXT_BYTES - self.kept));
        self.kept += case.message.len() - before;
    }
}

/// What an element is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Suite,
    Case,
    Verdict,
    Other,
}

/// One report as it is read.
struct State<'r> {
    reports: &'r mut Reports,
    seen: bool,
    open: Vec<Element>,
    suites: Vec<Arc<str>>,
    /// How the test that was opened last ended, as far as it is known; `None` before the first.
    outcome: Option<Outcome>,
    /// Whether that test is kept.
    kept: bool,
    /// Whether the open verdict has had no text yet.
    first_piece: bool,
}

impl<'r> State<'r> {
    fn new(reports: &'r mut Reports) -> Self {
        let (open, suites) = (Vec::new(), Vec::new());
        Self { reports, seen: false, open, suites, outcome: None, kept: false, first_piece: false }
    }

    fn read(mut self, report: &[u8]) -> Result<(), ReportError> {
        let text = std::str::from_utf8(report).map_err(|error| ReportError::NotText(error.valid_up_to()))?;
        let mut reader = Reader::from_str(text);
        loop {
            let event = reader.read_event();
            let at = reader.buffer_position();
            let not_xml = |error: quick_xml::Error| ReportError::NotXml { at, why: error.to_string() };
            match event.map_err(not_xml)? {
                Event::Start(element) => self.open(&element, at)?,
                Event::Empty(element) => {
                    self.open(&element, at)?;
                    self.close();
                }
                Event::End(_) => self.close(),
                Event::Text(text) => self.text(&text.xml_content(XmlVersion::Implicit1_0)),
                Event::CData(text) => self.text(&text.xml_content(XmlVersion::Implicit1_0)),
                Event::GeneralRef(reference) => self.text(&resolve(&reference, at)?),
                Event::DocType(_) => return Err(ReportError::DocumentType),
                Event::Eof if self.seen && self.open.is_empty() => return Ok(()),
                Event::Eof => return Err(ReportError::Cut),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            }
        }
    }

    fn open(&mut self, element: &BytesStart<'_>, at: u64) -> Result<(), ReportError> {
        let local = element.local_name();
        let name = local.into_inner();
        if !self.seen && !matches!(name, "testsuites" | "testsuite") {
            return Err(ReportError::NotAReport(name.chars().take(64).collect()));
        }
        self.seen = true;
        if self.open.len() >= DEPTH {
            return Err(ReportError::TooDeep);
        }
        let attributes = Attributes::of(element, at)?;
        let kind = match (name, self.open.last()) {
            ("testsuites" | "testsuite", _) => {
                self.suites.push(attributes.name.into());
                Element::Suite
            }
            ("testcase", _) => {
                self.case(attributes);
                Element::Case
            }
            ("failure", Some(Element::Case)) => self.verdict(Outcome::Failed, attributes),
            ("error", Some(Element::Case)) => self.verdict(Outcome::Errored, attributes),
            ("skipped", Some(Element::Case)) => self.verdict(Outcome::Skipped, attributes),
            _ => Element::Other,
        };
        self.open.push(kind);
        Ok(())
    }

    fn close(&mut self) {
        if self.open.pop() == Some(Element::Suite) {
            self.suites.pop();
        }
    }

    fn case(&mut self, attributes: Attributes) {
        let last = self.reports.cases.last().map(|case| &case.suite);
        let suite = match (attributes.class, self.suites.last()) {
            // The tests of a class stand together: they share its name.
            (Some(class), _) => {
                last.filter(|last| ***last == *class).cloned().unwrap_or_else(|| Arc::from(class.as_str()))
            }
            (None, Some(suite)) => Arc::clone(suite),
            (None, None) => Arc::default(),
        };
        let seconds = attributes.time.parse().unwrap_or(0.0);
        let seconds = if f64::is_finite(seconds) && seconds > 0.0 { seconds } else { 0.0 };
        self.kept = self.reports.keep(suite, attributes.name, seconds);
        self.outcome = Some(Outcome::Passed);
    }

    /// The first verdict counts: a test that failed may also err when it is taken down.
    fn verdict(&mut self, outcome: Outcome, attributes: Attributes) -> Element {
        if self.outcome != Some(Outcome::Passed) {
            return Element::Other;
        }
        self.outcome = Some(outcome);
        self.reports.tally.passed -= 1;
        *self.reports.tally.of(outcome) += 1;
        if self.kept
            && let Some(case) = self.reports.cases.last_mut()
        {
            case.outcome = outcome;
            self.reports.tell(&attributes.message);
            self.first_piece = true;
        }
        Element::Verdict
    }

    /// A piece of a text: entities and sections divide it.
    fn text(&mut self, text: &str) {
        if self.open.last() != Some(&Element::Verdict) || !self.kept {
            return;
        }
        let has_message = self.reports.cases.last().is_some_and(|case| !case.message.is_empty());
        if std::mem::take(&mut self.first_piece) && has_message {
            self.reports.tell("\n");
        }
        self.reports.tell(text);
    }
}

/// The attributes that say something to us.
#[derive(Default)]
struct Attributes {
    name: String,
    class: Option<String>,
    time: String,
    message: String,
}

impl Attributes {
    fn of(element: &BytesStart<'_>, at: u64) -> Result<Self, ReportError> {
        let mut found = Self::default();
        for attribute in element.attributes() {
            let attribute = attribute.map_err(|error| ReportError::NotXml { at, why: error.to_string() })?;
            let text = || {
                attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| match entity(&attribute.value) {
                    Some(name) => ReportError::Entity(name),
                    None => ReportError::NotXml { at, why: error.to_string() },
                })
            };
            match attribute.key.into_inner() {
                "name" => append(&mut found.name, &text()?, NAME_BYTES),
                "classname" => append(found.class.insert(String::new()), &text()?, NAME_BYTES),
                "time" => found.time = text()?.into_owned(),
                "message" => append(&mut found.message, &text()?, MESSAGE_BYTES),
                _ => {}
            }
        }
        found.class = found.class.filter(|class| !class.is_empty());
        Ok(found)
    }
}

/// The first entity in a text that XML does not define.
fn entity(text: &str) -> Option<String> {
    let names = text.split('&').skip(1).filter_map(|rest| rest.split_once(';').map(|(name, _)| name));
    let mut unknown = names.filter(|name| !name.starts_with('#') && resolve_predefined_entity(name).is_none());
    unknown.next().map(|name| name.chars().take(64).collect())
}

fn resolve(reference: &BytesRef<'_>, at: u64) -> Result<String, ReportError> {
    let character = reference.resolve_char_ref();
    match character.map_err(|error| ReportError::NotXml { at, why: error.to_string() })? {
        Some(character) => Ok(character.to_string()),
        None => {
            let name = reference.xml_content(XmlVersion::Implicit1_0);
            let text = resolve_predefined_entity(&name).map(str::to_owned);
            text.ok_or_else(|| ReportError::Entity(name.chars().take(64).collect()))
        }
    }
}

/// Adds as much of a text as there is room for, cut between characters.
fn append(to: &mut String, text: &str, room: usize) {
    to.push_str(&text[..text.floor_char_boundary(room.saturating_sub(to.len()))]);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(report: &[u8]) -> Result<Vec<TestCase>, ReportError> {
        let mut reports = Reports::default();
        reports.read(report)?;
        Ok(reports.cases)
    }

    #[test]
    fn what_pytest_writes_is_read() {
        let report = r#"<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest" tests="3">
            <testcase classname="tests.test_page" name="test_served" time="0.25" />
            <testcase classname="tests.test_page" name="test_title[&lt;a&gt;]" time="1e999">
              <failure message="assert &#39;x&#39; == 1">def test():
&gt;   assert <![CDATA[x & y]]></failure>
              <error message="teardown">later</error>
            </testcase>
            <testcase name="test_skipped"><skipped message="no reason"/></testcase>
        </testsuite></testsuites>"#;
        let cases = read(report.as_bytes()).unwrap();
        let shown: Vec<String> = cases
            .iter()
            .map(|case| format!("{} {} {:?} {}", case.suite, case.name, case.outcome, case.seconds))
            .collect();
        assert_eq!(
            shown,
            [
                "tests.test_page test_served Passed 0.25",
                "tests.test_page test_title[<a>] Failed 0",
                "pytest test_skipped Skipped 0",
            ]
        );
        assert_eq!(cases[1].message, "assert 'x' == 1\ndef test():\n>   assert x & y");
    }

    #[test]
    fn entities_are_named_and_never_expanded() {
        let bomb = b"<!DOCTYPE x [<!ENTITY a \"ha\">]><testsuites/>";
        assert_eq!(read(bomb), Err(ReportError::DocumentType));
        let text = b"<testsuite><testcase><failure>&xxe;</failure></testcase></testsuite>";
        assert_eq!(read(text), Err(ReportError::Entity("xxe".to_owned())));
        let attribute = b"<testsuite><testcase name='a&amp;&xxe;'/></testsuite>";
        let error = read(attribute).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the report uses the entity `&xxe;`: entities in a JUnit report are not expanded"
        );
    }

    #[test]
    fn what_is_no_report_is_refused_with_its_reason() {
        assert_eq!(read(b""), Err(ReportError::Cut));
        assert_eq!(read(b"<testsuite><testcase>"), Err(ReportError::Cut));
        assert_eq!(read(b"<html/>"), Err(ReportError::NotAReport("html".to_owned())));
        assert_eq!(read(b"\xff"), Err(ReportError::NotText(0)));
        assert_eq!(read("<testsuite>".repeat(40).as_bytes()), Err(ReportError::TooDeep));
        assert!(matches!(read(b"<testsuite></testcase>"), Err(ReportError::NotXml { .. })));
        assert_eq!(read(&vec![b' '; REPORT_BYTES + 1]), Err(ReportError::TooLarge(REPORT_BYTES + 1)));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let report = format!("<testsuite><testcase><error>{}</error></testcase></testsuite>", "\u{e9}".repeat(5000));
        assert_eq!(read(report.as_bytes()).unwrap()[0].message.len(), MESSAGE_BYTES);
    }

    #[test]
    fn all_reports_share_one_budget_and_what_is_beyond_is_counted() {
        let case = r#"<testcase name="t"><failure/></testcase>"#;
        let report = format!("<testsuite name=\"{}\">{}</testsuite>", "s".repeat(NAME_BYTES), case.repeat(1000));
        let mut reports = Reports::default();
        let most = TEXT_BYTES / (NAME_BYTES + 1);
        let count = most / 1000 + 2;
        for _ in 0..count {
            reports.read(report.as_bytes()).unwrap();
        }
        assert_eq!(reports.cases.len(), most, "the suite's name counts for each test: rows and answers have it so");
        assert_eq!(reports.tally, Tally { bad: count as u64 * 1000, ..Tally::default() });
        assert_eq!(reports.left_out(), count as u64 * 1000 - most as u64);
        let names: std::collections::HashSet<*const u8> =
            reports.cases.iter().map(|case| case.suite.as_ptr()).collect();
        assert!(names.len() <= count, "it is in memory once for each report");

        // A report with a fault adds nothing, also to the numbers.
        let before = (reports.tally, reports.cases.len());
        let cut = format!("<testsuite>{case}<testcase>");
        assert_eq!(reports.read(cut.as_bytes()), Err(ReportError::Cut));
        assert_eq!((reports.tally, reports.cases.len()), before);
    }

    #[test]
    fn small_tests_are_bounded_by_their_number_and_reports_by_their_bytes() {
        let mut reports = Reports::default();
        let report = format!("<testsuite>{}</testsuite>", "<testcase/>".repeat(CASES + 1));
        reports.read(report.as_bytes()).unwrap();
        assert_eq!((reports.cases.len(), reports.left_out()), (CASES, 1));
        let spaces = vec![b' '; REPORT_BYTES - 12];
        let large = [&spaces[..], b"<testsuite/>"].concat();
        let read = (0..).take_while(|_| reports.read(&large).is_ok()).count();
        assert_eq!(read, (ALL_BYTES - report.len()) / REPORT_BYTES);
        assert_eq!(reports.read(&large), Err(ReportError::TooMany));
    }
}
