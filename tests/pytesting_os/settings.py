"""What the suite is told by its environment."""

import os


def given(*names, default=None):
    """The first of these variables that says something."""
    for name in names:
        if os.environ.get(name):
            return os.environ[name]
    if default is None:
        raise SystemExit(f"{' or '.join(names)} must be set; README.md lists the variables")
    return default


class Settings:
    """The variables, read when they are wanted: a missing one is said by name."""

    def __init__(self):
        self.image = given("NOSE_IMAGE_ID", "FACTORYD_IMAGE_ID")
        self.flavor = given("NOSE_FLAVOR")
        self.other_flavor = given("PYTESTING_OTHER_FLAVOR", "NOSE_FLAVOR")
        self.network = given("NOSE_NET_ID", "FACTORY_NETWORK_ID")
        self.security_group = given("NOSE_SG_ID", "FACTORY_SECURITY_GROUP_NAME")
        self.floating_network = given("PYTESTING_FLOATING_NETWORK", default="")
        self.user = given("PYTESTING_USER", default="cloud")
        self.ssh_port = int(given("PYTESTING_SSH_PORT", default="22"))
        self.package = given("PYTESTING_PACKAGE", default="hello")
        self.console = given("PYTESTING_CONSOLE", default="spice-html5")
        self.patience = float(given("PYTESTING_PATIENCE", default="600"))
        self.poll = float(given("PYTESTING_POLL", default="2"))
