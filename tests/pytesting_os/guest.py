"""A machine from inside, over SSH."""

import subprocess


class Guest:
    """A server, its address and the way in."""

    def __init__(self, server, address, host_key, key, settings, directory):
        self.server, self.address = server, address
        known = directory / f"known-{server.id}"
        port = settings.ssh_port
        place = address if port == 22 else f"[{address}]:{port}"
        known.write_text(f"{place} {host_key}")
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ServerAliveInterval": "10",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": known,
            "GlobalKnownHostsFile": "none",
            "LogLevel": "ERROR",
        }
        self.command = ["ssh", "-F", "none", "-i", str(key), "-p", str(port)]
        self.command += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        self.command.append(f"{settings.user}@{address}")
        self.patience = min(settings.patience, 120)

    def run(self, command):
        """What a command says and how it ended: its exit code, and its output with that of errors."""
        try:
            ended = subprocess.run(
                [*self.command, command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=self.patience, check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"`{command}` takes longer than {self.patience:.0f} s") from error
        return ended.returncode, (ended.stdout + ended.stderr).strip()

    def says(self, command):
        """What a command says that succeeds."""
        code, said = self.run(command)
        assert code == 0, f"`{command}` ends with {code}: {said}"
        return said

    def answers(self):
        """Whether SSH lets the user in now."""
        code, said = self.run("true")
        assert "IDENTIFICATION HAS CHANGED" not in said and "verification failed" not in said, said
        return code == 0

    def boot(self):
        """What changes with every boot."""
        return self.says("cat /proc/sys/kernel/random/boot_id")
