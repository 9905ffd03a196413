//! Which variables a template may use, so that a change of any other does not count for its result.
//!
//! Rather too many than too few: every word between braces that is the name of a variable, and in handlebars every word
//! of the file.

use std::collections::BTreeSet;

use minijinja::machinery::{self, Token};

use super::{Engine, Variables, jinja};
use crate::domain::value::Value;

/// Adds the variables that a template may use, those that it uses through the texts of others included.
pub(super) fn collect(content: &[u8], engine: Engine, variables: &Variables, into: &mut BTreeSet<String>) {
    let source = jinja::normalised(&String::from_utf8_lossy(content));
    let mut open = match engine {
        Engine::Native => words_of_jinja(&source),
        Engine::Handlebars => all_words(&source),
    };
    while let Some(name) = open.pop_first() {
        let Some(entry) = variables.get(&name) else { continue };
        if into.insert(name) && entry.lazy {
            words_of_value(&entry.value, &mut open);
        }
    }
}

fn words_of_value(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => into.extend(words_of_jinja(&jinja::normalised(text))),
        Value::List(items) => items.iter().for_each(|item| words_of_value(item, into)),
        Value::Map(entries) => entries.iter().for_each(|(_, item)| words_of_value(item, into)),
        _ => {}
    }
}

fn words_of_jinja(source: &str) -> BTreeSet<String> {
    let Ok(syntax) = jinja::syntax() else { return all_words(source) };
    let word = |token| match token {
        Ok((Token::Ident(name), _)) => Some(Ok(name.to_owned())),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    };
    let words: Result<BTreeSet<String>, _> = machinery::tokenize(source, false, syntax).filter_map(word).collect();
    words.unwrap_or_else(|_| all_words(source))
}

fn all_words(source: &str) -> BTreeSet<String> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    source.split(|character| !is_word(character)).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}
