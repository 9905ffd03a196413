//! `{{ … }}` in pipelines: dotted names over `bundle`, `vars`, `repository` and `build`, strict about what is missing.
//!
//! A pipeline is bound to a bundle before anything runs, and only `build.…` is not known then: it stays in the text and
//! is filled in by the build. That is why a fingerprint sees `build.stamp` as text, not as a value.

use std::fmt;
use std::ops::Range;

use super::utc;
use super::value::Value;

/// The names an expression may begin with.
pub const ROOTS: [&str; 4] = ["bundle", "vars", "repository", "build"];

/// What is known of a build, below `build.` in expressions.
pub const BUILD_NAMES: [&str; 10] =
    ["number", "stamp", "date", "time", "commit", "branch", "path", "directory", "timestamp", "uuid"];

/// A text with expressions in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Name { path: Vec<String>, span: Range<usize> },
}

/// What is wrong with an expression, and where in its text (bytes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpressionError {
    /// Where in the text the expression stands.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ExpressionError {}

impl Text {
    /// A text without expressions, whatever it holds.
    pub fn literal(text: impl Into<String>) -> Self {
        Self { pieces: vec![Piece::Literal(text.into())] }
    }

    /// Reads a text and the expressions in it.
    ///
    /// # Errors
    /// An unclosed `{{`, something other than a dotted name in it, or a name that can't exist.
    pub fn parse(source: &str) -> Result<Self, ExpressionError> {
        let mut pieces = Vec::new();
        let mut at = 0;
        while let Some(open) = source[at..].find("{{").map(|found| at + found) {
            let Some(close) = source[open..].find("}}").map(|found| open + found) else {
                return Err(ExpressionError {
                    span: open..source.len(),
                    message: "`{{` is never closed".to_owned(),
                    help: "close the expression with `}}`".to_owned(),
                });
            };
            if open > at {
                pieces.push(Piece::Literal(source[at..open].to_owned()));
            }
            let span = open..close + 2;
            pieces.push(Piece::Name { path: name_of(&source[open + 2..close], &span)?, span });
            at = close + 2;
        }
        if at < source.len() || pieces.is_empty() {
            pieces.push(Piece::Literal(source[at..].to_owned()));
        }
        Ok(Self { pieces })
    }

    /// One text after the other.
    pub fn concat(texts: impl IntoIterator<Item = Self>) -> Self {
        let mut pieces: Vec<Piece> = Vec::new();
        for piece in texts.into_iter().flat_map(|text| text.pieces) {
            match (pieces.last_mut(), piece) {
                (Some(Piece::Literal(before)), Piece::Literal(text)) => before.push_str(&text),
                (_, piece) => pieces.push(piece),
            }
        }
        if pieces.is_empty() {
            return Self::literal("");
        }
        Self { pieces }
    }

    /// The text behind its first bytes, which must be plain characters; where they are not, all of it.
    #[must_use]
    pub fn after(&self, bytes: usize) -> Self {
        let mut rest = self.clone();
        if let Some(Piece::Literal(text)) = rest.pieces.first_mut()
            && text.is_char_boundary(bytes)
        {
            text.drain(..bytes);
        }
        rest
    }

    /// The dotted names in it, in order.
    pub fn names(&self) -> impl Iterator<Item = &[String]> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Name { path, .. } => Some(path.as_slice()),
            Piece::Literal(_) => None,
        })
    }

    /// Whether any expression is left in it.
    pub fn is_open(&self) -> bool {
        self.names().next().is_some()
    }

    /// Fills in every name that the scope has, and leaves `build.…` where the scope has no `build`.
    ///
    /// # Errors
    /// A name that the scope does not have.
    pub fn bind(&self, scope: &Value) -> Result<Bound, ExpressionError> {
        let late = scope.get("build").is_none();
        let is_late = |path: &[String]| late && path[0] == "build";
        if let [Piece::Name { path, span }] = self.pieces.as_slice()
            && !is_late(path)
        {
            return look_up(scope, path, span).cloned().map(Bound::Value);
        }
        let mut pieces: Vec<Piece> = Vec::new();
        for piece in &self.pieces {
            let text = match piece {
                Piece::Name { path, .. } if is_late(path) => {
                    pieces.push(piece.clone());
                    continue;
                }
                Piece::Name { path, span } => in_text(look_up(scope, path, span)?, path, span)?,
                Piece::Literal(text) => text.clone(),
            };
            match pieces.last_mut() {
                Some(Piece::Literal(before)) => before.push_str(&text),
                _ => pieces.push(Piece::Literal(text)),
            }
        }
        match pieces.as_slice() {
            [Piece::Literal(text)] => Ok(Bound::Value(Value::String(text.clone()))),
            _ => Ok(Bound::Late(Self { pieces })),
        }
    }

    /// The text with every name filled in.
    ///
    /// # Errors
    /// A name that the scope does not have.
    pub fn fill(&self, scope: &Value) -> Result<String, ExpressionError> {
        match self.bind(scope)? {
            Bound::Value(value) => Ok(value.to_string()),
            Bound::Late(text) => Ok(text.to_string()),
        }
    }

    /// The text with `build.…` taken out: what of a name does not change from build to build.
    pub fn without_build(&self) -> String {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Literal(text) => text.as_str(),
                Piece::Name { .. } => "\u{1}",
            })
            .collect()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| match piece {
            Piece::Literal(text) => f.write_str(text),
            Piece::Name { path, .. } => write!(f, "{{{{ {} }}}}", path.join(".")),
        })
    }
}

