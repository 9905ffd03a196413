//! Reads JUnit XML reports, which come from a sandbox and are not trusted: bounded in size, depth and number, no
//! document type, no entity but XML's own five and character references.

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use thiserror::Error;

/// The largest report that is read, in bytes.
pub const REPORT_BYTES: usize = 16 << 20;
/// Elements within one another; reports need five.
const DEPTH: usize = 32;
/// Test cases in one report.
const CASES: usize = 100_000;
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
    pub suite: String,
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
    /// It has too many tests.
    #[error("the report has more than {CASES} tests")]
    TooMany,
    /// It is something else.
    #[error("the report's first element is `{0}` and not `testsuites` or `testsuite`")]
    NotAReport(String),
    /// It ends too early: a program that was killed leaves such.
    #[error("the report ends in the middle, or is empty")]
    Cut,
}

/// Reads a report.
///
/// # Errors
/// When it is not a JUnit report, or uses what a report has no need of.
pub fn read(report: &[u8]) -> Result<Vec<TestCase>, ReportError> {
    if report.len() > REPORT_BYTES {
        return Err(ReportError::TooLarge(report.len()));
    }
    let text = std::str::from_utf8(report).map_err(|error| ReportError::NotText(error.valid_up_to()))?;
    let mut reader = Reader::from_str(text);
    let mut state = State::default();
    loop {
        let event = reader.read_event();
        let at = reader.buffer_position();
        let not_xml = |error: quick_xml::Error| ReportError::NotXml { at, why: error.to_string() };
        match event.map_err(not_xml)? {
            Event::Start(element) => state.open(&element, at)?,
            Event::Empty(element) => {
                state.open(&element, at)?;
                state.close();
            }
            Event::End(_) => state.close(),
            Event::Text(text) => state.text(&text.xml_content(XmlVersion::Implicit1_0)),
            Event::CData(text) => state.text(&text.xml_content(XmlVersion::Implicit1_0)),
            Event::GeneralRef(reference) => state.text(&resolve(&reference, at)?),
            Event::DocType(_) => return Err(ReportError::DocumentType),
            Event::Eof if state.seen && state.open.is_empty() => return Ok(state.cases),
            Event::Eof => return Err(ReportError::Cut),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
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

#[derive(Default)]
struct State {
    seen: bool,
    open: Vec<Element>,
    suites: Vec<String>,
    cases: Vec<TestCase>,
    /// Whether the open verdict has had no text yet.
    first_piece: bool,
}

impl State {
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
                self.suites.push(attributes.name);
                Element::Suite
            }
            ("testcase", _) => {
                self.case(attributes)?;
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

    fn case(&mut self, attributes: Attributes) -> Result<(), ReportError> {
        if self.cases.len() >= CASES {
            return Err(ReportError::TooMany);
        }
        let suite = attributes.class.or_else(|| self.suites.last().cloned()).unwrap_or_default();
        let seconds = attributes.time.parse().unwrap_or(0.0);
        let seconds = if f64::is_finite(seconds) && seconds > 0.0 { seconds } else { 0.0 };
        let name = attributes.name;
        self.cases.push(TestCase { suite, name, outcome: Outcome::Passed, seconds, message: String::new() });
        Ok(())
    }

    /// The first verdict counts: a test that failed may also err when it is taken down.
    fn verdict(&mut self, outcome: Outcome, attributes: Attributes) -> Element {
        match self.cases.last_mut() {
            Some(case) if case.outcome == Outcome::Passed => {
                case.outcome = outcome;
                case.message = attributes.message;
                self.first_piece = true;
                Element::Verdict
            }
            _ => Element::Other,
        }
    }

    /// A piece of a text: entities and sections divide it.
    fn text(&mut self, text: &str) {
        if self.open.last() != Some(&Element::Verdict) {
            return;
        }
        let Some(case) = self.cases.last_mut() else { return };
        if std::mem::take(&mut self.first_piece) && !case.message.is_empty() {
            append(&mut case.message, "\n", MESSAGE_BYTES);
        }
        append(&mut case.message, text, MESSAGE_BYTES);
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
}
