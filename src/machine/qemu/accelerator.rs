//! Which accelerator machines run on, and how that is found out.
//!
//! That `/dev/kvm` opens proves little: on some hosts firmware runs under it and Linux then hangs, dies with "KVM internal
//! error", or QEMU aborts. QEMU's own list of accelerators does not fall back in any of these cases. The only honest
//! question is whether a real guest comes up, so the first base image at hand is booted under KVM until its sshd says
//! hello, once per version of QEMU and boot of the host. A kernel or payload of our own would answer another question.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::disks::write_whole;
use crate::engine::ports::PortError;

/// How long a guest may take under KVM: real ones need five to fifteen seconds, and twice that with cloud-init.
pub(super) const PROBE: Duration = Duration::from_secs(60);

/// What the configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcceleratorChoice {
    /// KVM if a real guest comes up under it, else TCG.
    #[default]
    Auto,
    /// KVM, or an error.
    Kvm,
    /// QEMU's own emulation.
    Tcg,
}

/// An accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// The word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// QEMU's argument.
    pub(super) fn argument(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }

    /// The processor: everything that the accelerator can give, but by emulation not what makes Linux slower than it would
    /// be without. Guards of the kernel's own memory and a fifth level of page tables cost work at every call of the
    /// kernel, `rep movsb` goes byte by byte, and for `svm` KVM is loaded. A boot took 0.82 to 0.93 of the work, seen in
    /// pairs on a busy host. What is left has everything that distributions are built for, x86-64-v3.
    pub(super) fn processor(self) -> &'static str {
        match self {
            Self::Kvm => "max",
            Self::Tcg => "max,svm=off,smap=off,smep=off,umip=off,pku=off,la57=off,erms=off,fsrm=off",
        }
    }
}

/// What was found out, and for which QEMU and boot of the host it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finding {
    pub(super) qemu: String,
    pub(super) host_boot: String,
    pub(super) accelerator: Accelerator,
    pub(super) reason: String,
}

/// What can be said without booting anything.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// This one.
    Is(Accelerator),
    /// A guest must be booted.
    MustProbe,
}

/// Where the answer is remembered.
pub(super) fn memory(state: &Path) -> PathBuf {
    state.join("accelerator.json")
}

/// Decides from the configuration, the device and what is remembered.
pub(super) fn known(
    choice: AcceleratorChoice,
    device: Result<(), String>,
    remembered: Option<&Finding>,
    qemu: &str,
    host_boot: &str,
) -> Result<Known, PortError> {
    match (choice, device) {
        (AcceleratorChoice::Tcg, _) | (AcceleratorChoice::Auto, Err(_)) => Ok(Known::Is(Accelerator::Tcg)),
        (AcceleratorChoice::Kvm, Ok(())) => Ok(Known::Is(Accelerator::Kvm)),
        (AcceleratorChoice::Kvm, Err(why)) => Err(PortError::unavailable(format!("/dev/kvm can't be used: {why}"))
            .help("give the daemon's user the group `kvm`, or set `accelerator = \"auto\"`")),
        (AcceleratorChoice::Auto, Ok(())) => Ok(remembered
            .filter(|finding| finding.qemu == qemu && finding.host_boot == host_boot)
            .map_or(Known::MustProbe, |finding| Known::Is(finding.accelerator))),
    }
}

/// Whether the device can be opened. Blocks.
pub(super) fn device() -> Result<(), String> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.map(drop).map_err(|error| error.to_string())
}

/// The id of the host's boot. Blocks.
pub(super) fn host_boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What is remembered; a file that can't be read is none. Blocks.
pub(super) fn remembered(state: &Path) -> Option<Finding> {
    serde_json::from_slice(&std::fs::read(memory(state)).ok()?).ok()
}

/// Remembers a finding. Blocks.
pub(super) fn remember(state: &Path, finding: &Finding) -> Result<(), PortError> {
    let text = serde_json::to_vec_pretty(finding)
        .map_err(|error| PortError::failed(format!("the accelerator can't be written down: {error}")))?;
    write_whole(&memory(state), &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding() -> Finding {
        Finding {
            qemu: "10.0.2".to_owned(),
            host_boot: "b1".to_owned(),
            accelerator: Accelerator::Kvm,
            reason: "a guest came up".to_owned(),
        }
    }

    #[test]
    fn a_guest_is_booted_once_per_qemu_and_host_boot() {
        let finding = finding();
        let auto =
            |remembered, qemu, boot| known(AcceleratorChoice::Auto, Ok(()), remembered, qemu, boot).expect("known");
        assert_eq!(auto(None, "10.0.2", "b1"), Known::MustProbe);
        assert_eq!(auto(Some(&finding), "10.0.2", "b1"), Known::Is(Accelerator::Kvm));
        assert_eq!(auto(Some(&finding), "10.0.3", "b1"), Known::MustProbe);
        assert_eq!(auto(Some(&finding), "10.0.2", "b2"), Known::MustProbe);
    }

    #[test]
    fn without_the_device_nothing_is_booted() {
        let missing = || Err("No such file or directory".to_owned());
        let decide = |choice| known(choice, missing(), None, "10", "b");
        assert_eq!(decide(AcceleratorChoice::Auto).expect("known"), Known::Is(Accelerator::Tcg));
        let error = decide(AcceleratorChoice::Kvm).expect_err("not usable");
        assert_eq!(error.message, "/dev/kvm can't be used: No such file or directory");
    }

    #[test]
    fn what_was_found_is_remembered() {
        let state = tempfile::tempdir().expect("a directory");
        assert_eq!(remembered(state.path()), None);
        remember(state.path(), &finding()).expect("written");
        assert_eq!(remembered(state.path()), Some(finding()));
        std::fs::write(memory(state.path()), "{").expect("written");
        assert_eq!(remembered(state.path()), None);
    }
}
