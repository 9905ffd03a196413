//! What every base image that is made here has, whatever its recipe says: packages to boot with, how it finds its disk,
//! its network and its console, its host key at first boot, and that it grows with its disk.

/// Packages of every base image.
pub(super) const PACKAGES: [&str; 15] = [
    "ca-certificates",
    "dbus",
    "e2fsprogs",
    "fdisk",
    "initramfs-tools",
    "libnss-resolve",
    "linux-image-cloud-amd64",
    "openssh-server",
    "python3",
    "python3-apt",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
    "zstd",
];

/// What is taken out before our own files are laid in: identity, and traces of the making. Run by `sh` in the root.
pub(super) const CLEAN: &str = "rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub /var/lib/dbus/machine-id \
    /var/lib/systemd/random-seed /etc/apt/apt.conf.d/99mmdebstrap /etc/dpkg/dpkg.cfg.d/99mmdebstrap \
    /var/log/bootstrap.log /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache; rm -rf /var/log/apt";

/// Files: path, mode, content.
pub(super) const FILES: [(&str, u32, &str); 12] = [
    ("etc/fstab", 0o644, "LABEL=root / ext4 errors=remount-ro 0 1\n"),
    ("etc/hostname", 0o644, "debian\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost ip6-localhost ip6-loopback\n"),
    ("etc/machine-id", 0o444, ""),
    ("boot/grub/grub.cfg", 0o644, GRUB),
    ("etc/systemd/network/80-dhcp.network", 0o644, NETWORK),
    (
        "etc/ssh/sshd_config.d/10-image.conf",
        0o644,
        "# A server's name server must not slow down logins.\nUseDNS no\nPasswordAuthentication no\n",
    ),
    ("etc/systemd/system/ssh-host-key.service", 0o644, HOST_KEY_UNIT),
    ("usr/local/sbin/ssh-host-key", 0o755, HOST_KEY),
    ("etc/systemd/system/grow-root.service", 0o644, GROW_UNIT),
    ("usr/local/sbin/grow-root", 0o755, GROW),
    (
        "etc/apt/apt.conf.d/20image",
        0o644,
        "// Services start and stop as on any Debian; only translations are left out.\nAcquire::Languages \"none\";\n",
    ),
];

/// Links: path and target. A unit that is linked to `/dev/null` is masked.
pub(super) const LINKS: [(&str, &str); 9] = [
    ("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
    (
        "etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
        "/lib/systemd/system/systemd-networkd.service",
    ),
    ("etc/systemd/system/sockets.target.wants/systemd-networkd.socket", "/lib/systemd/system/systemd-networkd.socket"),
    ("etc/systemd/system/dbus-org.freedesktop.network1.service", "/lib/systemd/system/systemd-networkd.service"),
    ("etc/systemd/system/multi-user.target.wants/ssh-host-key.service", "/etc/systemd/system/ssh-host-key.service"),
    ("etc/systemd/system/multi-user.target.wants/grow-root.service", "/etc/systemd/system/grow-root.service"),
    ("etc/systemd/system/systemd-networkd-wait-online.service", "/dev/null"),
    ("etc/systemd/system/apt-daily.timer", "/dev/null"),
    ("etc/systemd/system/apt-daily-upgrade.timer", "/dev/null"),
];

/// The configuration inside the boot loader itself: where to find the other one.
pub(super) const GRUB_EARLY: &str =
    "search --no-floppy --label root --set=root\nset prefix=($root)/boot/grub\nconfigfile /boot/grub/grub.cfg\n";

/// Modules that the boot loader holds.
pub(super) const GRUB_MODULES: [&str; 10] =
    ["biosdisk", "part_msdos", "ext2", "search", "search_label", "configfile", "normal", "linux", "serial", "terminal"];

/// `/vmlinuz` and `/initrd.img` are links that Debian's kernel packages keep at the newest kernel.
const GRUB: &str = "\
set timeout=0
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
menuentry Linux {
  linux /vmlinuz root=LABEL=root ro console=tty0 console=ttyS0,115200n8
  initrd /initrd.img
}
";

/// The lease is the card's and not the machine's: clones get their own.
const NETWORK: &str = "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n\n[DHCPv4]\nClientIdentifier=mac\n";

const HOST_KEY_UNIT: &str = "\
[Unit]
Description=SSH host key: made if there is none, and printed on the console
Before=ssh.service ssh.socket

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/ssh-host-key

[Install]
WantedBy=multi-user.target
";

const HOST_KEY: &str = "\
#!/bin/sh
set -eu
key=/etc/ssh/ssh_host_ed25519_key
[ -s $key ] || ssh-keygen -q -t ed25519 -N '' -C \"\" -f $key
{
  echo
  echo '-----BEGIN SSH HOST KEY KEYS-----'
  ssh-keygen -y -f $key
  echo '-----END SSH HOST KEY KEYS-----'
} > /dev/console 2>/dev/null || true
";

const GROW_UNIT: &str = "\
[Unit]
Description=The root file system grows with its disk

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/grow-root

[Install]
WantedBy=multi-user.target
";

const GROW: &str = "\
#!/bin/sh
set -eu
part=$(basename \"$(readlink -f \"$(findmnt -no SOURCE /)\")\")
number=$(cat \"/sys/class/block/$part/partition\")
disk=$(basename \"$(readlink -f \"/sys/class/block/$part/..\")\")
end=$(($(cat \"/sys/class/block/$part/start\") + $(cat \"/sys/class/block/$part/size\")))
[ $(($(cat \"/sys/class/block/$disk/size\") - end)) -gt 4096 ] || exit 0
echo ', +' | sfdisk --quiet --no-reread --force -N \"$number\" \"/dev/$disk\"
partx --update --nr \"$number\" \"/dev/$disk\"
resize2fs \"/dev/$part\"
";
