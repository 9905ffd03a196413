"""The machine that the basic tests look at."""

import pytest


@pytest.fixture(scope="session", name="guest")
def fixture_guest(workshop, keypair):
    return workshop.guest("basics", keypair)
