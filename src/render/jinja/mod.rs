//! `*.j2`, as the template module of ansible-core 2.14 renders them: not what Jinja2 does, and not what minijinja does.
//!
//! minijinja reads the template; its syntax tree is checked against the set of constructs that `tests/render` proves
//! equal to Ansible's, before anything is rendered. What the tree means is then worked out here and not by minijinja's
//! own machine, because equality depends on values and not on constructs alone: `1 < 'a'` must be an error, `1 == true`
//! true, `[none]` print `None`, and an undefined variable may be looked into and only not be used. Where even that is
//! not known for certain (a list's text with unusual characters, say), the template is refused rather than guessed at.
//!
//! `foreign` refuses what is a host's · `recognise` decides what is accepted · `evaluate` statements · `expression` · `filters`, `methods` · `lazy` variables
//! whose texts are templates · `value` and `operators` Python's values.

mod applied;
mod change;
mod checks;
mod comment;
mod evaluate;
mod expression;
mod filters;
mod foreign;
mod formats;
mod json;
mod lazy;
mod lists;
mod literals;
mod lookup;
mod macros;
mod maps;
mod methods;
mod operators;
mod picks;
mod recognise;
mod stop;
mod texts;
mod value;
mod versions;
mod words;

use minijinja::machinery;
use minijinja::syntax::SyntaxConfig;

use super::limits::{self, Budget};
use super::{Code, Variables};
use evaluate::Evaluator;

pub(super) use lazy::resolve_all;
pub(super) use stop::Stop;
pub(super) use value::PyValue;

/// Refuses a template that asks for what is a host's, before any engine sees it.
pub(super) fn refuse_foreign(content: &[u8], variables: &Variables) -> Result<(), Stop> {
    foreign::refuse(decode(content)?, variables)
}

/// Renders a template.
pub(super) fn render(content: &[u8], variables: &Variables, budget: Budget) -> Result<String, Stop> {
    let text = decode(content)?;
    let (source, removed, blocks) = without_override(text)?;
    let rendered = Evaluator::file(normalised(source), blocks, variables, budget);
    Ok(with_newlines_of(text, rendered.map_err(|stop| stop.moved(removed))?))
}

/// The text of a template.
pub(super) fn decode(content: &[u8]) -> Result<&str, Stop> {
    if content.len() as u64 > limits::TEMPLATE_BYTES {
        return Err(limits::limit("the template exceeds 16 MiB"));
    }
    std::str::from_utf8(content).map_err(|error| {
        Stop::new(Code::Unreadable, "it is not UTF-8", "save the template as UTF-8").at(error.valid_up_to())
    })
}

/// The source as Jinja2 reads it: every end of line is a line feed.
pub(super) fn normalised(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// What becomes of the white space around blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Whether the line end after a block goes with it.
    trim: bool,
    /// Whether the white space before a block goes with it, where nothing else stands before it on its line.
    lstrip: bool,
}

impl Default for Blocks {
    /// As the template module has it.
    fn default() -> Self {
        Self { trim: true, lstrip: false }
    }
}

/// Parses normalised source.
pub(super) fn parse(source: &str, blocks: Blocks) -> Result<machinery::ast::Stmt<'_>, Stop> {
    machinery::parse(source, "template", syntax(blocks)?).map_err(|error| {
        let offset = error.range().map_or(source.len(), |range| range.start);
        let message = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        Stop::new(Code::Syntax, message, "").at(offset)
    })
}

/// Jinja2's syntax.
pub(super) fn syntax(blocks: Blocks) -> Result<SyntaxConfig, Stop> {
    let built = SyntaxConfig::builder().trim_blocks(blocks.trim).lstrip_blocks(blocks.lstrip).build();
    built.map_err(|error| Stop::new(Code::Syntax, error.to_string(), ""))
}

/// Jinja2 drops the newline at the end of the source, and Ansible adds what is missing to as many as the source had.
pub(super) fn with_newlines_of(source: &str, mut rendered: String) -> String {
    let count = |text: &str| text.len() - text.trim_end_matches('\n').len();
    let missing = count(source).saturating_sub(count(&rendered));
    rendered.extend(std::iter::repeat_n('\n', missing));
    rendered
}

/// Takes off a first line `#jinja2: …`; gives the rest, the length of the line in bytes, and what it sets.
fn without_override(source: &str) -> Result<(&str, usize, Blocks), Stop> {
    let mut blocks = Blocks::default();
    let Some(rest) = source.strip_prefix("#jinja2:") else { return Ok((source, 0, blocks)) };
    let refused = |what: &str| {
        let help = "known are `trim_blocks` and `lstrip_blocks`, each `True` or `False`";
        Stop::new(Code::NotNative, format!("the first line sets {what} for Jinja2"), help).at(0)
    };
    let (line, body) = rest.split_once('\n').ok_or_else(|| refused("something"))?;
    for pair in line.split(',') {
        match pair.split_once(':').map(|(key, value)| (key.trim(), value.trim())) {
            Some(("trim_blocks", value @ ("True" | "False"))) => blocks.trim = value == "True",
            Some(("lstrip_blocks", value @ ("True" | "False"))) => blocks.lstrip = value == "True",
            Some(("keep_trailing_newline", "False")) => {}
            _ => return Err(refused(&format!("`{}`", pair.trim()))),
        }
    }
    Ok((body, source.len() - body.len(), blocks))
}
