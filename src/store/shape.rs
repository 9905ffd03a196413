//! How the domain's words look in columns and in JSON.
//!
//! The domain knows no format. Here a column or a JSON string stands for each of its words; `journal_shape` and `inputs`
//! hold the larger shapes. What is written is read by every later factoryd, so names may be added and never changed.

use std::borrow::Cow;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::build::{BuildState, Outcome, StageProgress};
use crate::domain::id::{Branch, BuildNo, CommitId, Digest, DiskId, DriverName, Fingerprint, ImageId, Oid, RepoName};
use crate::domain::image::ImageState;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::Stage;
use crate::domain::tree::EntryKind;

/// A word of the domain that is one piece of text.
pub(super) trait Text: Sized {
    fn text(&self) -> Cow<'_, str>;
    fn parse(text: &str) -> Option<Self>;
}

macro_rules! texts {
    (names: $($name:ty),*; words: $($word:ty),*; sums: $($sum:ty),*;) => {
        $(impl Text for $name {
            fn text(&self) -> Cow<'_, str> { self.as_str().into() }
            fn parse(text: &str) -> Option<Self> { Some(Self::new(text)) }
        })*
        $(impl Text for $word {
            fn text(&self) -> Cow<'_, str> { self.word().into() }
            fn parse(text: &str) -> Option<Self> { Self::from_word(text) }
        })*
        $(impl Text for $sum {
            fn text(&self) -> Cow<'_, str> { self.to_string().into() }
            fn parse(text: &str) -> Option<Self> { text.parse().ok() }
        })*
    };
}

texts! {
    names: RepoName, Branch, DriverName, ImageId, DiskId, CommitId;
    words: Stage, Outcome, StageProgress, BuildState, ImageState;
    sums: Digest, Fingerprint, Oid;
}

impl Text for EntryKind {
    fn text(&self) -> Cow<'_, str> {
        self.mode().into()
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::File, Self::Executable, Self::Link, Self::Directory, Self::Submodule];
        all.into_iter().find(|kind| kind.mode() == text)
    }
}

/// A [`Text`] as a column.
pub(super) struct Col<T>(pub(super) T);

impl<T: Text> ToSql for Col<&T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.text().into_owned()))
    }
}

impl<T: Text> FromSql for Col<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let text = value.as_str()?;
        T::parse(text).map(Self).ok_or_else(|| unreadable(text))
    }
}

impl ToSql for Col<&RepoPath> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.as_bytes()))
    }
}

impl FromSql for Col<RepoPath> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let bytes = value.as_blob()?;
        RepoPath::new(bytes).map(Self).ok_or_else(|| unreadable("a path that leaves its root"))
    }
}

impl ToSql for Col<BuildNo> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(signed(self.0.0)))
    }
}

impl FromSql for Col<BuildNo> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Col::<u64>::column_result(value).map(|number| Self(BuildNo(number.0)))
    }
}

impl ToSql for Col<u64> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(signed(self.0)))
    }
}

impl FromSql for Col<u64> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        u64::try_from(number).map(Self).map_err(|_| FromSqlError::OutOfRange(number))
    }
}

/// SQLite has no unsigned numbers. Nothing that is counted here comes near 2^63.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unreadable(text: &str) -> FromSqlError {
    FromSqlError::Other(format!("{text:?} is no word that this factoryd knows").into())
}

/// A value as a JSON column.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> ToSql for Json<&T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let text =
            serde_json::to_string(self.0).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        Ok(ToSqlOutput::from(text))
    }
}

impl<T: for<'de> Deserialize<'de>> FromSql for Json<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let value = serde_json::from_str(value.as_str()?).map_err(|error| FromSqlError::Other(error.into()))?;
        Ok(Self(value))
    }
}

/// A [`Text`] as a JSON string.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Word<T>(pub(super) T);

impl<T: Text> Serialize for Word<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.text())
    }
}

impl<'de, T: Text> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let unknown = || serde::de::Error::custom(format!("{text:?} is no word that this factoryd knows"));
        T::parse(&text).map(Self).ok_or_else(unknown)
    }
}

/// `#[serde(with = "word")]` for a [`Text`].
pub(super) mod word {
    use super::{Deserialize, Deserializer, Serializer, Text, Word};

    pub(in crate::store) fn serialize<T: Text, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.text())
    }

    pub(in crate::store) fn deserialize<'de, T: Text, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        Word::deserialize(deserializer).map(|word| word.0)
    }

    /// The same for what may be missing.
    pub(in crate::store) mod option {
        use super::{Deserialize, Deserializer, Serializer, Text, Word};

        pub(in crate::store) fn serialize<T: Text, S: Serializer>(
            value: &Option<T>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => serializer.serialize_some(&value.text()),
                None => serializer.serialize_none(),
            }
        }

        pub(in crate::store) fn deserialize<'de, T: Text, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<T>, D::Error> {
            Option::<Word<T>>::deserialize(deserializer).map(|word| word.map(|word| word.0))
        }
    }

    /// The same for a list.
    pub(in crate::store) mod list {
        use super::{Deserialize, Deserializer, Serializer, Text, Word};

        pub(in crate::store) fn serialize<T: Text, S: Serializer>(
            values: &[T],
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(values.iter().map(Text::text))
        }

        pub(in crate::store) fn deserialize<'de, T: Text, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Vec<T>, D::Error> {
            Vec::<Word<T>>::deserialize(deserializer).map(|words| words.into_iter().map(|word| word.0).collect())
        }
    }
}

/// `#[serde(with = "shared_text")]` for a text that many have in common.
pub(super) mod shared_text {
    use std::sync::Arc;

    use super::{Deserialize as _, Deserializer, Serializer};

    pub(in crate::store) fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(in crate::store) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Arc::from)
    }
}

/// A path in JSON: text, or, where it is not UTF-8, a list of bytes.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PathShape {
    Text(String),
    Bytes(Vec<u8>),
}

/// `#[serde(with = "path")]` for a [`RepoPath`].
pub(super) mod path {
    use super::{Deserialize as _, Deserializer, PathShape, RepoPath, Serialize as _, Serializer};

    pub(in crate::store) fn serialize<S: Serializer>(path: &RepoPath, serializer: S) -> Result<S::Ok, S::Error> {
        match path.as_str() {
            Some(text) => PathShape::Text(text.to_owned()),
            None => PathShape::Bytes(path.as_bytes().to_owned()),
        }
        .serialize(serializer)
    }

    pub(in crate::store) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RepoPath, D::Error> {
        let bytes = match PathShape::deserialize(deserializer)? {
            PathShape::Text(text) => text.into_bytes(),
            PathShape::Bytes(bytes) => bytes,
        };
        RepoPath::new(bytes).ok_or_else(|| serde::de::Error::custom("a path that leaves its root"))
    }
}
