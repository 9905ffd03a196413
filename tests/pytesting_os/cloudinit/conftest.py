"""The machine that was told what to do at its first boot, on a port that was there before it."""

import pytest


@pytest.fixture(scope="session", name="guest")
def fixture_guest(workshop, keypair, settings):
    config = {
        "write_files": [{"path": "/root/cloud-init.conf", "content": "written\n", "permissions": "0640"}],
        "runcmd": [["touch", "/root/cloud-init.txt"]],
    }
    if settings.package != "none":
        config["package_update"] = True
        config["packages"] = [settings.package]
    port = workshop.port()
    guest = workshop.guest("cloudinit", keypair, user_data=config, ports=[{"port": port.id}])
    # SSH answers before cloud-init is done.
    workshop.wait("cloud-init", lambda: guest.run("sudo -n test -e /var/lib/cloud/instance/boot-finished")[0] == 0)
    return guest
