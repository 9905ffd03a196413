"""Waits that end."""

import time


class TooLong(AssertionError):
    """Something did not come in time."""


def until(what, look, patience, poll):
    """Looks until `look` gives something that is true, and gives that; says what was seen last when it takes too long."""
    end = time.monotonic() + patience
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > end:
            raise TooLong(f"{what} takes longer than {patience:.0f} s")
        time.sleep(poll)
