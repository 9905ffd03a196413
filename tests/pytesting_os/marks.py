"""How the suite knows its own: a mark that holds the run and the moment until which it may stand.

Nothing is known by the beginning of its name alone; whatever lacks the whole mark is somebody else's.
"""

import re
import time
import uuid

# So long a run may take before what it made counts as left behind, in seconds.
RUN = 4 * 3600
PATTERN = re.compile(r"pytesting-os-(\d{10,})-[0-9a-f]{12}")
# The key of metadata and properties that holds it.
KEY = "pytesting_os"


def new_mark():
    """The mark of a run that begins now."""
    return f"pytesting-os-{int(time.time()) + RUN}-{uuid.uuid4().hex[:12]}"


def is_over(mark, now=None):
    """Whether this is a mark, and what carries it was left behind."""
    found = PATTERN.fullmatch(mark or "")
    return bool(found) and int(found.group(1)) < (time.time() if now is None else now)
