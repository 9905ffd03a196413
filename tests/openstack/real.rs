//! The real services on loopback, as long as a test needs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use factoryd::machine::openstack::{Credentials, OpenStackSettings, Pace, Visibility};
use factoryd::machine::qemu::{AcceleratorChoice, AllowedInside, QemuSettings};

/// A cloud of real services. It goes down when this is dropped, or when the test's process ends in whatever way.
pub(crate) struct RealCloud {
    directory: PathBuf,
}

impl RealCloud {
    /// Brings up parts of it (`keystone glance`, `all`) in a directory of its own below this one.
    pub(crate) fn up(below: &Path, parts: &[&str]) -> Self {
        let cloud = Self { directory: below.join(format!("factoryd-cloud-{}", std::process::id())) };
        let up = cloud.run(&[&["up"], parts].concat());
        let said = String::from_utf8_lossy(&up.stderr);
        assert!(
            up.status.success(),
            "the real services don't come up; `scripts/setup test cloud` installs them:\n{said}"
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

    /// Settings of a driver for the user `demo`, which has its directory below this one.
    pub(crate) fn settings(&self, state: &Path) -> OpenStackSettings {
        settings(&self.environment("demo"), state)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openstack/cloud");
        let mut command = Command::new(program);
        command.args(arguments).env("CLOUD_DIR", &self.directory);
        command.env("CLOUD_OWNER", std::process::id().to_string()).output().expect("bash is there")
    }
}

impl Drop for RealCloud {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

/// Settings of a driver of the cloud that `OS_*` variables name.
pub(crate) fn settings(environment: &[(String, String)], state: &Path) -> OpenStackSettings {
    let variable = |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    OpenStackSettings {
        name: "cloud".into(),
        credentials: Credentials::from_environment(variable).expect("credentials"),
        authorities: None,
        networks: vec!["provider".to_owned()],
        floating_network: None,
        security_groups: vec!["default".to_owned()],
        flavor: None,
        availability_zone: None,
        ssh_port: 22,
        config_drive: true,
        visibility: Visibility::Private,
        pace: Pace { first: Duration::from_millis(200), ..Pace::default() },
        directory: state.join("cloud"),
        maker: QemuSettings {
            name: "maker".into(),
            state_dir: state.to_owned(),
            accelerator: AcceleratorChoice::Tcg,
            private_downloads: AllowedInside::new(|address| address.is_loopback()),
            largest_base: 4 << 30,
            disk_free: 0,
            run_as: None,
        },
    }
}
