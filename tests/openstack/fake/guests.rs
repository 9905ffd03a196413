//! Guests: a real sshd answers at a server's addresses, and what it runs sees the server's disk as its root.
//!
//! A connection is handed to an `sshd -i` of its own, so an idle guest costs nothing and one that is ended is gone at
//! once. Its commands run in bubblewrap on the directory that is the disk, with the host's `/usr` to read. `systemctl
//! poweroff` leaves a mark, `sync` and `fstrim` do nothing. What cloud-init does at a first boot is done before sshd
//! answers: keys, files, commands; what of it the fake does not know is said as a rule that was broken.

use std::fs;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use serde_json::Value;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// What a guest begins with.
pub(crate) struct Setup {
    /// The directory that is its disk.
    pub(crate) disk: PathBuf,
    /// Where its sshd has its files.
    pub(crate) run: PathBuf,
    pub(crate) hostname: String,
    /// How large its disk is to look, in bytes.
    pub(crate) size: u64,
    pub(crate) public_key: Option<String>,
    pub(crate) user_data: Option<String>,
    pub(crate) first_boot: bool,
}

/// A guest that is up until it is dropped.
pub(crate) struct Guest {
    run: PathBuf,
    hostname: String,
    runtime: Handle,
    end: CancellationToken,
    addresses: Mutex<Vec<(String, CancellationToken)>>,
}

/// Keys of a `#cloud-config` that are done, or mean nothing here.
const KNOWN: [&str; 18] = [
    "ssh_keys",
    "ssh_authorized_keys",
    "write_files",
    "runcmd",
    "users",
    "hostname",
    "fqdn",
    "disable_root",
    "ssh_deletekeys",
    "ssh_genkeytypes",
    "ssh_pwauth",
    "preserve_hostname",
    "manage_etc_hosts",
    "package_update",
    "package_upgrade",
    "growpart",
    "no_ssh_fingerprints",
    "ssh_publish_hostkeys",
];

impl Guest {
    /// Boots it; says what it was told that it does not understand.
    pub(crate) fn start(setup: Setup, runtime: Handle) -> (Self, Vec<String>) {
        prepare_disk(&setup);
        fs::create_dir_all(setup.run.join("bin")).expect("made");
        fs::create_dir_all(setup.run.join("disks")).expect("made");
        fs::write(setup.run.join("boot_id"), format!("{}\n", uuid::Uuid::new_v4())).expect("written");
        let _before = fs::remove_file(setup.run.join("off"));
        write_programs(&setup);
        let complaints = if setup.first_boot { first_boot(&setup) } else { Vec::new() };
        let hostname = setup.hostname.clone();
        let guest =
            Self { run: setup.run, hostname, runtime, end: CancellationToken::new(), addresses: Mutex::default() };
        let key = setup.disk.join("etc/ssh/ssh_host_ed25519_key");
        if key.is_file() {
            fs::copy(&key, guest.run.join("host")).expect("copied");
            fs::set_permissions(guest.run.join("host"), PermissionsExt::from_mode(0o600)).expect("changed");
        }
        let keys = setup.disk.join("root/.ssh/authorized_keys");
        let config = format!(
            "HostKey {run}/host\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nUseDNS no\nStrictModes no\n\
             PermitRootLogin yes\nPasswordAuthentication no\nSubsystem sftp /usr/lib/openssh/sftp-server\n\
             ForceCommand exec /bin/sh {run}/enter\n",
            keys.display(),
            run = guest.run.display(),
        );
        fs::write(guest.run.join("config"), config).expect("written");
        // As root, sshd insists on this directory, which only its service makes.
        let _there = fs::create_dir_all("/run/sshd");
        (guest, complaints)
    }

    /// Lets it answer at an address from now on.
    pub(crate) fn listen(&self, address: &str, port: u16) {
        let end = self.end.child_token();
        let mut addresses = self.addresses.lock().expect("no panic");
        if addresses.iter().any(|(known, _)| known == address) {
            return;
        }
        addresses.push((address.to_owned(), end.clone()));
        let (at, config) = ((address.to_owned(), port), self.run.join("config"));
        self.runtime.spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = accept(at, config, &end) => {}
            }
        });
    }

    /// Lets it answer at an address no more.
    pub(crate) fn leave(&self, address: &str) {
        self.addresses.lock().expect("no panic").retain(|(known, end)| {
            if known == address {
                end.cancel();
            }
            known != address
        });
    }

    /// Ends every connection and answers no more.
    pub(crate) fn cut(&self) {
        self.end.cancel();
    }

    /// Plugs a volume in, or out.
    pub(crate) fn plug(&self, name: &str, is_in: bool) {
        let disk = self.run.join("disks").join(name);
        match is_in {
            true => fs::write(disk, vec![0; 1 << 20]).expect("written"),
            false => drop(fs::remove_file(disk)),
        }
    }

    pub(crate) fn has_powered_off(&self) -> bool {
        self.run.join("off").exists()
    }

    /// What stands on its console.
    pub(crate) fn console(&self) -> String {
        let key = Command::new("ssh-keygen").arg("-y").arg("-f").arg(self.run.join("host")).output();
        let key = key.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        let lines: String = (1..40).map(|line| format!("[    0.{line:06}] fake kernel says {line}\n")).collect();
        format!(
            "{lines}-----BEGIN SSH HOST KEY KEYS-----\n{key}\n-----END SSH HOST KEY KEYS-----\n\
             Cloud-init v. 22.4.2 finished\n\n{} login: \n",
            self.hostname
        )
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.cut();
    }
}

