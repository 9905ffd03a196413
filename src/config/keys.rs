//! Every key there is: the one table that reading, suggestions and the example are checked against.

/// What the value of a key looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// An absolute path.
    Path,
    Flag,
    /// A whole number from 1 on.
    Count,
    /// Bytes: `2GiB`.
    Size,
    /// A time: `90m`.
    Time,
    Texts,
    /// Absolute paths.
    Paths,
}

/// How a section is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Without a table, at the top of the file.
    Top,
    /// `[limits]`
    Table,
    /// `[[repository]]`
    List,
    /// `[driver.NAME]`
    Named,
}

/// The keys of one kind of table.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) form: Form,
    pub(super) keys: &'static [(&'static str, Kind)],
}

pub(super) const SECTIONS: &[Section] = &[
    Section {
        name: "",
        form: Form::Top,
        keys: &[("state_directory", Kind::Path), ("base_directories", Kind::Paths), ("default_driver", Kind::Text)],
    },
    Section { name: "server", form: Form::Table, keys: &[("socket", Kind::Path), ("group", Kind::Text)] },
    Section {
        name: "repository",
        form: Form::List,
        keys: &[
            ("name", Kind::Text),
            ("url", Kind::Text),
            ("receive", Kind::Flag),
            ("branches", Kind::Texts),
            ("poll", Kind::Time),
            ("network_full", Kind::Texts),
        ],
    },
    Section {
        name: "driver",
        form: Form::Named,
        keys: &[
            ("kind", Kind::Text),
            ("accelerator", Kind::Text),
            ("host_key", Kind::Text),
            ("cpus", Kind::Count),
            ("memory", Kind::Size),
            ("copy_to", Kind::Texts),
            ("clouds", Kind::Path),
            ("cloud", Kind::Text),
            ("credential", Kind::Text),
            ("region", Kind::Text),
            ("interface", Kind::Text),
            ("ca", Kind::Path),
            ("identity_endpoint", Kind::Text),
            ("compute_endpoint", Kind::Text),
            ("image_endpoint", Kind::Text),
            ("network_endpoint", Kind::Text),
            ("orchestration_endpoint", Kind::Text),
            ("networks", Kind::Texts),
            ("floating_network", Kind::Text),
            ("security_groups", Kind::Texts),
            ("flavor", Kind::Text),
            ("availability_zone", Kind::Text),
            ("ssh_port", Kind::Count),
            ("config_drive", Kind::Flag),
            ("visibility", Kind::Text),
        ],
    },
    Section {
        name: "base",
        form: Form::Named,
        keys: &[
            ("path", Kind::Path),
            ("url", Kind::Text),
            ("sha256", Kind::Text),
            ("format", Kind::Text),
            ("image", Kind::Text),
        ],
    },
    Section {
        name: "limits",
        form: Form::Table,
        keys: &[
            ("builds", Kind::Count),
            ("memory", Kind::Size),
            ("disk_free", Kind::Size),
            ("log", Kind::Size),
            ("push", Kind::Size),
        ],
    },
    Section { name: "retention", form: Form::Table, keys: &[("keep", Kind::Count), ("age", Kind::Time)] },
    Section { name: "secrets", form: Form::Named, keys: &[("file", Kind::Path), ("credential", Kind::Text)] },
    Section { name: "sandbox", form: Form::Table, keys: &[("required", Kind::Flag)] },
    Section { name: "download", form: Form::Table, keys: &[("allow_private", Kind::Texts)] },
];

/// The word that was most likely meant.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // One slip in three letters is a slip; more is another word.
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}
