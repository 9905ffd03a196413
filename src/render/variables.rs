//! What templates can name, and which of several values of one name counts.

use std::collections::BTreeMap;

use crate::domain::value::Value;

/// The variables of a bundle's templates.
///
/// Of several values of a name counts, from the weakest: the defaults, what the build says of itself, the bundle's
/// vars file, what somebody gave by hand, and at last the image's id, which nothing overrides.
#[derive(Clone, Debug, PartialEq)]
pub struct Variables {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    rank: Rank,
    /// The value.
    pub(super) value: Value,
    /// Whether texts in it are templates themselves.
    pub(super) lazy: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Default,
    Build,
    File,
    Given,
    Fixed,
}

/// A moment of a build, for `ansible_date_time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The year, such as 2026.
    pub year: i16,
    /// The month, from 1.
    pub month: u8,
    /// The day of the month, from 1.
    pub day: u8,
    /// The hour, from 0.
    pub hour: u8,
    /// The minute.
    pub minute: u8,
    /// The second.
    pub second: u8,
}

/// The parts of `ansible_date_time` that a [`Stamp`] gives.
pub(super) const STAMPS: [&str; 8] = ["date", "time", "year", "month", "day", "hour", "minute", "second"];

impl Stamp {
    fn value(self) -> Value {
        let two = |number: u8| format!("{number:02}");
        let (year, month, day) = (self.year.to_string(), two(self.month), two(self.day));
        let (hour, minute, second) = (two(self.hour), two(self.minute), two(self.second));
        let texts = [
            format!("{year}-{month}-{day}"),
            format!("{hour}:{minute}:{second}"),
            year,
            month,
            day,
            hour,
            minute,
            second,
        ];
        Value::Map(STAMPS.iter().map(|name| (*name).to_owned()).zip(texts.map(Value::String)).collect())
    }
}

impl Variables {
    /// The defaults of today's factory, `ansible_managed`, and the id of the image that the results are for.
    pub fn new(image_id: &str) -> Self {
        let target = "{{ bundle.name }}-{{ ansible_date_time.date }}{{ ansible_date_time.hour }}\
                      {{ ansible_date_time.minute }}";
        let defaults = [
            ("final_glance_options", "--min-disk 20"),
            ("vm_flavor", "16"),
            ("packer_file", "build.packer.json"),
            ("bundle_target_name", target),
        ];
        let mut variables = Self { entries: BTreeMap::new() };
        for (name, text) in defaults {
            variables.set(name, Rank::Default, Value::from(text), true);
        }
        variables.set("result_img_id", Rank::Fixed, Value::from(image_id), false);
        variables.managed("Ansible managed")
    }

    /// The text of `ansible_managed`, which nothing overrides.
    #[must_use]
    pub fn managed(mut self, text: &str) -> Self {
        self.set("ansible_managed", Rank::Fixed, Value::from(text), false);
        self
    }

    /// The moment of the build, as `ansible_date_time`.
    #[must_use]
    pub fn stamp(mut self, stamp: Stamp) -> Self {
        self.set("ansible_date_time", Rank::Build, stamp.value(), false);
        self
    }

    /// The name under which the build publishes its image, as `bundle_target_name`.
    #[must_use]
    pub fn target_name(mut self, name: &str) -> Self {
        self.set("bundle_target_name", Rank::Build, Value::from(name), false);
        self
    }

    /// The bundle's vars file: a map, whose texts may be templates. A name replaces a default as a whole.
    #[must_use]
    pub fn file(mut self, vars: &Value) -> Self {
        if let Value::Map(entries) = vars {
            for (name, value) in entries {
                self.set(name, Rank::File, value.clone(), true);
            }
        }
        self
    }

    /// A variable that somebody gave by hand (`--var`): text as it stands, never a template.
    #[must_use]
    pub fn given(mut self, name: &str, text: &str) -> Self {
        self.set(name, Rank::Given, Value::from(text), false);
        self
    }

    fn set(&mut self, name: &str, rank: Rank, value: Value, lazy: bool) {
        if self.entries.get(name).is_none_or(|entry| entry.rank <= rank) {
            self.entries.insert(name.to_owned(), Entry { rank, value, lazy });
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The id of the image that the results are for.
    pub(super) fn image_id(&self) -> &str {
        self.entries.get("result_img_id").and_then(|entry| entry.value.as_str()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_id_is_overridden_by_nothing_and_the_file_by_hand() {
        let file = Value::Map(vec![
            ("vm_flavor".into(), Value::from("21")),
            ("packer_file".into(), Value::from("own.json")),
            ("result_img_id".into(), Value::from("theirs")),
        ]);
        let variables = Variables::new("ours").given("packer_file", "{{ given }}").file(&file);
        assert_eq!(variables.image_id(), "ours");
        assert_eq!(
            variables.get("vm_flavor").map(|entry| (&entry.value, entry.lazy)),
            Some((&Value::from("21"), true))
        );
        let given = variables.get("packer_file").map(|entry| (&entry.value, entry.lazy));
        assert_eq!(given, Some((&Value::from("{{ given }}"), false)));
    }
}
