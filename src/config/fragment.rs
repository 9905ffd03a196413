//! Reading: from files to values by section and key, with the place of each. What a value means is not known here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{ConfigError, Fault, Place};
use super::keys::{Form, Kind, SECTIONS, Section, nearest};
use super::units;

/// The largest configuration file that is read: nobody writes more by hand.
const LARGEST: u64 = 1024 * 1024;

/// A value of the right kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Path(PathBuf),
    Flag(bool),
    Count(u32),
    Size(u64),
    Time(Duration),
    Texts(Vec<String>),
    Paths(Vec<PathBuf>),
}

/// One table: its values by key, each with its place.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// What the table is called in messages: `limits`, `driver.qemu`, `repository`.
    pub(super) title: String,
    /// The name in `[driver.NAME]`; empty elsewhere.
    pub(super) name: String,
    /// Where the table begins.
    pub(super) place: Place,
    /// Its values.
    pub(super) values: BTreeMap<&'static str, (Value, Place)>,
}

/// The tables of all files, by section, and the faults found until now.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) groups: BTreeMap<&'static str, Vec<Group>>,
    pub(super) faults: Vec<Fault>,
}

/// Reads a file and its drop-ins, `FILE.d/*.toml`. A file that is not required may be missing, its drop-ins too.
pub(super) fn read_all(path: &Path, required: bool) -> Result<(Merged, Vec<PathBuf>), ConfigError> {
    let mut files = Vec::new();
    if required || path.exists() {
        files.push(path.to_owned());
    }
    files.extend(drop_ins(path)?);
    let mut merged = Merged::default();
    for file in &files {
        let text = text(file)?;
        Reader::new(file, &text, &mut merged).read();
    }
    Ok((merged, files))
}

fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut directory = path.as_os_str().to_owned();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    let failed = |source| ConfigError::read(&directory, source);
    let entries = match directory.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed));
    let mut files = paths.collect::<Result<Vec<_>, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    Ok(files)
}

fn text(file: &Path) -> Result<String, ConfigError> {
    let mut text = String::new();
    let read = File::open(file).and_then(|open| open.take(LARGEST + 1).read_to_string(&mut text));
    match read {
        Ok(_) if text.len() as u64 > LARGEST => {
            let source = io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB");
            Err(ConfigError::read(file, source))
        }
        Ok(_) => Ok(text),
        Err(source) => Err(ConfigError::read(file, source)),
    }
}

struct Reader<'r> {
    file: Arc<Path>,
    text: &'r str,
    merged: &'r mut Merged,
}

impl<'r> Reader<'r> {
    fn new(file: &Path, text: &'r str, merged: &'r mut Merged) -> Self {
        Self { file: file.into(), text, merged }
    }

    fn place(&self, at: usize) -> Place {
        let before = &self.text[..self.text.floor_char_boundary(at)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Place { file: Arc::clone(&self.file), line, column }
    }

    fn fault(&mut self, at: usize, key: &str, message: impl Into<String>, help: impl Into<String>) {
        let fault = Fault::new(&self.place(at), key, message, help);
        self.merged.faults.push(fault);
    }

    /// A file that is no TOML is not looked into: what is left of it after recovery would only raise more faults.
    fn read(&mut self) {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        if errors.is_empty() {
            self.top(table.get_ref());
            return;
        }
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            self.fault(at, "", format!("this is not TOML: {}", error.message()), "");
        }
    }

