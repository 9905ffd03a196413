"""What cloud-init did."""

import pytest


def test_it_ended_well(guest):
    assert "status: done" in guest.says("sudo -n cloud-init status")


def test_a_file_was_written(guest):
    assert guest.says("sudo -n cat /root/cloud-init.conf") == "written"
    assert guest.says("sudo -n stat -c %a /root/cloud-init.conf") == "640"


def test_a_command_was_run(guest):
    guest.says("sudo -n test -e /root/cloud-init.txt")


def test_a_package_was_installed(guest, settings):
    if settings.package == "none":
        pytest.skip("PYTESTING_PACKAGE says that guests of this cloud reach no mirror")
    said = guest.says(f"dpkg-query -W {settings.package} 2>&1 || rpm -q {settings.package}")
    assert settings.package in said


def test_it_stands_on_its_port(guest, workshop):
    ports = list(workshop.cloud.network.ports(device_id=guest.server.id))
    assert [port.name.startswith(workshop.mark) for port in ports] == [True]
