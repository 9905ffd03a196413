//! QEMU's command line, as a pure function of what the machine is. Nothing here touches a file or a process.

use std::path::Path;

use serde_json::{Value, json};

use super::accelerator::Accelerator;

/// The program.
pub(super) const PROGRAM: &str = "qemu-system-x86_64";
/// The machine type: the one that the guests' loaders and kernels have known longest, and as fast as `q35` (measured).
pub(super) const MACHINE: &str = "pc";

/// The name of the node that can be plugged in later.
pub(super) const ATTACHED: &str = "attached";

/// What a machine is made of. Paths are absolute and UTF-8.
#[derive(Debug)]
pub(super) struct Hardware<'a> {
    /// Its name in process lists.
    pub(super) name: &'a str,
    pub(super) accelerator: Accelerator,
    pub(super) cpus: u32,
    /// Bytes.
    pub(super) memory: u64,
    /// The writable layer, a qcow2 file.
    pub(super) disk: &'a Path,
    /// A writable layer that is there to be plugged in later. It is opened with everything else: later, QEMU may be
    /// somebody who can't.
    pub(super) attached: Option<&'a Path>,
    /// The directory that becomes the NoCloud disk.
    pub(super) seed: &'a Path,
    /// The file whose text becomes the SMBIOS string with the systemd credential.
    pub(super) credential: &'a Path,
    /// The socket at which we listen for QMP.
    pub(super) qmp: &'a Path,
    /// Guest ports that are reached from the host's loopback.
    pub(super) ports: &'a [u16],
    /// The option and its value by which this QEMU changes the user after everything is open.
    pub(super) run_as: Option<[String; 2]>,
}

impl Hardware<'_> {
    /// The arguments.
    pub(super) fn args(&self) -> Vec<String> {
        let mut args = Vec::new();
        let mut add = |name: &str, value: String| args.extend([format!("-{name}"), value]);
        add("name", format!("{},process={}", comma(self.name), comma(self.name)));
        add("machine", MACHINE.to_owned());
        add("accel", self.accelerator.argument().to_owned());
        add("cpu", self.accelerator.processor().to_owned());
        add("smp", self.cpus.to_string());
        add("m", format!("{}M", self.memory.div_ceil(1024 * 1024)));
        add("sandbox", self.sandbox());
        add("blockdev", layer("disk", self.disk).to_string());
        add("device", "virtio-blk-pci,drive=disk,bootindex=1".to_owned());
        add("blockdev", self.seed());
        add("device", "virtio-blk-pci,drive=seed".to_owned());
        self.attached.iter().for_each(|file| add("blockdev", layer(ATTACHED, file).to_string()));
        add("netdev", self.network());
        add("device", "virtio-net-pci,netdev=net,romfile=".to_owned());
        add("device", "virtio-rng-pci".to_owned());
        // The console goes through our hands, so that a guest that prints for ever does not fill the host's disk.
        add("chardev", "stdio,id=console,signal=off".to_owned());
        add("serial", "chardev:console".to_owned());
        add("chardev", format!("socket,id=qmp,path={}", comma(&text(self.qmp))));
        add("mon", "chardev=qmp,mode=control".to_owned());
        // From a file: the private host key in it must not be seen in process lists.
        add("smbios", format!("type=11,path={}", comma(&text(self.credential))));
        let fixed = ["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"];
        fixed.into_iter().map(str::to_owned).chain(args).chain(self.run_as.iter().flatten().cloned()).collect()
    }

    /// Changing the user needs system calls that the filter for privileges forbids; without privileges left, and with
    /// `no_new_privs` set by the filter, they give nothing.
    fn sandbox(&self) -> String {
        let elevate = if self.run_as.is_some() { "allow" } else { "deny" };
        format!("on,obsolete=deny,elevateprivileges={elevate},spawn=deny,resourcecontrol=deny")
    }

    fn seed(&self) -> String {
        json!({
            "driver": "raw", "node-name": "seed", "read-only": true,
            "file": {"driver": "vvfat", "dir": text(self.seed), "label": "CIDATA", "read-only": true},
        })
        .to_string()
    }

    /// Port 0 lets QEMU take a free one, so that two machines never race for it; QMP tells which.
    fn network(&self) -> String {
        let forward = |port: &u16| format!(",hostfwd=tcp:127.0.0.1:0-:{port}");
        let forwards: String =
            std::iter::once(&22).chain(self.ports.iter().filter(|port| **port != 22)).map(forward).collect();
        format!("user,id=net,ipv6=off{forwards}")
    }
}

