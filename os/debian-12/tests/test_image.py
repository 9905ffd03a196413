"""A machine that is booted from the image is one that a cloud can give to its users.

The factory says where the machine is in FACTORYD_* variables; nothing but Python's own library and pytest is needed.
"""

import os
import subprocess


def ssh(command):
    """What a command says in the machine."""
    # The machine made its host key a moment ago, and the only way from here leads to it.
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    result = subprocess.run(
        ["ssh", "-F", "none", "-i", os.environ["FACTORYD_KEY"], "-p", os.environ["FACTORYD_PORT"]]
        + [word for option in options for word in ("-o", option)]
        + [f"{os.environ['FACTORYD_USER']}@{os.environ['FACTORYD_HOST']}", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, f"`{command}`: {result.stdout}{result.stderr}"
    return result.stdout.strip()


def test_cloud_init_did_its_work():
    assert ssh("cloud-init status --wait").endswith("status: done")


def test_the_default_user_logs_in():
    assert ssh("id -un; pwd") == "cloud\n/home/cloud"
    name = "import yaml; print(yaml.safe_load(open('/etc/cloud/cloud.cfg'))['system_info']['default_user']['name'])"
    assert ssh(f'python3 -c "{name}"') == "cloud"


def test_the_system_s_own_default_user_was_never_made():
    assert ssh("getent passwd debian || echo none") == "none"


def test_the_default_user_is_root_with_sudo_and_the_machine_knows_its_name():
    assert ssh("sudo -n id -un 2>&1") == "root"


def test_the_hostname_is_the_one_of_the_metadata():
    hostname = ssh("hostname")
    assert hostname not in ("unnamed", "debian")
    assert hostname == ssh("sudo cloud-init query local_hostname")


def test_the_machine_resolves_its_own_name():
    assert ssh("getent hosts $(hostname)").startswith("127.0.1.1")


def test_the_dns_resolver_of_the_network_answers():
    mirror = "grep -rhoE 'https?://[^/ ]+' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -n 1"
    assert ssh(f"{mirror} | sed 's|.*//||' | xargs getent ahosts")


def test_the_network_is_cloud_init_s():
    assert "10-cloud-init" in ssh("networkctl status --no-pager $(ip -o route show default | sed 's/.* dev \\([^ ]*\\).*/\\1/')")


def test_the_console_has_a_log_and_a_login():
    assert "console=ttyS0" in ssh("cat /proc/cmdline")
    assert ssh("systemctl is-active serial-getty@ttyS0") == "active"


def test_the_file_system_grew_with_the_disk():
    disk, root = (int(size) for size in ssh("lsblk -bdno SIZE /dev/vda; df -B1 --output=size / | tail -n 1").split())
    assert root > disk * 0.9, f"{root} of {disk} bytes"


def test_randomness_comes_from_the_host():
    assert ssh("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")


def test_the_machine_has_an_identity_of_its_own():
    assert ssh("cat /etc/machine-id")
    assert ssh("sudo ls /var/lib/cloud/instances | wc -l") == "1", "there is another machine's cloud-init in it"
    assert ssh("wc -l <~/.ssh/authorized_keys") == "1", "somebody else may log in"


def test_the_package_cache_is_not_part_of_the_image():
    assert ssh("find /var/cache/apt/archives -name '*.deb'") == ""
