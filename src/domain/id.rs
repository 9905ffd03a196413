//! Names and numbers that mean something, each its own type, so that none can be mistaken for another.
//!
//! The text of a name is shared by its clones: thousands of bundles, builds and plans name the same repository.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it is.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }
    };
}

name!(
    /// A repository, as the configuration names it.
    RepoName
);
name!(
    /// A branch, without `refs/heads/`.
    Branch
);
name!(
    /// A driver, as the configuration names it: `qemu`, `openstack`.
    DriverName
);
name!(
    /// A published image's identity: ours, a UUID, whatever the driver calls its copies.
    ImageId
);
name!(
    /// What a driver calls a disk it keeps for us; only that driver can read it.
    DiskId
);
name!(
    /// A git commit in lower-case hexadecimal.
    CommitId
);

impl CommitId {
    /// The first seven digits, as people quote a commit.
    pub fn short(&self) -> &str {
        &self.0[..self.0.len().min(7)]
    }
}

impl DiskId {
    /// Whether factoryd named it, to the last character: `base-` and a checksum, `image-` and a UUID, `changed-` or
    /// `sealed-` with a build's number and 16 digits. What lies beside such disks is somebody else's, copies of them too.
    pub fn is_ours(&self) -> bool {
        let Some((kind, name)) = self.0.split_once('-') else { return false };
        match kind {
            "base" => is_hex(name, 64),
            "image" => is_uuid(name),
            "changed" | "sealed" => {
                let of_build = name.split_once('-');
                of_build.is_some_and(|(build, digits)| is_number(build) && is_hex(digits, 16))
            }
            _ => false,
        }
    }
}

/// As they are printed: nobody else's spelling of the same digits is taken for ours.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths = [8, 4, 4, 4, 12];
    groups.len() == lengths.len() && groups.iter().zip(lengths).all(|(group, length)| is_hex(group, length))
}

fn is_number(text: &str) -> bool {
    text.parse::<u64>().is_ok_and(|number| number.to_string() == text)
}

/// The number of a build, counted from 1 for the whole factory and never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildNo(pub u64);

impl fmt::Display for BuildNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Debug for BuildNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A git object id: SHA-1, 20 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid(pub [u8; 20]);

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl FromStr for Oid {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        unhex(text).map(Self)
    }
}

/// A SHA-256 sum, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The sum of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 digits without the prefix, as files are named.
    pub fn hex(&self) -> String {
        self.to_string().split_off("sha256:".len())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        hex(&self.0, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = NotADigest;

    /// Takes the digits with or without the `sha256:` prefix.
    fn from_str(text: &str) -> Result<Self, NotADigest> {
        unhex(text.strip_prefix("sha256:").unwrap_or(text)).map(Self)
    }
}

/// What a stage's declared or resolved inputs hash to; see [`super::inputs`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub Digest);

impl Fingerprint {
    /// The first six digits, as people compare them.
    pub fn short(&self) -> String {
        self.0.hex()[..6].to_owned()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Fingerprint {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        text.parse().map(Self)
    }
}

/// The text is not the right number of hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotADigest;

impl fmt::Display for NotADigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a checksum: the wrong number of hexadecimal digits")
    }
}

impl std::error::Error for NotADigest {}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn unhex<const N: usize>(text: &str) -> Result<[u8; N], NotADigest> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(NotADigest);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16).ok_or(NotADigest);
        let (high, low) = (value(pair[0])?, value(pair[1])?);
        *byte = u8::try_from(high * 16 + low).map_err(|_| NotADigest)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_of_disks_are_ours() {
        let (uuid, sum) = ("1b4e28ba-2fa1-41d2-883f-0016d3cca427", "0123456789abcdef".repeat(4));
        for ours in [
            format!("image-{uuid}"),
            format!("base-{sum}"),
            "sealed-7-0123456789abcdef".to_owned(),
            "changed-18446744073709551615-0123456789abcdef".to_owned(),
        ] {
            assert!(DiskId::new(ours.as_str()).is_ours(), "{ours}");
            for copy in ["-before-test", ".bak", "0", "-", " "] {
                assert!(!DiskId::new(format!("{ours}{copy}")).is_ours(), "{ours}{copy}");
            }
            assert!(!DiskId::new(ours.replace("ab", "AB").replace("1b4", "1B4")).is_ours(), "{ours} in upper case");
        }
        for foreign in
            ["", "image-", "sealed-7", "sealed-x-0123456789abcdef", "sealed-07-0123456789abcdef", "base-debian"]
        {
            assert!(!DiskId::new(foreign).is_ours(), "{foreign}");
        }
    }

    #[test]
    fn a_digest_reads_back_what_it_prints() {
        let digest = Digest::of(b"factory");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.hex().parse(), Ok(digest));
        assert_eq!("sha256:12".parse::<Digest>(), Err(NotADigest));
        assert_eq!("zz".repeat(32).parse::<Digest>(), Err(NotADigest));
    }
}