/// A port that is free on loopback now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("an address").port()
}

async fn accept((address, port): (String, u16), config: PathBuf, end: &CancellationToken) {
    // The address may be held by the guest's life before this one, which is about to end.
    let listener = loop {
        match tokio::net::TcpListener::bind((address.as_str(), port)).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(stream) = stream.into_std() else { continue };
        let (config, end) = (config.clone(), end.clone());
        tokio::spawn(async move { serve(stream, &config, &end).await });
    }
}

/// Lets an sshd of its own serve a connection.
async fn serve(stream: TcpStream, config: &Path, end: &CancellationToken) {
    stream.set_nonblocking(false).expect("set");
    let copy = || Stdio::from(OwnedFd::from(stream.try_clone().expect("a copy")));
    let sshd = tokio::process::Command::new("/usr/sbin/sshd")
        .args(["-i", "-e", "-f"])
        .arg(config)
        .stdin(copy())
        .stdout(copy())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut sshd = sshd.expect("sshd is there: run `scripts/setup test`");
    tokio::select! {
        () = end.cancelled() => {}
        _ended = sshd.wait() => {}
    }
    let _shut = stream.shutdown(Shutdown::Both);
    let _gone = sshd.kill().await;
}

fn prepare_disk(setup: &Setup) {
    let disk = &setup.disk;
    for directory in [
        "usr",
        "proc",
        "dev",
        "run",
        "tmp",
        "root/.ssh",
        "etc/ssh",
        "etc/alternatives",
        "var/log",
        "var/lib",
        "var/tmp",
        "home",
        "opt/guest",
    ] {
        fs::create_dir_all(disk.join(directory)).expect("made");
    }
    for (name, to) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        if !disk.join(name).is_symlink() {
            symlink(to, disk.join(name)).expect("linked");
        }
    }
    fs::write(disk.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n").expect("written");
    fs::write(disk.join("etc/group"), "root:x:0:\n").expect("written");
    fs::write(disk.join("etc/hosts"), format!("127.0.0.1 localhost {}\n", setup.hostname)).expect("written");
    fs::write(disk.join("etc/nsswitch.conf"), "passwd: files\ngroup: files\nhosts: files\n").expect("written");
    fs::write(disk.join("etc/hostname"), format!("{}\n", setup.hostname)).expect("written");
    if !disk.join("etc/os-release").exists() {
        fs::write(disk.join("etc/os-release"), "NAME=\"fake guest\"\nID=fake\n").expect("written");
    }
}

/// The program that every command goes through, and those that a guest has besides the host's.
fn write_programs(setup: &Setup) {
    let (run, disk) = (setup.run.display(), setup.disk.display());
    let hostname = &setup.hostname;
    // A session of its own: the shell inside leads it, as it would under sshd alone. A volume is a file that is there in
    // every session.
    let enter = format!(
        "PATH=/opt/guest:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nexport PATH\n\
         set --\nfor disk in {run}/disks/*; do\n  [ -e \"$disk\" ] && set -- \"$@\" --bind \"$disk\" \"/dev/${{disk##*/}}\"\n\
         done\n\
         exec bwrap --die-with-parent --new-session --unshare-uts --hostname '{hostname}' --bind {disk} / \
         --ro-bind /usr /usr --ro-bind /etc/alternatives /etc/alternatives --dev /dev --bind /proc /proc \
         --ro-bind {run}/boot_id /proc/sys/kernel/random/boot_id --tmpfs /run --bind {run} /run/guest \
         --ro-bind {run}/bin /opt/guest --chdir /root \"$@\" -- /bin/sh -c \"${{SSH_ORIGINAL_COMMAND:-exec sh}}\"\n"
    );
    fs::write(setup.run.join("enter"), enter).expect("written");
    let systemctl = "#!/bin/sh\ncase \"$*\" in\n  *poweroff*|*halt*) : >/run/guest/off ;;\n  \
                     *is-system-running*) echo running ;;\n  *is-active*) echo active ;;\nesac\n";
    let nothing = "#!/bin/sh\nexit 0\n";
    let lsblk = format!(
        "#!/bin/sh\ncase \"$*\" in\n  '-dno NAME') echo vda; ls /run/guest/disks ;;\n  *PKNAME*) echo vda ;;\n  \
         '-bdno SIZE /dev/vda') echo {} ;;\n  *) exit 1 ;;\nesac\n",
        setup.size
    );
    let findmnt = format!(
        "#!/bin/sh\ncase \"$*\" in\n  '-no SOURCE /') echo /dev/vda1 ;;\n  '-bno SIZE /') echo {} ;;\n  *) exit 1 ;;\nesac\n",
        setup.size / 100 * 95
    );
    for (name, text) in [
        ("systemctl", systemctl),
        ("poweroff", "#!/bin/sh\n: >/run/guest/off\n"),
        ("shutdown", "#!/bin/sh\n: >/run/guest/off\n"),
        ("sync", nothing),
        ("fstrim", nothing),
        ("journalctl", nothing),
        ("cloud-init", "#!/bin/sh\n[ \"$1\" != status ] || echo 'status: done'\n"),
        ("lsblk", &lsblk),
        ("findmnt", &findmnt),
        ("sudo", "#!/bin/sh\nwhile [ \"${1#-}\" != \"$1\" ]; do shift; done\nexec \"$@\"\n"),
    ] {
        let path = setup.run.join("bin").join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("changed");
    }
}

