"""The page is served and the service is up, on a clone of the disk that is to be published.

The factory says where the clone is in FACTORYD_* variables; nothing but Python's own library and pytest is needed.
"""

import os
import subprocess
import urllib.request

import pytest

HOST = os.environ["FACTORYD_HOST"]
PAGE = f"http://{HOST}:{os.environ['FACTORYD_PORT_80']}/"


def ssh(command):
    """What a command says in the clone."""
    # The clone made its host key a moment ago, and the only way from here leads to it.
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    result = subprocess.run(
        ["ssh", "-F", "none", "-i", os.environ["FACTORYD_KEY"], "-p", os.environ["FACTORYD_PORT"]]
        + [word for option in options for word in ("-o", option)]
        + [f"{os.environ['FACTORYD_USER']}@{HOST}", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, f"`{command}`: {result.stdout}{result.stderr}"
    return result.stdout.strip()


@pytest.fixture(scope="module", name="page")
def fetch_page():
    """The first page, with its headers."""
    with urllib.request.urlopen(PAGE, timeout=60) as response:
        return response.status, response.headers, response.read().decode()


def test_the_page_is_served(page):
    status, _, text = page
    assert status == 200
    assert "<h1>Made by factoryd</h1>" in text


def test_the_version_is_not_told(page):
    _, headers, _ = page
    assert headers["Server"] == "nginx"


def test_the_service_is_up_and_starts_at_boot():
    assert ssh("systemctl is-active nginx") == "active"
    assert ssh("systemctl is-enabled nginx") == "enabled"


def test_the_package_cache_is_not_part_of_the_image():
    assert ssh("find /var/cache/apt/archives -name '*.deb'") == ""
