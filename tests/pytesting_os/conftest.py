"""One workshop for the run, one machine for each of the two suites; all of it is removed whatever happens."""

import signal

import pytest

from marks import new_mark
from settings import Settings
from workshop import Workshop


def pytest_configure():
    """Lets TERM end a run as an interrupt does: with everything removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session", name="settings")
def fixture_settings():
    return Settings()


@pytest.fixture(scope="session", name="workshop")
def fixture_workshop(settings, tmp_path_factory):
    workshop = Workshop(settings, new_mark(), tmp_path_factory.mktemp("keys"))
    try:
        for swept in workshop.sweep():
            print(f"removed what an earlier run had left: {swept}")
        yield workshop
    finally:
        workshop.close()


@pytest.fixture(scope="session", name="keypair")
def fixture_keypair(workshop):
    return workshop.keypair()
