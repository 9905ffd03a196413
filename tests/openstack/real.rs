//! The real services on loopback, as long as a test needs them.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A cloud of real services; it goes down when this is dropped, or when the test's process ends in whatever way.
pub(crate) struct RealCloud {
    directory: TempDir,
}

impl RealCloud {
    /// Brings up Keystone and Glance. Takes seconds where nothing else runs.
    pub(crate) fn keystone_and_glance() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        let cloud = Self { directory };
        let up = cloud.run(&["up", "keystone", "glance"]);
        let said = String::from_utf8_lossy(&up.stderr);
        assert!(
            up.status.success(),
            "the real Keystone and Glance don't come up (`scripts/setup test` installs them):\n{said}"
        );
        cloud
    }

    /// The `OS_*` variables by which a user finds it: `demo`, `other` or `admin`.
    pub(crate) fn environment(&self, user: &str) -> Vec<(String, String)> {
        let printed = String::from_utf8(self.run(&["env", user]).stdout).expect("text");
        let pair = |line: &str| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        printed.lines().filter_map(pair).collect()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openstack/cloud");
        let mut command = Command::new(program);
        command.args(arguments).env("CLOUD_DIR", self.directory.path().join("cloud"));
        command.env("CLOUD_OWNER", std::process::id().to_string()).output().expect("bash is there")
    }
}

impl Drop for RealCloud {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}
