//! JSON with the place of every key and value, as strict as the reader that packer itself uses.
//!
//! The same tree as YAML's is made, so that faults of both look alike. A key that stands twice is a fault, as for packer.

use std::str::Chars;

use super::super::fault::{Fault, Source, Span, quoted};
use super::super::node::{Key, Kind, Node};
use crate::domain::value::Value;

/// How deep maps and lists may lie in each other.
const MOST_DEPTH: usize = 64;

/// The most values of a document.
const MOST_NODES: usize = 200_000;

/// Reads a document; `None` where it is no JSON, and then a fault says why.
pub(super) fn load(source: &Source, faults: &mut Vec<Fault>) -> Option<Node> {
    let mut reader = Reader { source, chars: source.text().chars(), line: 1, column: 1, nodes: 0, faults: Vec::new() };
    let root = reader.document();
    faults.append(&mut reader.faults);
    match root {
        Ok(node) => Some(node),
        Err(fault) => {
            faults.push(*fault);
            None
        }
    }
}

struct Reader<'s> {
    source: &'s Source,
    chars: Chars<'s>,
    line: usize,
    column: usize,
    nodes: usize,
    /// Keys that stand twice: reading goes on behind them.
    faults: Vec<Fault>,
}

type Read<T> = Result<T, Box<Fault>>;