/// What became of a text when its names were filled in.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// Everything is known. A text that is one expression keeps its value's type.
    Value(Value),
    /// `build.…` is still in it.
    Late(Text),
}

fn name_of(inside: &str, span: &Range<usize>) -> Result<Vec<String>, ExpressionError> {
    let error = |message: String, help: String| ExpressionError { span: span.clone(), message, help };
    let name = inside.trim();
    let path: Vec<String> = name.split('.').map(str::to_owned).collect();
    let plain = |part: &String| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    if !path.iter().all(plain) {
        return Err(error(
            format!("`{name}` is not a name"),
            "an expression is a dotted name, such as `{{ bundle.name }}`; filters and operators are not known here"
                .into(),
        ));
    }
    if !ROOTS.contains(&path[0].as_str()) {
        return Err(error(
            format!("nothing is called `{}`", path[0]),
            format!("an expression begins with {}", ROOTS.join(", ")),
        ));
    }
    if path[0] == "build" && (path.len() != 2 || !is_of_build(&path[1])) {
        return Err(error(
            format!("a build has no `{}`", path[1..].join(".")),
            format!("of a build are known: {}", BUILD_NAMES.join(", ")),
        ));
    }
    Ok(path)
}

fn is_of_build(name: &str) -> bool {
    BUILD_NAMES.contains(&name) || utc::is_part(name)
}

/// A value as a part of a text, which lists, maps and nothing are not.
fn in_text(value: &Value, path: &[String], span: &Range<usize>) -> Result<String, ExpressionError> {
    match value {
        Value::List(_) | Value::Map(_) | Value::Null => Err(ExpressionError {
            span: span.clone(),
            message: format!("`{}` is {}, and stands inside of a text here", path.join("."), value.kind()),
            help: "give it a text or a number".to_owned(),
        }),
        scalar => Ok(scalar.to_string()),
    }
}

fn look_up<'v>(scope: &'v Value, path: &[String], span: &Range<usize>) -> Result<&'v Value, ExpressionError> {
    let mut value = scope;
    for (depth, part) in path.iter().enumerate() {
        let next = match value {
            Value::List(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
            other => other.get(part),
        };
        value = next.ok_or_else(|| ExpressionError {
            span: span.clone(),
            message: format!("`{}` is not defined", path[..=depth].join(".")),
            help: known_names(value, &path[..depth]),
        })?;
    }
    Ok(value)
}

fn known_names(value: &Value, path: &[String]) -> String {
    match value {
        Value::Map(entries) if !entries.is_empty() => {
            let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
            format!("`{}` has: {}", path.join("."), names.join(", "))
        }
        other => format!("`{}` is {}", path.join("."), other.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Value {
        let bundle = Value::Map(vec![
            ("name".into(), Value::from("web")),
            ("properties".into(), Value::Map(vec![("img_os".into(), Value::from("Debian"))])),
        ]);
        Value::Map(vec![("bundle".into(), bundle)])
    }

    fn bind(source: &str) -> Result<Bound, ExpressionError> {
        Text::parse(source)?.bind(&scope())
    }

    #[test]
    fn a_text_that_is_one_expression_keeps_its_type() {
        assert!(matches!(bind("{{ bundle.properties }}"), Ok(Bound::Value(Value::Map(_)))));
        assert_eq!(bind("x-{{bundle.name}}"), Ok(Bound::Value(Value::from("x-web"))));
        assert_eq!(bind("plain"), Ok(Bound::Value(Value::from("plain"))));
        let error = bind("x-{{ bundle.properties }}").expect_err("no text");
        assert_eq!(error.message, "`bundle.properties` is a map, and stands inside of a text here");
    }

    #[test]
    fn build_waits_for_the_build() {
        let Ok(Bound::Late(text)) = bind("{{ bundle.name }}-{{ build.stamp }}") else { panic!("late") };
        assert_eq!(text.to_string(), "web-{{ build.stamp }}");
        assert_eq!(text.without_build(), "web-\u{1}");
        let build = Value::Map(vec![("stamp".into(), Value::from("2026-11-231402"))]);
        let scope = Value::Map(vec![("build".into(), build)]);
        assert_eq!(text.fill(&scope), Ok("web-2026-11-231402".to_owned()));
    }

    #[test]
    fn what_is_missing_is_named_with_what_is_there() {
        let error = bind("{{ bundle.nmae }}").expect_err("strict");
        assert_eq!(error.message, "`bundle.nmae` is not defined");
        assert_eq!(error.help, "`bundle` has: name, properties");
        assert_eq!(bind("{{ bundle.name | upper }}").expect_err("no filters").span, 0..25);
        assert!(bind("{{ build.tsamp }}").is_err());
        assert!(bind("{{ nothing.here }}").is_err());
        assert!(bind("{{ bundle.name").is_err());
    }
}
