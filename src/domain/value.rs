//! Values as YAML and templates know them, without a format: what vars hold and what expressions give.

use std::fmt::{self, Write as _};

/// A value of a vars file or an expression. Maps keep the order in which they were written.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: `null`, `~`, an empty value.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    String(String),
    /// A list.
    List(Vec<Self>),
    /// A map with keys of text.
    Map(Vec<(String, Self)>),
}

impl Value {
    /// The value below a key; `None` where this is no map or the key is missing.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text, where this is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// What kind of value this is, as a message would say it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::String(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    /// One text per value, for fingerprints: keys of maps are sorted, since their order changes nothing.
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        self.write_canonical(&mut out);
        out
    }

    fn write_canonical(&self, out: &mut String) {
        match self {
            Self::List(items) => {
                out.push('[');
                for item in items {
                    item.write_canonical(out);
                    out.push(',');
                }
                out.push(']');
            }
            Self::Map(entries) => {
                let mut sorted: Vec<_> = entries.iter().collect();
                sorted.sort_by(|a, b| a.0.cmp(&b.0));
                out.push('{');
                for (key, value) in sorted {
                    let _ = write!(out, "{key:?}:");
                    value.write_canonical(out);
                    out.push(',');
                }
                out.push('}');
            }
            Self::String(text) => drop(write!(out, "{text:?}")),
            scalar => drop(write!(out, "{scalar}")),
        }
    }
}

impl fmt::Display for Value {
    /// As the value stands inside a text: scalars bare, lists and maps in flow style.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            // `1.0` keeps its point: it is another value than `1`.
            Self::Float(value) => write!(f, "{value:?}"),
            Self::String(text) => f.write_str(text),
            Self::List(_) | Self::Map(_) => f.write_str(&self.canonical()),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_ignores_the_order_of_keys_only() {
        let map = |pairs: &[(&str, i64)]| {
            Value::Map(pairs.iter().map(|(key, value)| ((*key).to_owned(), Value::Int(*value))).collect())
        };
        assert_eq!(map(&[("a", 1), ("b", 2)]).canonical(), map(&[("b", 2), ("a", 1)]).canonical());
        assert_ne!(Value::from("1").canonical(), Value::Int(1).canonical());
        assert_ne!(Value::Null.canonical(), Value::from("").canonical());
        assert_ne!(Value::Float(1.0).canonical(), Value::Int(1).canonical());
    }
}