impl Reader<'_> {
    fn document(&mut self) -> Read<Node> {
        self.space();
        let root = self.value(0)?;
        self.space();
        match self.peek() {
            None => Ok(root),
            Some(_) => Err(self.wrong("nothing more can stand behind the template's end", "")),
        }
    }

    fn peek(&self) -> Option<char> {
        self.chars.clone().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.chars.next()?;
        if c == '\n' || (c == '\r' && self.peek() != Some('\n')) {
            (self.line, self.column) = (self.line + 1, 1);
        } else {
            self.column += 1;
        }
        Some(c)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.next();
        }
    }

    fn here(&self) -> Span {
        Span { line: self.line, column: self.column, length: 1 }
    }

    /// The span from a place to here; 1 long where it goes over lines.
    fn since(&self, start: Span) -> Span {
        let length = if start.line == self.line { self.column - start.column } else { 1 };
        Span { length: length.max(1), ..start }
    }

    fn wrong(&self, message: &str, help: &str) -> Box<Fault> {
        Box::new(self.source.fault(self.here(), "syntax", format!("this is not JSON: {message}")).with_help(help))
    }

    fn no_comments(&self) -> Box<Fault> {
        let help = "a comment is a key of the root that begins with `_`: `\"_comment\": \"…\"`";
        self.wrong("it has no comments", help)
    }

    fn value(&mut self, depth: usize) -> Read<Node> {
        self.nodes += 1;
        if depth > MOST_DEPTH || self.nodes > MOST_NODES {
            let message = format!("more than {MOST_NODES} values, or {MOST_DEPTH} maps and lists in each other");
            return Err(Box::new(self.source.fault(self.here(), "too-large", message)));
        }
        let start = self.here();
        let kind = match self.peek() {
            Some('{') => self.map(depth)?,
            Some('[') => self.list(depth)?,
            Some('"') => {
                let text = self.text()?;
                Kind::Scalar { value: Value::String(text.clone()), raw: text }
            }
            Some('-' | '0'..='9') => self.number()?,
            Some('a'..='z') => self.word()?,
            Some('/' | '#') => return Err(self.no_comments()),
            Some('\'') => return Err(self.wrong("texts stand in double quotes", "")),
            Some('A'..='Z' | '_') => return Err(self.wrong("a text stands in double quotes", "")),
            Some(c) => return Err(self.wrong(&format!("a value can't begin with `{c}`"), "")),
            None => return Err(self.wrong("it ends before a value", "a `}`, `]` or `\"` may be missing")),
        };
        let span = if matches!(kind, Kind::Scalar { .. }) { self.since(start) } else { start };
        Ok(Node { span, kind })
    }

    fn map(&mut self, depth: usize) -> Read<Kind> {
        self.next();
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut known = std::collections::HashMap::new();
        self.space();
        if self.peek() == Some('}') {
            self.next();
            return Ok(Kind::Map(entries));
        }
        loop {
            self.space();
            let start = self.here();
            if matches!(self.peek(), Some('/' | '#')) {
                return Err(self.no_comments());
            }
            if self.peek() != Some('"') {
                let help = "keys stand in double quotes, and no comma stands behind the last value";
                return Err(self.wrong("a key is expected here", help));
            }
            let text = self.text()?;
            let span = self.since(start);
            self.space();
            if self.peek() != Some(':') {
                return Err(self.wrong(&format!("a `:` is expected behind the key {}", quoted(&text)), ""));
            }
            self.next();
            self.space();
            let value = self.value(depth + 1)?;
            match known.get(&text) {
                Some(first) => {
                    let message = format!("the key {} stands twice", quoted(&text));
                    let fault = self.source.fault(span, "duplicate-key", message);
                    self.faults.push(fault.with_help(format!("it stands in line {first} before; packer refuses this")));
                }
                None => {
                    known.insert(text.clone(), span.line);
                    entries.push((Key { span, text }, value));
                }
            }
            if self.goes_on('}')? {
                continue;
            }
            return Ok(Kind::Map(entries));
        }
    }

    fn list(&mut self, depth: usize) -> Read<Kind> {
        self.next();
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(']') {
            self.next();
            return Ok(Kind::List(items));
        }
        loop {
            self.space();
            if self.peek() == Some(']') {
                return Err(self.wrong("a comma stands behind the last value of a list", "take the comma out"));
            }
            items.push(self.value(depth + 1)?);
            if !self.goes_on(']')? {
                return Ok(Kind::List(items));
            }
        }
    }

    /// Whether another value follows in a map or list.
    fn goes_on(&mut self, end: char) -> Read<bool> {
        self.space();
        match self.peek() {
            Some(',') => {
                self.next();
                Ok(true)
            }
            Some(c) if c == end => {
                self.next();
                Ok(false)
            }
            Some(_) => Err(self.wrong(&format!("a `,` or `{end}` is expected here"), "")),
            None => Err(self.wrong(&format!("it ends before a `{end}`"), "")),
        }
    }

    fn text(&mut self) -> Read<String> {
        let start = self.here();
        self.next();
        let mut text = String::new();
        loop {
            match self.peek() {
                None => {
                    let message = "this is not JSON: the text that begins here has no end";
                    return Err(Box::new(self.source.fault(start, "syntax", message)));
                }
                Some('"') => {
                    self.next();
                    return Ok(text);
                }
                Some('\\') => {
                    self.next();
                    text.push(self.escape()?);
                }
                Some(c) if u32::from(c) < 0x20 => {
                    let help = "write `\\n` for the end of a line and `\\t` for a tab";
                    return Err(self.wrong("a text can't go over lines or hold control characters", help));
                }
                Some(c) => {
                    self.next();
                    text.push(c);
                }
            }
        }
    }

    fn escape(&mut self) -> Read<char> {
        let c = self.peek();
        let plain = match c {
            Some('"' | '\\' | '/') => c,
            Some('b') => Some('\u{8}'),
            Some('f') => Some('\u{c}'),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('u') => {
                self.next();
                return self.unicode();
            }
            _ => None,
        };
        let Some(plain) = plain else {
            return Err(self.wrong("no such escape behind `\\`", "a backslash itself is written `\\\\`"));
        };
        self.next();
        Ok(plain)
    }

    /// What stands behind `\u`: lone halves of pairs become U+FFFD, as in packer's reader.
    fn unicode(&mut self) -> Read<char> {
        let first = self.hex()?;
        let mut rest = self.chars.clone();
        if (0xd800..0xdc00).contains(&first) && rest.next() == Some('\\') && rest.next() == Some('u') {
            let digits: String = rest.take(4).collect();
            let second = u32::from_str_radix(&digits, 16).ok().filter(|unit| (0xdc00..0xe000).contains(unit));
            if let Some(second) = second {
                for _ in 0..6 {
                    self.next();
                }
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or('\u{fffd}'));
            }
        }
        Ok(char::from_u32(first).unwrap_or('\u{fffd}'))
    }

    fn hex(&mut self) -> Read<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(16)) else {
                return Err(self.wrong("four hexadecimal digits are expected behind `\\u`", ""));
            };
            self.next();
            code = code * 16 + digit;
        }
        Ok(code)
    }

    fn number(&mut self) -> Read<Kind> {
        let mut raw = String::new();
        while let Some(c) = self.peek().filter(|c| matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')) {
            raw.push(c);
            self.next();
        }
        if !is_number(&raw) {
            return Err(self.wrong(&format!("{} is no number", quoted(&raw)), "other values stand in quotes"));
        }
        let value = match raw.parse::<i64>() {
            Ok(number) => Value::Int(number),
            Err(_) => Value::Float(raw.parse().unwrap_or(f64::MAX)),
        };
        Ok(Kind::Scalar { value, raw })
    }

    fn word(&mut self) -> Read<Kind> {
        let start = self.here();
        let mut raw = String::new();
        while let Some(c) = self.peek().filter(char::is_ascii_alphanumeric) {
            raw.push(c);
            self.next();
        }
        let value = match raw.as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" => Value::Null,
            _ => {
                let message = format!("this is not JSON: {} is no value; a text stands in double quotes", quoted(&raw));
                return Err(Box::new(self.source.fault(self.since(start), "syntax", message)));
            }
        };
        Ok(Kind::Scalar { value, raw })
    }
}

