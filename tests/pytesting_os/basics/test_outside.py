"""What the cloud can do with the machine. What changes it comes last."""

import re

import pytest


def test_the_console_shows_the_boot(guest, workshop):
    said = workshop.cloud.compute.get_server_console_output(guest.server.id, length=600)
    text = said["output"] if isinstance(said, dict) else said
    assert re.search(r"login:|Cloud-init|Linux version|\[\s*\d+\.\d+\]", text), text[-2000:]


def test_a_remote_console_is_offered(guest, workshop, settings):
    if settings.console == "none":
        pytest.skip("PYTESTING_CONSOLE says that this cloud has no remote consoles")
    protocol = settings.console.split("-")[0]
    body = {"remote_console": {"protocol": {"novnc": "vnc"}.get(protocol, protocol), "type": settings.console}}
    path = f"/servers/{guest.server.id}/remote-consoles"
    answer = workshop.cloud.compute.post(path, json=body, microversion="2.6")
    assert answer.status_code == 200, answer.text
    assert re.match(r"(https?|wss?)://", answer.json()["remote_console"]["url"])


def test_a_volume_comes_keeps_what_is_written_and_goes(guest, workshop):
    if not workshop.has_volumes():
        pytest.skip("this cloud has no service for volumes")
    before = set(guest.says("lsblk -dno NAME").split())
    volume = workshop.volume(1)
    workshop.attached(guest.server, volume)

    def new():
        return set(guest.says("lsblk -dno NAME").split()) - before

    device = "/dev/" + workshop.wait("the volume in the guest", new).pop()
    guest.says(f"echo kept | sudo -n dd of={device} conv=fsync status=none")
    assert guest.says(f"sudo -n head -c 4 {device}") == "kept"
    workshop.detach(guest.server, volume)
    workshop.wait("the volume to leave the guest", lambda: not new())


@pytest.mark.parametrize("kind", ["SOFT", "HARD"])
def test_it_reboots(guest, workshop, kind):
    before = guest.boot()
    workshop.cloud.compute.reboot_server(guest.server.id, kind)

    def is_new():
        code, said = guest.run("cat /proc/sys/kernel/random/boot_id")
        return code == 0 and said != before

    workshop.wait(f"the end of a {kind} reboot", is_new)
    compute = workshop.cloud.compute
    workshop.wait("the server to be ACTIVE", lambda: compute.get_server(guest.server.id).status == "ACTIVE")


def test_a_snapshot_boots_with_another_flavor(guest, workshop, keypair, settings):
    guest.says("echo kept >kept; sync")
    image = workshop.snapshot(guest.server)
    other = workshop.guest("snapshot", keypair, image=image.id, flavor=settings.other_flavor)
    assert other.says("cat kept") == "kept"
    assert other.says("hostname") != guest.says("hostname")