/// A writable layer, a qcow2 file, as a node with a name.
///
/// Flushes are dropped: a machine whose host dies is built again, and a disk that is kept is synced when QEMU has ended.
fn layer(node: &str, file: &Path) -> Value {
    json!({
        "driver": "qcow2", "node-name": node, "discard": "unmap", "detect-zeroes": "unmap",
        "cache": {"direct": false, "no-flush": true},
        "file": {"driver": "file", "filename": text(file), "discard": "unmap",
                 "cache": {"direct": false, "no-flush": true}},
    })
}

/// QEMU takes a doubled comma for one.
fn comma(value: &str) -> String {
    value.replace(',', ",,")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hardware<'a>(run_as: Option<[String; 2]>, accelerator: Accelerator) -> Hardware<'a> {
        Hardware {
            name: "factoryd-7-test",
            accelerator,
            cpus: 2,
            memory: 2 * 1024 * 1024 * 1024,
            disk: Path::new("/s/machines/7/test/disk.qcow2"),
            attached: None,
            seed: Path::new("/s/machines/7/test/seed"),
            credential: Path::new("/s/a,b/credential"),
            qmp: Path::new("/s/machines/7/test/qmp"),
            ports: &[80, 22],
            run_as,
        }
    }

    #[test]
    fn the_command_line_of_a_machine() {
        insta::assert_snapshot!(hardware(None, Accelerator::Tcg).args().join("\n"), @r#"
        -nodefaults
        -no-user-config
        -display
        none
        -vga
        none
        -name
        factoryd-7-test,process=factoryd-7-test
        -machine
        pc
        -accel
        tcg,thread=multi
        -cpu
        max,svm=off,smap=off,smep=off,umip=off,pku=off,la57=off,erms=off,fsrm=off
        -smp
        2
        -m
        2048M
        -sandbox
        on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
        -blockdev
        {"cache":{"direct":false,"no-flush":true},"detect-zeroes":"unmap","discard":"unmap","driver":"qcow2","file":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"file","filename":"/s/machines/7/test/disk.qcow2"},"node-name":"disk"}
        -device
        virtio-blk-pci,drive=disk,bootindex=1
        -blockdev
        {"driver":"raw","file":{"dir":"/s/machines/7/test/seed","driver":"vvfat","label":"CIDATA","read-only":true},"node-name":"seed","read-only":true}
        -device
        virtio-blk-pci,drive=seed
        -netdev
        user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22,hostfwd=tcp:127.0.0.1:0-:80
        -device
        virtio-net-pci,netdev=net,romfile=
        -device
        virtio-rng-pci
        -chardev
        stdio,id=console,signal=off
        -serial
        chardev:console
        -chardev
        socket,id=qmp,path=/s/machines/7/test/qmp
        -mon
        chardev=qmp,mode=control
        -smbios
        type=11,path=/s/a,,b/credential
        "#);
    }

    #[test]
    fn a_layer_to_be_attached_is_opened_with_everything_else_and_given_to_no_device() {
        let attached = Path::new("/s/machines/7/change/attached.qcow2");
        let args = Hardware { attached: Some(attached), ..hardware(None, Accelerator::Tcg) }.args();
        let (with, without) = (args.join(" "), hardware(None, Accelerator::Tcg).args().join(" "));
        assert!(
            with.contains(r#""filename":"/s/machines/7/change/attached.qcow2"},"node-name":"attached"}"#),
            "{with}"
        );
        assert_eq!(with.matches("virtio-blk-pci").count(), without.matches("virtio-blk-pci").count());
    }

    #[test]
    fn a_root_daemon_gives_its_machines_another_user() {
        let run_as = super::super::unprivileged::option("10.0.2", (4242, 4343));
        let args = hardware(Some(run_as), Accelerator::Kvm).args().join(" ");
        assert!(args.contains("-run-with user=4242:4343"));
        assert!(args.contains("elevateprivileges=allow"));
        assert!(args.contains("-accel kvm -cpu max "));
    }
}