/// Whether a text is a number as JSON has them: no leading zeros, digits on both sides of the point.
fn is_number(raw: &str) -> bool {
    let rest = raw.strip_prefix('-').unwrap_or(raw);
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let exponent = exponent.map(|text| text.strip_prefix(['+', '-']).unwrap_or(text));
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Option<Node>, Vec<String>) {
        let mut faults = Vec::new();
        let node = load(&Source::new("t.json", text), &mut faults);
        (node, faults.iter().map(|fault| format!("{}:{} {}", fault.line, fault.column, fault.message)).collect())
    }

    #[test]
    fn every_key_and_value_knows_its_place() {
        let (node, faults) =
            read("{\n  \"a\": [1, -2.5e3,\r\n    \"x\\n\\u00e9\\ud83d\\ude00\"],\n\t\"b\": {\"c\": null}}\n");
        assert_eq!(faults, Vec::<String>::new());
        let node = node.expect("it is JSON");
        let Kind::List(items) = &node.get("a").expect("a").kind else { panic!("a list") };
        assert_eq!(items[2].text(), Some("x\né😀"));
        assert_eq!(items[2].span, Span { line: 3, column: 5, length: 23 });
        assert_eq!(items[1].value(), Value::Float(-2500.0));
        let Kind::Map(entries) = &node.kind else { panic!("a map") };
        assert_eq!(entries[1].0.span, Span { line: 4, column: 2, length: 3 });
    }

    #[test]
    fn what_packers_reader_refuses_is_refused_with_its_place() {
        let cases = [
            ("{\"a\": 1,}", "1:9 this is not JSON: a key is expected here"),
            ("[1,\n2,\n]", "3:1 this is not JSON: a comma stands behind the last value of a list"),
            ("{\"a\": 1} x", "1:10 this is not JSON: nothing more can stand behind the template's end"),
            ("{\n// hi\n}", "2:1 this is not JSON: it has no comments"),
            ("[01]", "1:4 this is not JSON: `01` is no number"),
            ("{\"a\": yes}", "1:7 this is not JSON: `yes` is no value; a text stands in double quotes"),
            ("\"a\nb\"", "1:3 this is not JSON: a text can't go over lines or hold control characters"),
            ("{\"a\": 1 \"b\": 2}", "1:9 this is not JSON: a `,` or `}` is expected here"),
            ("[\"\\x\"]", "1:4 this is not JSON: no such escape behind `\\`"),
            ("{\"a\": 1, \"b\": 2, \"a\": 3}", "1:18 the key `a` stands twice"),
            ("", "1:1 this is not JSON: it ends before a value"),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).1, [expected], "{text}");
        }
    }

    #[test]
    fn what_is_deep_is_refused_and_not_followed() {
        let (node, faults) = read(&"[".repeat(100_000));
        assert!(node.is_none() && faults[0].contains("in each other"), "{faults:?}");
    }

    /// Texts that are JSON, nearly JSON, or no JSON at all.
    fn texts() -> impl proptest::strategy::Strategy<Value = String> {
        use proptest::prelude::*;
        let scalar = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            "-?(0|[1-9][0-9]{0,4})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?",
            "[0-9.eE+-]{1,5}",
            "\"[a-z é{}`\\\\/]{0,6}\"",
            "\"\\\\u[0-9a-dA-D]{4}\\\\[bfnrt\"/]\"",
        ];
        let document = scalar.prop_recursive(4, 30, 4, |inner| {
            let list = prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" , ")));
            let entry = ("[a-z]{1,2}", inner).prop_map(|(key, value)| format!("\"{key}\"\n: {value}"));
            let map = prop::collection::vec(entry, 0..4).prop_map(|entries| format!("{{{}}}", entries.join(",\r\n")));
            prop_oneof![list, map]
        });
        (document, prop::option::of((any::<prop::sample::Index>(), "[\\[\\]{},:\"0-9a-z\\\\]?"))).prop_map(
            |(text, edit)| {
                let Some((at, with)) = edit else { return text };
                let at = at.index(text.chars().count() + 1);
                let rest: String = text.chars().skip(at + 1).collect();
                text.chars().take(at).collect::<String>() + &with + &rest
            },
        )
    }

    proptest::proptest! {
        #[test]
        fn it_takes_what_other_readers_take(text in texts()) {
            let (node, faults) = read(&text);
            let other = serde_json::from_str::<serde_json::Value>(&text);
            let twice = faults.iter().any(|fault| fault.contains("stands twice"));
            // A half of a pair of surrogates alone, and numbers that no float holds, are told apart by no packer.
            let is_odd = other.as_ref().is_err_and(|error| {
                let why = error.to_string();
                why.contains("surrogate") || why.contains("hex escape") || why.contains("out of range")
            });
            proptest::prop_assert!(is_odd || node.is_some() == other.is_ok(), "{text}: {faults:?} {other:?}");
            proptest::prop_assert!(node.is_none() == (!faults.is_empty() && !twice) || twice);
            if let (Some(node), Ok(other)) = (node, other) && !twice {
                proptest::prop_assert_eq!(as_json(&node), other);
            }
        }
    }

    fn as_json(node: &Node) -> serde_json::Value {
        match &node.kind {
            Kind::Map(entries) => entries.iter().map(|(key, node)| (key.text.clone(), as_json(node))).collect(),
            Kind::List(items) => items.iter().map(as_json).collect(),
            Kind::Scalar { value: Value::String(text), .. } => text.clone().into(),
            Kind::Scalar { raw, .. } => serde_json::from_str(raw).expect("a scalar"),
            Kind::Open(_) => unreachable!("never read"),
        }
    }
}
