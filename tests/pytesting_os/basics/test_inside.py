"""What the machine is, seen from inside."""

import re

GIB = 1 << 30


def test_the_default_user_is_at_home(guest, settings):
    assert guest.says("id -un") == settings.user
    home = "/root" if settings.user == "root" else f"/home/{settings.user}"
    assert guest.says("pwd") == home


def test_the_default_user_may_become_root_without_a_password(guest):
    assert guest.says("sudo -n id -u").splitlines()[-1] == "0"


def test_the_hostname_is_the_servers_name(guest):
    # A host name has no capitals and at most 63 letters, whatever the server is called.
    assert guest.says("hostname").split(".")[0] == guest.server.name.lower()[:63]


def test_its_own_name_is_resolved(guest):
    assert "unable to resolve host" not in guest.says("sudo -n true 2>&1")
    assert guest.says('getent hosts "$(hostname)"')


def test_a_resolver_answers(guest):
    """The resolver that the network gave: any answer will do, since a cloud may know no other names."""
    servers = re.findall(r"^nameserver\s+(\S+)", guest.says("cat /etc/resolv.conf"), re.MULTILINE)
    assert servers, "no resolver is configured"
    ask = (
        "import socket, sys; s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM);"
        " s.settimeout(10);"
        " s.sendto(bytes.fromhex('abcd01000001000000000000') + bytes([7]) + b'example' + bytes([0, 0, 1, 0, 1]), (sys.argv[1], 53));"
        " print(s.recv(512)[:2].hex())"
    )
    assert guest.says(f'python3 -c "{ask}" {servers[0]}') == "abcd"


def test_the_disk_is_as_large_as_the_flavor_says_and_is_filled(guest, workshop, settings):
    flavor = workshop.cloud.compute.find_flavor(settings.flavor, ignore_missing=False)
    flavor = workshop.cloud.compute.get_flavor(flavor.id)
    disk = guest.says('lsblk -bdno SIZE "/dev/$(lsblk -no PKNAME "$(findmnt -no SOURCE /)" | head -n 1)"')
    assert int(disk) == flavor.disk * GIB
    size = int(guest.says("findmnt -bno SIZE /"))
    assert size > 0.85 * flavor.disk * GIB, f"the root file system has {size} bytes"


def test_randomness_does_not_block(guest):
    assert int(guest.says("timeout 10 head -c 512 /dev/random | wc -c")) == 512


def test_no_login_fails_behind_the_scenes(guest):
    log = guest.says(
        "if [ -e /var/log/auth.log ]; then sudo -n cat /var/log/auth.log; "
        "else sudo -n journalctl -b --no-pager SYSLOG_FACILITY=10 + SYSLOG_FACILITY=4; fi"
    )
    wrong = [line for line in log.splitlines() if re.search(r"\berror:|\bfatal:", line)]
    assert not wrong, "\n".join(wrong[:10])


def test_cloud_init_may_bring_packages_up_to_date(guest):
    assert "package-update-upgrade-install" in guest.says("cat /etc/cloud/cloud.cfg")