    fn top(&mut self, table: &DeTable<'_>) {
        // In the order in which they are written, for the sake of faults and of repositories.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name: &str = key.get_ref();
            let at = key.span().start;
            match SECTIONS.iter().find(|section| section.form != Form::Top && section.name == name) {
                Some(section) => self.section(section, at, value),
                None => self.top_key(name, at, value),
            }
        }
    }

    fn top_key(&mut self, name: &str, at: usize, value: &Spanned<DeValue<'_>>) {
        let Some(top) = SECTIONS.iter().find(|section| section.form == Form::Top) else { return };
        let Some((key, kind)) = top.keys.iter().find(|(key, _)| *key == name) else {
            let sections = SECTIONS.iter().filter(|section| section.form != Form::Top).map(|section| section.name);
            let known: Vec<&str> = top.keys.iter().map(|(key, _)| *key).chain(sections).collect();
            self.unknown(at, name, name, &known);
            return;
        };
        if let Some(value) = self.value(name, *kind, value) {
            let place = self.place(at);
            self.group(top, "", at).values.insert(key, (value, place));
        }
    }

    fn section(&mut self, section: &'static Section, at: usize, value: &Spanned<DeValue<'_>>) {
        let name = section.name;
        match (section.form, value.get_ref()) {
            (Form::Table, DeValue::Table(table)) => self.table(section, "", at, table),
            (Form::List, DeValue::Array(list)) => {
                for item in list {
                    match item.get_ref() {
                        DeValue::Table(table) => self.table(section, "", item.span().start, table),
                        _ => self.fault(item.span().start, name, "is no table", format!("write [[{name}]]")),
                    }
                }
            }
            (Form::Named, DeValue::Table(tables)) => {
                for (key, value) in tables {
                    let (at, title) = (key.span().start, format!("{name}.{}", key.get_ref()));
                    match value.get_ref() {
                        DeValue::Table(table) => self.table(section, key.get_ref(), at, table),
                        _ => self.fault(at, &title, "is no table", format!("write [{name}.NAME] with its keys below")),
                    }
                }
            }
            (form, _) => {
                let right = match form {
                    Form::List => format!("write [[{name}]], once for each"),
                    Form::Named => format!("write [{name}.NAME] with its keys below"),
                    Form::Table | Form::Top => format!("write [{name}] with its keys below"),
                };
                self.fault(at, name, "is not written as it should be", right);
            }
        }
    }

    fn table(&mut self, section: &'static Section, name: &str, at: usize, table: &DeTable<'_>) {
        let mut values = BTreeMap::new();
        let title = title(section, name);
        for (key, value) in table {
            let (word, at): (&str, usize) = (key.get_ref(), key.span().start);
            let full = format!("{title}.{word}");
            match section.keys.iter().find(|(known, _)| *known == word) {
                None => {
                    let known: Vec<&str> = section.keys.iter().map(|(key, _)| *key).collect();
                    self.unknown(at, &full, word, &known);
                }
                Some((known, kind)) => {
                    let read = self.value(&full, *kind, value);
                    values.extend(read.map(|value| (*known, (value, self.place(at)))));
                }
            }
        }
        self.group(section, name, at).values.extend(values);
    }

    /// The table of that name; each `[[repository]]` is one of its own.
    fn group(&mut self, section: &'static Section, name: &str, at: usize) -> &mut Group {
        let place = self.place(at);
        let groups = self.merged.groups.entry(section.name).or_default();
        let found = groups.iter().position(|group| group.name == name && section.form != Form::List);
        let index = found.unwrap_or_else(|| {
            let group = Group { title: title(section, name), name: name.to_owned(), place, values: BTreeMap::new() };
            groups.push(group);
            groups.len() - 1
        });
        &mut groups[index]
    }

    fn unknown(&mut self, at: usize, full: &str, word: &str, known: &[&str]) {
        let help = match nearest(word, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("there are: {}", known.join(", ")),
        };
        self.fault(at, full, "there is no such key", help);
    }

    fn value(&mut self, key: &str, kind: Kind, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        match convert(kind, value.get_ref()) {
            Some(value) => Some(value),
            None => {
                let found = match value.get_ref() {
                    DeValue::String(text) => format!("{text:?} does not fit"),
                    other => format!("{} {} does not fit", article(other.type_str()), other.type_str()),
                };
                self.fault(value.span().start, key, found, right(kind));
                None
            }
        }
    }
}

fn title(section: &Section, name: &str) -> String {
    if name.is_empty() { section.name.to_owned() } else { format!("{}.{name}", section.name) }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'i']) { "an" } else { "a" }
}

fn convert(kind: Kind, value: &DeValue<'_>) -> Option<Value> {
    let texts = || {
        let items = value.as_array()?.iter();
        items.map(|item| item.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    };
    match kind {
        Kind::Text => value.as_str().filter(|text| !text.is_empty()).map(|text| Value::Text(text.to_owned())),
        Kind::Path => value.as_str().and_then(absolute).map(Value::Path),
        Kind::Flag => value.as_bool().map(Value::Flag),
        Kind::Count => {
            let number = value.as_integer()?;
            let number = u32::from_str_radix(number.as_str(), number.radix()).ok()?;
            (number > 0).then_some(Value::Count(number))
        }
        Kind::Size => value.as_str().and_then(units::size).map(Value::Size),
        Kind::Time => value.as_str().and_then(units::time).map(Value::Time),
        Kind::Texts => texts().map(Value::Texts),
        Kind::Paths => texts()?.iter().map(|text| absolute(text)).collect::<Option<_>>().map(Value::Paths),
    }
}

fn absolute(text: &str) -> Option<PathBuf> {
    text.starts_with('/').then(|| PathBuf::from(text))
}

fn right(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "write a text in quotes",
        Kind::Path => "write an absolute path in quotes",
        Kind::Flag => "write true or false",
        Kind::Count => "write a whole number from 1 on",
        Kind::Size => "write a size as in \"512MiB\" or \"2GiB\"",
        Kind::Time => "write a time as in \"90m\", \"1h30m\" or \"7d\"",
        Kind::Texts => "write a list of texts: [\"a\", \"b\"]",
        Kind::Paths => "write a list of absolute paths: [\"/srv/images\"]",
    }
}