/// What cloud-init does: host keys, who may enter, files, commands.
fn first_boot(setup: &Setup) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in [
        ("etc/cloud/cloud.cfg", "cloud_final_modules:\n  - package-update-upgrade-install\n"),
        ("var/log/auth.log", "sshd[1]: Server listening on 0.0.0.0 port 22.\n"),
        ("var/lib/cloud/instance/boot-finished", "done\n"),
    ] {
        let path = setup.disk.join(path);
        fs::create_dir_all(path.parent().expect("below the disk")).expect("made");
        fs::write(path, text).expect("written");
    }
    let host_key = setup.disk.join("etc/ssh/ssh_host_ed25519_key");
    let _none = fs::remove_file(&host_key);
    let mut may_enter: Vec<String> = setup.public_key.iter().cloned().collect();
    let data = setup.user_data.as_deref().unwrap_or_default();
    if data.starts_with("#cloud-config") {
        match serde_yaml::from_str::<Value>(data) {
            Ok(config) => configure(setup, &config, &mut may_enter, &mut complaints),
            Err(error) => complaints.push(format!("user data is no YAML: {error}")),
        }
    } else if data.starts_with("#!") {
        run_in(setup, &format!("cat >/tmp/user-data <<'END'\n{data}\nEND\nchmod 755 /tmp/user-data; /tmp/user-data"));
    } else if !data.is_empty() {
        complaints.push(format!("user data is neither #cloud-config nor a script: {:.40}", data));
    }
    if !host_key.exists() {
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&host_key).status();
        assert!(made.expect("ssh-keygen is there: run `scripts/setup`").success());
    }
    let file = setup.disk.join("root/.ssh/authorized_keys");
    let before = fs::read_to_string(&file).unwrap_or_default();
    let lines: String = may_enter.iter().map(|key| format!("{}\n", key.trim())).collect();
    fs::write(&file, before + &lines).expect("written");
    complaints
}

fn configure(setup: &Setup, config: &Value, may_enter: &mut Vec<String>, complaints: &mut Vec<String>) {
    let strange =
        config.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| !KNOWN.contains(&key.as_str()));
    complaints.extend(strange.map(|key| format!("user data has {key:?}, which the guest does not know")));
    let texts = |value: &Value| {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    may_enter.extend(texts(&config["ssh_authorized_keys"]));
    for user in config["users"].as_array().into_iter().flatten() {
        may_enter.extend(texts(&user["ssh_authorized_keys"]));
    }
    for (kind, key) in config["ssh_keys"].as_object().into_iter().flatten() {
        let (kind, end) = match kind.rsplit_once('_') {
            Some((kind, "private")) => (kind, ""),
            Some((kind, "public")) => (kind, ".pub"),
            _ => continue,
        };
        let path = setup.disk.join(format!("etc/ssh/ssh_host_{kind}_key{end}"));
        fs::write(&path, format!("{}\n", key.as_str().unwrap_or_default().trim())).expect("written");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("changed");
    }
    for file in config["write_files"].as_array().into_iter().flatten() {
        let path = setup.disk.join(file["path"].as_str().unwrap_or_default().trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("below the disk")).expect("made");
        fs::write(&path, file["content"].as_str().unwrap_or_default()).expect("written");
        let mode = file["permissions"].as_str().and_then(|mode| u32::from_str_radix(mode, 8).ok()).unwrap_or(0o644);
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("changed");
    }
    for command in config["runcmd"].as_array().into_iter().flatten() {
        match command {
            Value::String(command) => run_in(setup, command),
            words => run_in(setup, &texts(words).join(" ")),
        }
    }
}

/// Runs a command in the guest before sshd answers.
fn run_in(setup: &Setup, command: &str) {
    let run = Command::new("/bin/sh").arg(setup.run.join("enter")).env("SSH_ORIGINAL_COMMAND", command).output();
    run.expect("bubblewrap is there: run `scripts/setup run`");
}
