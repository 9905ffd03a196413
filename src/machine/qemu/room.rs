//! Room on the disk of the state directory, looked at before something large is written there.

use std::path::PathBuf;

use super::disks::trouble;
use crate::engine::ports::PortError;

/// The disk, and what must stay free on it.
#[derive(Clone, Debug)]
pub(super) struct Room {
    state: PathBuf,
    keep: u64,
}

impl Room {
    /// Of the disk that a directory lies on, of which so many bytes stay free.
    pub(super) fn on(state: impl Into<PathBuf>, keep: u64) -> Self {
        Self { state: state.into(), keep }
    }

    /// Bytes free.
    pub(super) fn free(&self) -> Result<u64, PortError> {
        let stat =
            rustix::fs::statvfs(&self.state).map_err(|error| trouble("looked at", &self.state, &error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Refuses to begin what takes more bytes than there are. Those that begin side by side look at the same bytes, so
    /// this holds the hopeless off and not every shortage; while builds run, the engine looks on.
    pub(super) fn require(&self, bytes: u64, what: &str) -> Result<(), PortError> {
        let free = self.free()?;
        if free >= self.keep.saturating_add(bytes) {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        Err(PortError::unavailable(format!(
            "there is no room for {what}: it takes {} MiB, {} MiB are free and {} MiB must stay free",
            mib(bytes),
            free >> 20,
            mib(self.keep)
        ))
        .help("free space: `factoryd gc`, a larger disk, or a smaller limits.disk_free"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ports::PortErrorKind;

    #[test]
    fn what_would_leave_too_little_is_refused_with_all_three_sizes() {
        let state = tempfile::tempdir().expect("a directory");
        assert!(Room::on(state.path(), 0).require(1, "a byte").is_ok());
        let error = Room::on(state.path(), 1 << 60).require((1 << 20) + 1, "two bytes").expect_err("full");
        assert_eq!(error.kind, PortErrorKind::Unavailable);
        assert!(error.message.starts_with("there is no room for two bytes: it takes 2 MiB, "), "{error}");
        assert!(error.message.ends_with("1099511627776 MiB must stay free"), "{error}");
    }
}
