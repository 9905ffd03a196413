"""Makes what the tests need in the cloud, each with the run's mark, and removes all of it, the newest first."""

import base64
import json
import subprocess

import openstack
from openstack import exceptions

from guest import Guest
from marks import KEY, is_over
from waiting import until

# What a cloud says of what is not there, or no longer.
GONE = (exceptions.ResourceNotFound,)


class Workshop:
    """Everything that one run makes."""

    def __init__(self, settings, mark, directory):
        self.settings, self.mark, self.directory = settings, mark, directory
        self.cloud = openstack.connect()
        self._undo = []
        self._count = 0

    # --- its end

    def close(self):
        """Removes everything; one failure does not keep the rest from being tried."""
        troubles = []
        while self._undo:
            what, undo = self._undo.pop()
            try:
                undo()
            except Exception as error:  # pylint: disable=broad-except # whatever it is, the rest is removed
                troubles.append(f"{what}: {error}")
        assert not troubles, "left behind: " + "; ".join(troubles)

    def _made(self, what, undo):
        self._undo.append((what, undo))

    def _name(self, role):
        self._count += 1
        return f"{self.mark}-{role}-{self._count}"

    def wait(self, what, look):
        """Looks until something is true, as long as the settings allow."""
        return until(what, look, self.settings.patience, self.settings.poll)

    def gone(self, what, get):
        """Waits until the cloud says that something is not there."""

        def look():
            try:
                get()
            except GONE:
                return True
            return False

        self.wait(f"the end of {what}", look)

    # --- keys

    def keypair(self):
        """A key pair: its name in the cloud, and the file of the private half."""
        name, path = self._name("key"), self.directory / self._name("key")
        keygen(path)
        public = path.with_suffix(path.suffix + ".pub").read_text()
        self._made(f"key pair {name}", lambda: self.cloud.compute.delete_keypair(name, ignore_missing=True))
        self.cloud.compute.create_keypair(name=name, public_key=public)
        return name, path

    # --- machines

    def guest(self, role, keypair, image=None, flavor=None, user_data=None, ports=None):
        """A server that is up and that SSH has entered. Its host key is given to it, so it is known before it speaks."""
        host_key = self.directory / self._name("host")
        keygen(host_key)
        config = dict(user_data or {})
        public = host_key.with_suffix(host_key.suffix + ".pub").read_text()
        config["ssh_keys"] = {"ed25519_private": host_key.read_text(), "ed25519_public": public}
        server = self.server(role, keypair[0], config, image, flavor, ports)
        address = self.address(server)
        guest = Guest(server, address, public, keypair[1], self.settings, self.directory)
        self.wait(f"SSH of {server.name}", guest.answers)
        return guest

    def server(self, role, keypair, config, image=None, flavor=None, ports=None):
        """A server that is ACTIVE."""
        name = self._name(role)
        compute = self.cloud.compute
        wanted = compute.find_flavor(flavor or self.settings.flavor, ignore_missing=False)
        text = "#cloud-config\n" + json.dumps(config)
        order = {
            "name": name,
            "image_id": image or self.settings.image,
            "flavor_id": wanted.id,
            "key_name": keypair,
            "networks": ports or [{"uuid": self.settings.network}],
            "user_data": base64.b64encode(text.encode()).decode(),
            "config_drive": True,
            "metadata": {KEY: self.mark},
        }
        if not ports:
            order["security_groups"] = [{"name": self.settings.security_group}]
        # Before it is asked for: the answer may be lost, and the server be there.
        self._made(f"server {name}", lambda: self._remove_servers(name))
        server = compute.create_server(**order)

        def look():
            now = compute.get_server(server.id)
            assert now.status != "ERROR", f"the server {name} is in ERROR: {getattr(now, 'fault', None)}"
            return now if now.status == "ACTIVE" else None

        return self.wait(f"the server {name}", look)

    def _remove_servers(self, name):
        compute = self.cloud.compute
        for server in [one for one in compute.servers(name=name) if one.name == name]:
            compute.delete_server(server.id, ignore_missing=True)
            self.gone(f"the server {name}", lambda one=server: compute.get_server(one.id))

    def address(self, server):
        """Where a server is reached: a floating address where there are such, else its own."""
        if not self.settings.floating_network:
            entries = [entry for entries in server.addresses.values() for entry in entries]
            return next(entry["addr"] for entry in entries if entry["version"] == 4)
        network = self.cloud.network
        port = next(network.ports(device_id=server.id))
        outside = network.find_network(self.settings.floating_network, ignore_missing=False)
        description = self._name("address")

        def remove():
            for one in [one for one in network.ips() if one.description == description]:
                network.delete_ip(one.id, ignore_missing=True)

        self._made(f"floating address {description}", remove)
        made = network.create_ip(floating_network_id=outside.id, port_id=port.id, description=description)
        return made.floating_ip_address

    def port(self):
        """A port with the security group."""
        network = self.cloud.network
        name = self._name("port")

        def remove():
            for one in list(network.ports(name=name)):
                network.delete_port(one.id, ignore_missing=True)

        self._made(f"port {name}", remove)
        group = network.find_security_group(self.settings.security_group, ignore_missing=False)
        return network.create_port(name=name, network_id=self.settings.network, security_groups=[group.id])

    # --- disks

    def volume(self, size):
        """A volume of so many GiB that is available."""
        storage = self.cloud.block_storage
        name = self._name("volume")

        def remove():
            for one in [one for one in storage.volumes() if one.name == name]:
                self.wait(f"the volume {name}", lambda one=one: storage.get_volume(one.id).status in ("available", "error"))
                storage.delete_volume(one.id, ignore_missing=True)
                self.gone(f"the volume {name}", lambda one=one: storage.get_volume(one.id))

        self._made(f"volume {name}", remove)
        made = storage.create_volume(name=name, size=size, metadata={KEY: self.mark})
        self.wait(f"the volume {name}", lambda: storage.get_volume(made.id).status == "available")
        return made

    def attached(self, server, volume):
        """Attaches a volume, and detaches it at the end unless that was done."""
        compute, storage = self.cloud.compute, self.cloud.block_storage
        self._made(f"attachment of {volume.id}", lambda: self.detach(server, volume))
        body = {"volumeAttachment": {"volumeId": volume.id}}
        answer = compute.post(f"/servers/{server.id}/os-volume_attachments", json=body)
        exceptions.raise_from_response(answer)
        self.wait(f"the attachment of {volume.id}", lambda: storage.get_volume(volume.id).status == "in-use")

    def detach(self, server, volume):
        """Detaches a volume; one that is not attached is fine."""
        answer = self.cloud.compute.delete(f"/servers/{server.id}/os-volume_attachments/{volume.id}")
        if answer.status_code != 404:
            exceptions.raise_from_response(answer)
        storage = self.cloud.block_storage
        self.wait(f"the end of the attachment of {volume.id}", lambda: storage.get_volume(volume.id).status == "available")

    def snapshot(self, server):
        """An image of a server, when it is active and the server is at rest again."""
        compute, image = self.cloud.compute, self.cloud.image
        name = self._name("snapshot")

        def remove():
            for one in [one for one in image.images(name=name) if one.name == name]:
                image.delete_image(one.id, ignore_missing=True)

        self._made(f"image {name}", remove)
        compute.create_server_image(server.id, name, metadata={KEY: self.mark})

        def look():
            found = [one for one in image.images(name=name) if one.name == name]
            assert not [one for one in found if one.status in ("error", "killed")], f"the image {name} has failed"
            return found[0] if found and found[0].status == "active" else None

        made = self.wait(f"the image {name}", look)
        self.wait(f"{server.name} to be at rest", lambda: compute.get_server(server.id).task_state is None)
        return made

    # --- what others of this suite left

    def sweep(self):
        """Removes what runs left that are over; says what that was."""
        swept = []

        def remove(kind, found, delete):
            for one, mark in found:
                if is_over(mark):
                    delete(one.id, ignore_missing=True)
                    swept.append(f"{kind} {one.id}")

        def marks(all_, of):
            return [(one, of(one)) for one in all_]

        def named(text):
            # A name or a description: the mark, the role and a number.
            return (text or "").rsplit("-", 2)[0]

        cloud = self.cloud
        remove("server", marks(cloud.compute.servers(), lambda one: (one.metadata or {}).get(KEY)), cloud.compute.delete_server)
        remove("floating ip", marks(cloud.network.ips(), lambda one: named(one.description)), cloud.network.delete_ip)
        remove("key pair", marks(cloud.compute.keypairs(), lambda one: named(one.name)), cloud.compute.delete_keypair)
        remove("image", marks(cloud.image.images(visibility="private"), lambda one: (one.properties or {}).get(KEY)), cloud.image.delete_image)
        # A port that a server still holds goes with the next run.
        free = [one for one in cloud.network.ports() if not one.device_id]
        remove("port", marks(free, lambda one: named(one.name)), cloud.network.delete_port)
        if self.has_volumes():
            idle = [one for one in cloud.block_storage.volumes() if one.status in ("available", "error")]
            remove("volume", marks(idle, lambda one: (one.metadata or {}).get(KEY)), cloud.block_storage.delete_volume)
        return swept

    def has_volumes(self):
        """Whether the cloud has a service for volumes."""
        return self.cloud.has_service("block-storage")


def keygen(path):
    """Makes a key pair without a passphrase."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=60)
