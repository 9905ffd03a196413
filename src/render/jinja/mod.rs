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

mod evaluate;
mod expression;
mod filters;
mod foreign;
mod json;
mod lazy;
mod methods;
mod operators;
mod recognise;
mod stop;
mod value;

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
    let (source, removed) = without_override(text)?;
    let mut evaluator = Evaluator::new(variables, budget);
    let rendered = evaluator.template(source, recognise::Kind::File).map_err(|stop| stop.moved(removed))?;
    Ok(with_newlines_of(text, rendered.text))
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

/// Parses normalised source with the settings of Ansible's template module.
pub(super) fn parse(source: &str) -> Result<machinery::ast::Stmt<'_>, Stop> {
    machinery::parse(source, "template", syntax()?).map_err(|error| {
        let offset = error.range().map_or(source.len(), |range| range.start);
        let message = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        Stop::new(Code::Syntax, message, "").at(offset)
    })
}

/// The syntax of the template module: Jinja2's, with `trim_blocks`.
pub(super) fn syntax() -> Result<SyntaxConfig, Stop> {
    let built = SyntaxConfig::builder().trim_blocks(true).build();
    built.map_err(|error| Stop::new(Code::Syntax, error.to_string(), ""))
}

/// Jinja2 drops the newline at the end of the source, and Ansible adds what is missing to as many as the source had.
pub(super) fn with_newlines_of(source: &str, mut rendered: String) -> String {
    let count = |text: &str| text.len() - text.trim_end_matches('\n').len();
    let missing = count(source).saturating_sub(count(&rendered));
    rendered.extend(std::iter::repeat_n('\n', missing));
    rendered
}

/// Takes off a first line `#jinja2: …` that says what is so anyway; also gives its length in bytes.
fn without_override(source: &str) -> Result<(&str, usize), Stop> {
    const DEFAULTS: [(&str, &str); 3] =
        [("trim_blocks", "True"), ("lstrip_blocks", "False"), ("keep_trailing_newline", "False")];
    let Some(rest) = source.strip_prefix("#jinja2:") else { return Ok((source, 0)) };
    let refused = |what: &str| {
        let help = "settings that are not the defaults are not known here; leave the line out";
        Stop::new(Code::NotNative, format!("the first line sets {what} for Jinja2"), help).at(0)
    };
    let (line, body) = rest.split_once('\n').ok_or_else(|| refused("something"))?;
    for pair in line.split(',') {
        let setting = pair.split_once(':').map(|(key, value)| (key.trim(), value.trim()));
        if !setting.is_some_and(|setting| DEFAULTS.contains(&setting)) {
            return Err(refused(&format!("`{}`", pair.trim())));
        }
    }
    Ok((body, source.len() - body.len()))
}
