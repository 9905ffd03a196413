//! Templates of stacks among a bundle's outputs, and what the cloud that they are for says of them.

/// A template of a stack, with what it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackTemplate {
    /// Its text.
    pub text: String,
    /// What it reads besides, by the names that it has for them.
    pub files: Vec<(String, String)>,
}

/// What a cloud says of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is wrong with it, as far as the cloud looks.
    Valid,
    /// The cloud refuses it, in its own words.
    Refused(String),
    /// The cloud has nothing that looks at templates; why, as a phrase.
    NoService(String),
    /// There is no cloud to ask; why, as a phrase.
    NoCloud(String),
    /// It could not be asked, or gave no answer; why, as a phrase.
    NoAnswer(String),
}
