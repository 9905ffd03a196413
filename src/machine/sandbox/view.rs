//! What a sandboxed program sees, as arguments of bubblewrap. Pure, but for a look at how the host lays out `/`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Limits;
use crate::domain::pipeline::Network;

/// Where the copy of the checkout lies inside.
pub(crate) const SRC: &str = "/work/src";
/// Where the daemon's own files for the program lie inside, read-only.
pub(crate) const RUN: &str = "/run/factoryd";
/// The program's temporary directory inside.
pub(crate) const TMP: &str = "/tmp";
/// Where factoryd's own binary lies inside.
const INIT: &str = "/run/factoryd-init";
/// The user and the group that the program believes to be.
pub(crate) const INSIDE_ID: u32 = 1000;

/// Files of `/etc` that programs need and that hold nothing of this factory. What is not there is left out.
const ETC: [&str; 11] = [
    "alternatives",
    "ca-certificates.conf",
    "debian_version",
    "ld.so.cache",
    "localtime",
    "mime.types",
    "os-release",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
];

/// Files of `/etc` that are generated for the program, from `run`.
pub(crate) const GENERATED: [&str; 4] = ["passwd", "group", "hosts", "nsswitch.conf"];

/// One sandbox to be set up.
#[derive(Clone, Debug)]
pub(crate) struct View<'a> {
    /// The job's directory, as bubblewrap finds it.
    pub(crate) base: &'a Path,
    /// factoryd's own binary, as bubblewrap finds it.
    pub(crate) init: &'a Path,
    /// What it may reach.
    pub(crate) network: Network,
    /// Whether programs are kept from making user namespaces of their own.
    pub(crate) lock_namespaces: bool,
    /// More of the host to show, read-only.
    pub(crate) read_only: &'a [PathBuf],
    /// How large its temporary file systems may become.
    pub(crate) limits: &'a Limits,
}

impl View<'_> {
    /// The arguments, ending with factoryd's own binary as process 1 of the sandbox.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut args = Arguments(Vec::new());
        self.namespaces(&mut args);
        self.system(&mut args);
        self.devices(&mut args);
        args.bind("--ro-bind", &self.base.join("run"), RUN);
        for name in GENERATED {
            args.bind("--ro-bind", &self.base.join("run").join(name), format!("/etc/{name}"));
        }
        args.bind("--ro-bind", self.init, INIT);
        args.bind("--bind", &self.base.join("src"), SRC);
        args.words(&["--remount-ro", "/", "--chdir", SRC, "--", INIT, super::inside::INIT_COMMAND]);
        args.0
    }

    fn namespaces(&self, args: &mut Arguments) {
        // No cgroup namespace: without /sys it would hide nothing but a name, and the unit is closed to that kind.
        args.words(&["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]);
        if self.network != Network::Full {
            args.words(&["--unshare-net"]);
        }
        if self.lock_namespaces {
            args.words(&["--disable-userns"]);
        }
        let id = INSIDE_ID.to_string();
        args.words(&["--uid", &id, "--gid", &id, "--hostname", "sandbox", "--cap-drop", "ALL"]);
        args.words(&["--die-with-parent", "--new-session", "--as-pid-1"]);
    }

    /// The operating system, read-only; no `/root`, `/home`, `/var`, `/srv`, `/opt`, `/sys`.
    fn system(&self, args: &mut Arguments) {
        args.words(&["--ro-bind", "/usr", "/usr"]);
        for name in ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
            match std::fs::read_link(name) {
                Ok(target) => args.bind("--symlink", &target, name),
                Err(_) => args.words(&["--ro-bind-try", name, name]),
            }
        }
        for name in ETC.map(|name| format!("/etc/{name}")) {
            args.words(&["--ro-bind-try", &name, &name]);
        }
        if self.network == Network::Full {
            args.words(&["--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf"]);
        }
        for path in self.read_only {
            args.bind("--ro-bind-try", path, path);
        }
    }

    /// Everything that a program can write to besides its copy has a size: these file systems live in memory.
    fn devices(&self, args: &mut Arguments) {
        let size = self.limits.temporary.to_string();
        args.words(&["--proc", "/proc", "--dev", "/dev"]);
        args.words(&["--perms", "1777", "--size", &size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]);
        args.words(&["--perms", "1777", "--size", &size, "--tmpfs", TMP]);
    }
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn words(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(OsString::from));
    }

    fn bind(&mut self, option: &str, from: &Path, to: impl AsRef<Path>) {
        self.0.extend([option.into(), from.into(), to.as_ref().into()]);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn arguments(network: Network) -> String {
        let limits = Limits::default();
        let view = View {
            base: Path::new("/mnt"),
            init: Path::new("/mnt/factoryd"),
            network,
            lock_namespaces: true,
            read_only: &[PathBuf::from("/opt/venv")],
            limits: &limits,
        };
        let words: Vec<String> = view.arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ")
    }

    #[test]
    fn only_the_copy_is_writable_and_the_network_is_its_own_unless_full() {
        let guest = arguments(Network::Guest);
        assert_eq!(guest.matches("--bind ").count(), 1, "{guest}");
        assert!(guest.contains("--bind /mnt/src /work/src --remount-ro / "), "{guest}");
        assert!(guest.contains("--unshare-net") && !guest.contains("resolv.conf"), "{guest}");
        assert!(guest.contains("--ro-bind-try /opt/venv /opt/venv"), "{guest}");
        let full = arguments(Network::Full);
        assert!(!full.contains("--unshare-net") && full.contains("/etc/resolv.conf"), "{full}");
    }
}
