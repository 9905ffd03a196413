//! Every key of a pipeline, once: the reader, the fingerprints and the JSON Schema are made from these tables.

use crate::domain::pipeline::Stage;

/// One key of a map in a pipeline.
#[derive(Debug)]
pub(super) struct Field {
    /// The key.
    pub(super) name: &'static str,
    /// What it takes.
    pub(super) shape: Shape,
    /// Whether it must be there.
    pub(super) required: bool,
    /// Whether a stage's result depends on it, so that it counts for its fingerprint.
    pub(super) counts: bool,
    /// One sentence for the schema.
    pub(super) about: &'static str,
}

/// What a key takes.
#[derive(Debug)]
pub(super) enum Shape {
    /// The number 1.
    Version,
    /// Any text.
    Text,
    /// A whole number within these bounds.
    Count(i64, i64),
    /// true or false.
    Bool,
    /// A time such as `1h30m`.
    Duration,
    /// An amount of bytes such as `2GiB`.
    Size,
    /// Permission bits such as `0644`.
    Mode,
    /// A SHA-256 sum.
    Sum,
    /// A path below the bundle, or below the repository's root with a leading `/`.
    Path,
    /// A path below the bundle only.
    BundlePath,
    /// A path below the repository's root, with or without a leading `/`.
    RootPath,
    /// A glob of paths.
    Glob,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of these.
    List(&'static Self),
    /// A map of texts, whose keys are free.
    Texts,
    /// A map with these keys.
    Record(&'static [Field]),
    /// The same, or a text that stands for its first key.
    Short(&'static [Field]),
    /// A text, or one of these maps: known apart by the first key of each.
    OneOf(&'static [&'static [Field]]),
    /// The stages.
    Stages,
    /// Steps.
    Steps,
    /// Steps that change a disk before anything runs on it: [`ACTIONS`] and [`STEP`] without [`NOT_IN_CHANGES`].
    Changes,
}

impl Field {
    const fn new(name: &'static str, shape: Shape, about: &'static str) -> Self {
        Self { name, shape, required: false, counts: true, about }
    }

    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// The result does not depend on it.
    const fn free(mut self) -> Self {
        self.counts = false;
        self
    }
}

const FORMAT: Shape = Shape::Word(&["qcow2", "raw"]);

/// The keys of a pipeline file.
pub(super) const PIPELINE: &[Field] = &[
    Field::new("version", Shape::Version, "The version of this format: 1.").required().free(),
    Field::new(
        "bundles",
        Shape::List(&Shape::Glob),
        "Globs of the directories that are bundles; `*` does not cross `/`.",
    )
    .required()
    .free(),
    Field::new("vars", Shape::BundlePath, "The vars file in each bundle; default build-vars.yml.").free(),
    Field::new("shared", Shape::List(&Shape::RootPath), "More paths that count, from the repository's root.").free(),
    Field::new(
        "on_shared_change",
        Shape::Word(&["mark", "canary", "rebuild"]),
        "What a change outside the bundles does; default canary.",
    )
    .free(),
    Field::new("timeout", Shape::Duration, "How long a whole build may take; default 90m.").free(),
    Field::new("stages", Shape::Stages, "The stages in their order: boot, provision, test, snapshot, render.")
        .required(),
    Field::new(
        "archive",
        Shape::List(&Shape::Text),
        "Globs of the files that are archived, besides reports and outputs.",
    )
    .free(),
];

/// The keys of each stage.
pub(super) const STAGES: &[(Stage, &[Field])] = &[
    (Stage::Boot, BOOT),
    (Stage::Provision, PROVISION),
    (Stage::Test, TEST),
    (Stage::Snapshot, SNAPSHOT),
    (Stage::Render, RENDER),
];

/// The keys of `boot`.
pub(super) const BOOT: &[Field] = &[
    Field::new(
        "image",
        Shape::OneOf(&[IMAGE_PATH, IMAGE_URL, IMAGE_RECIPE]),
        "What to boot from: an image's id or name, a bundle, an alias, a file, a download or a recipe.",
    )
    .required(),
    Field::new("user", Shape::Text, "The user that SSH logs in as; default cloud."),
    Field::new("cpus", Shape::Count(1, 256), "Virtual processors; default 1."),
    Field::new("memory", Shape::Size, "Memory; default 1GiB."),
    Field::new("disk", Shape::Size, "The disk's virtual size; default the base image's."),
    Field::new("host_key", Shape::Word(&["verified", "first-seen"]), "How the host key is known; default verified.")
        .free(),
    Field::new("timeout", Shape::Duration, "How long until SSH must answer; default 10m.").free(),
    Field::new(
        "changes",
        Shape::Changes,
        "What changes the disk before the machine's first boot: steps that run as root, with the disk's root at $ROOT.",
    ),
];

/// `boot.image` as a file of the host.
pub(super) const IMAGE_PATH: &[Field] = &[
    Field::new("path", Shape::Text, "An absolute path below a directory that the configuration allows.").required(),
    Field::new("format", FORMAT, "The format of the file; it is never guessed.").required(),
];

/// `boot.image` as a download.
pub(super) const IMAGE_URL: &[Field] = &[
    Field::new("url", Shape::Text, "Where to download it from: http or https.").required(),
    Field::new("sha256", Shape::Sum, "What its bytes must sum to.").required(),
    Field::new("format", FORMAT, "The format of the file; it is never guessed.").required(),
];

/// `boot.image` made here.
pub(super) const IMAGE_RECIPE: &[Field] =
    &[Field::new("mmdebstrap", Shape::Record(RECIPE), "A base image made from Debian's packages.").required()];

/// The keys of a recipe.
pub(super) const RECIPE: &[Field] = &[
    Field::new("suite", Shape::Text, "Debian's suite: bookworm.").required(),
    Field::new("packages", Shape::List(&Shape::Text), "Packages beside those that every image has."),
    Field::new("files", Shape::List(&Shape::Record(RECIPE_FILE)), "Files and links to lay into the image."),
];

/// The keys of a recipe's file.
pub(super) const RECIPE_FILE: &[Field] = &[
    Field::new("to", Shape::Text, "The absolute path in the image.").required(),
    Field::new("text", Shape::Text, "The file's content."),
    Field::new("mode", Shape::Mode, "The file's permission bits; default 0644."),
    Field::new("link", Shape::Text, "The target, where a symbolic link is wanted instead of a file."),
];

const STAGE_TIMEOUT: Field =
    Field::new("timeout", Shape::Duration, "How long the stage may take; default as long as the build may.").free();

/// The keys of `provision`.
pub(super) const PROVISION: &[Field] = &[
    Field::new("steps", Shape::Steps, "What to do, in order.").required(),
    Field::new("expire", Shape::Duration, "How long the result may be used; default for ever.").free(),
    STAGE_TIMEOUT,
];

/// The keys of `test`.
pub(super) const TEST: &[Field] = &[
    Field::new("steps", Shape::Steps, "What to do, in order.").required(),
    Field::new("ports", Shape::List(&Shape::Count(1, 65535)), "Ports of the guest that host steps reach."),
    Field::new("reports", Shape::List(&Shape::Text), "Globs of JUnit reports, below the bundle."),
    STAGE_TIMEOUT,
];

/// The keys of `snapshot`.
pub(super) const SNAPSHOT: &[Field] = &[
    Field::new("name", Shape::Text, "The image's name.").required(),
    Field::new("properties", Shape::Texts, "The image's properties."),
    Field::new("min_disk", Shape::Count(0, 1_000_000), "The smallest disk that the image fits on, in GiB; default 0."),
];

/// The keys of `render`.
pub(super) const RENDER: &[Field] = &[
    Field::new("templates", Shape::BundlePath, "The directory of the templates in the bundle; default output."),
    Field::new(
        "lint",
        Shape::Word(&["warn", "error"]),
        "What becomes of what looks wrong in an output: it is said, or it fails the stage; default warn.",
    ),
];

/// The keys of a step that say what it does; it has one of them.
pub(super) const ACTIONS: &[Field] = &[
    Field::new("shell", Shape::Text, "A command, run in the guest."),
    Field::new("script", Shape::Short(SCRIPT), "A script of the repository, run in the guest."),
    Field::new("upload", Shape::Record(UPLOAD), "A file or directory of the repository, copied into the guest."),
    Field::new("ansible-local", Shape::Short(PLAYBOOK), "A playbook, run by the guest's Ansible."),
    Field::new("ansible", Shape::Short(PLAYBOOK), "A playbook, run by the host's Ansible against the guest."),
    Field::new("pytest", Shape::Short(PYTEST), "Tests, run by the host's pytest against the guest."),
    Field::new("packer", Shape::Short(PACKER), "The provisioners of a packer template, each as a step of its own."),
];

/// The other keys of a step.
pub(super) const STEP: &[Field] = &[
    Field::new("name", Shape::Text, "What people call it.").free(),
    Field::new("env", Shape::Texts, "Variables of its environment."),
    Field::new("timeout", Shape::Duration, "How long it may take.").free(),
    Field::new("allow_failure", Shape::Bool, "Whether the build goes on when it fails; default false."),
    Field::new("inputs", Shape::List(&Shape::Path), "More files and directories that it reads.").free(),
    Field::new("pause_before", Shape::Duration, "How long is waited before it."),
    Field::new("max_retries", Shape::Count(0, 100), "How often it is done again when it failed; default 0.").free(),
    Field::new("valid_exit_codes", Shape::List(&Shape::Count(0, 255)), "The exit codes that are good; default 0."),
    Field::new("expect_disconnect", Shape::Bool, "Whether it may cut the connection, by a reboot; default false."),
    Field::new("network", Shape::Word(&["none", "guest", "full"]), "What a host step reaches; default guest."),
    Field::new("secrets", Shape::List(&Shape::Text), "Secrets of the configuration that a host step is given."),
];

/// The keys of a step that can't stand in `boot.changes`, and why.
pub(super) const NOT_IN_CHANGES: &[(&str, &str)] = &[
    ("ansible-local", NOT_UP_YET),
    ("ansible", NOT_UP_YET),
    ("pytest", NOT_UP_YET),
    ("packer", NOT_UP_YET),
    ("expect_disconnect", "what has the disk attached must stay up until the disk is detached"),
    ("network", "nothing of `changes` runs on the factory host"),
    ("secrets", "nothing of `changes` runs on the factory host"),
];

const NOT_UP_YET: &str = "the machine is not up yet; `changes` takes shell, script and upload";

/// The keys of `script`.
pub(super) const SCRIPT: &[Field] = &[
    Field::new("path", Shape::Path, "The script.").required(),
    Field::new("args", Shape::List(&Shape::Text), "Its arguments."),
];

/// The keys of `upload`.
pub(super) const UPLOAD: &[Field] = &[
    Field::new("from", Shape::Path, "The file or directory.").required(),
    Field::new("to", Shape::Text, "The absolute path in the guest.").required(),
    Field::new("mode", Shape::Mode, "Permission bits; default those of the repository."),
];

/// The keys of `ansible` and `ansible-local`.
pub(super) const PLAYBOOK: &[Field] = &[
    Field::new("playbook", Shape::Path, "The playbook; its whole directory counts.").required(),
    Field::new("extra_arguments", Shape::List(&Shape::Text), "More arguments for ansible-playbook."),
];

/// The keys of `packer`. What the template says counts by its values, whatever the file is called.
pub(super) const PACKER: &[Field] = &[
    Field::new("file", Shape::RootPath, "The JSON template, from the repository's root.").required().free(),
    Field::new("builder", Shape::Text, "Which of its builders is meant; default the only one.").free(),
    Field::new("vars", Shape::Texts, "Values of its user variables."),
];

/// The keys of `pytest`.
pub(super) const PYTEST: &[Field] = &[
    Field::new("path", Shape::Path, "The file or directory of the tests.").required(),
    Field::new("args", Shape::List(&Shape::Text), "More arguments for pytest."),
];

/// The names of all stages, for messages.
pub(super) const STAGE_NAMES: &str = "boot, provision, test, snapshot, render";

/// The keys of a stage.
pub(super) fn of_stage(stage: Stage) -> &'static [Field] {
    STAGES.iter().find(|(known, _)| *known == stage).map_or(&[], |(_, fields)| fields)
}
