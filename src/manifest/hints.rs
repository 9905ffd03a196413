//! What somebody most likely meant where a file is no YAML: the parser says where it gave up, this says what to type.

use saphyr_parser::ScanError;

use super::fault::{Fault, Source, Span, quoted};

/// How many lines above the place where the parser gave up are looked at: it only notices at the next token.
const LINES_ABOVE: usize = 20;

/// The faults of a file that the parser gave up on. `known` are the lines that have a fault already.
pub(super) fn syntax(source: &Source, error: &ScanError, known: &[usize]) -> Vec<Fault> {
    let line = error.marker().line().clamp(1, source.line_count());
    let near = || (line.saturating_sub(LINES_ABOVE).max(1)..=line).rev();
    if known.iter().any(|known| near().any(|line| line == *known)) {
        return Vec::new();
    }
    if let Some(fault) = near().find_map(|line| missing_space(source, line)) {
        return vec![fault];
    }
    if let Some((line, column)) = near().take(2).find_map(|line| Some((line, bare_expression(source.line(line))?))) {
        return vec![unquoted(source, line, column)];
    }
    let tab = near().take(2).find(|line| indentation(source.line(*line)).contains('\t'));
    if let Some(line) = tab {
        let column = indentation(source.line(line)).chars().take_while(|c| *c != '\t').count() + 1;
        let fault = source.fault(Span { line, column, length: 1 }, "tab", "a tab can't indent YAML");
        return vec![fault.with_help("indent with spaces")];
    }
    let span = Span { line, column: error.marker().col() + 1, length: 1 };
    let fault = source.fault(span, "syntax", format!("this is not YAML: {}", error.info()));
    vec![fault.with_help("look at the indentation, at quotes that are not closed, and for a space after each `:`")]
}

/// The fault of an expression without quotes.
pub(super) fn unquoted(source: &Source, line: usize, column: usize) -> Fault {
    let text: String = source.line(line).chars().skip(column - 1).collect();
    let text = text.split(" #").next().unwrap_or_default().trim_end();
    let span = Span { line, column, length: text.chars().count() };
    source
        .fault(span, "unquoted-expression", "a value that begins with `{{` must stand in quotes")
        .with_hint(format!("write `\"{}\"`", text.replace('"', "'")))
        .with_help("without quotes, YAML takes `{` for the beginning of a map")
}

/// What a text that should have been a map was meant to be: `key :value` or `key:value`.
pub(super) fn meant(text: &str) -> Option<String> {
    let (key, value) = text.split_once(':')?;
    let name = key.trim_end();
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    let is_address = value.starts_with("//") || value.starts_with(':');
    (is_name && !value.is_empty() && !value.starts_with([' ', '\t']) && !is_address)
        .then(|| format!("{name}: {}", value.trim()))
}

fn missing_space(source: &Source, line: usize) -> Option<Fault> {
    let text = source.line(line);
    let indent = indentation(text).len();
    let item = text[indent..].strip_prefix("- ").map_or(indent, |rest| text.len() - rest.trim_start().len());
    let content = text[item..].split(" #").next().unwrap_or_default().trim_end();
    // A text with `: ` in it has its colon; `- 10:30` and `- http://x` are texts of a list.
    if content.starts_with('#') || content.contains(": ") || content.ends_with(':') {
        return None;
    }
    let meant = meant(content)?;
    let span = Span { line, column: text[..item].chars().count() + 1, length: content.chars().count() };
    let message = format!("{} is no key with a value", quoted(content));
    let fault = source.fault(span, "missing-space", message);
    Some(fault.with_hint(format!("did you mean `{meant}`?")).with_help("a key is followed by `:` and a space"))
}

/// Where an unquoted value begins with `{{`.
fn bare_expression(line: &str) -> Option<usize> {
    let at = [": {{", "- {{"].iter().find_map(|opening| line.find(opening))? + 2;
    Some(line[..at].chars().count() + 1)
}

fn indentation(line: &str) -> &str {
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}
