"""The whole build of images/bundle-debian-nginx, beside Debian's packer: same base image, playbook, accelerator, machine.

Tests are left out on both sides. Both boot a copy of the base that factoryd made, run ansible-playbook from the host over
SSH, clean apt's lists, shut down and leave a qcow2 image of its own. Packer is given what factoryd gives QEMU: one
processor of the same kind, 1 GiB, virtio, dropped flushes; and Ansible as it comes. factoryd seals the disk besides,
renders the Heat template and archives the log, which packer does not.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = "images/bundle-debian-nginx"
STAGES = ("boot", "provision", "snapshot", "render")


def without_tests(text):
    """A pipeline without its `test` stage."""
    short = re.sub(r"(?m)^  - test:\n(?:    .*\n)+", "", text)
    assert short != text, "the pipeline has no test stage"
    return short


def content():
    """The repository's own pipelines and bundles, without tests."""
    files = {f"pipelines/{name}": without_tests((ROOT / "pipelines" / name).read_text()) for name in ("base.yml", "bundle.yml")}
    for directory in ("images/base-debian", BUNDLE):
        listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", directory], check=True, capture_output=True).stdout
        for path in filter(None, listed.decode().split("\0")):
            files[path] = (ROOT / path).read_text()
    return files


class Repository:
    def __init__(self, directory, files):
        self.directory, self.moment = directory, 1_700_000_000
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", directory], check=True)
        self.commit(files, first=True)

    def commit(self, files, first=False):
        self.moment += 1
        stream = b"commit refs/heads/main\ncommitter Bench <bench@localhost> %d +0000\ndata 5\nbench\n" % self.moment
        stream += b"" if first else b"from refs/heads/main^0\n"
        for path, text in files.items():
            data = text.encode()
            stream += b"M 100644 inline %s\ndata %d\n%s\n" % (path.encode(), len(data), data)
        subprocess.run(["git", "-C", self.directory, "fast-import", "--quiet", "--force"], input=stream, check=True)

    def push(self, where):
        subprocess.run(["git", "-C", self.directory, "push", "--quiet", where, "main"], check=True, stderr=subprocess.DEVNULL)


def asked(factory, *words):
    out = subprocess.run([factory.binary, "--socket", factory.socket, *words, "--json"], check=True, stdout=subprocess.PIPE)
    return json.loads(out.stdout)


def settled(factory, seconds=3600):
    """Waits until no build is under way; the newest one, which must have passed."""
    end = time.monotonic() + seconds
    while True:
        builds = asked(factory, "builds")["builds"]
        if builds and all(build["state"] == "finished" for build in builds):
            break
        if time.monotonic() > end:
            sys.exit(f"bench: a build does not end:\n{Path(factory.log).read_text()[-3000:]}")
        time.sleep(0.05)
    if builds[0]["outcome"] != "passed":
        subprocess.run([factory.binary, "--socket", factory.socket, "show", str(builds[0]["build"])])
        sys.exit("bench: the build above has not passed")
    return builds[0]


def pushed(factory, repository, files):
    """Seconds from the start of a push to the end of its build, and the seconds of each stage that ran."""
    repository.commit(files)
    began = time.monotonic()
    repository.push(factory.repository)
    build = settled(factory)
    whole = time.monotonic() - began
    return whole, {stage["stage"]: stage["seconds"] for stage in build["stages"] if stage["state"] == "passed"}


def processor():
    """The processor that factoryd's emulated machines have, so that packer's is the same."""
    return re.search(r'Self::Tcg => "(max[^"]*)"', (ROOT / "src/machine/qemu/accelerator.rs").read_text())[1]


def memory(pid):
    """Resident memory of a process, in MB; 0 when it has ended."""
    try:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 / 1e6 if found else 0


def template(base, key, playbook, output):
    """What packer is told."""
    public = subprocess.run(["ssh-keygen", "-y", "-f", key], check=True, stdout=subprocess.PIPE).stdout
    encoded = subprocess.run(["base64", "-w0"], input=public, check=True, stdout=subprocess.PIPE).stdout.decode()
    size = json.loads(subprocess.run(["qemu-img", "info", "--output=json", base], check=True, stdout=subprocess.PIPE).stdout)
    return {
        "builders": [{
            "type": "qemu",
            "accelerator": "tcg",
            "iso_url": str(base),
            "iso_checksum": "none",
            "disk_image": True,
            "disk_size": f"{size['virtual-size'] // (1 << 20)}M",
            "format": "qcow2",
            "output_directory": str(output),
            "headless": True,
            "machine_type": "pc",
            "net_device": "virtio-net",
            "disk_interface": "virtio",
            "disk_cache": "unsafe",
            "disk_discard": "unmap",
            "disk_detect_zeroes": "unmap",
            # Nothing is waited for but SSH; "0s" would mean packer's usual ten seconds.
            "boot_wait": "1ms",
            "ssh_username": "root",
            "ssh_private_key_file": str(key),
            "ssh_timeout": "20m",
            "shutdown_command": "systemctl poweroff",
            "qemuargs": [
                ["-cpu", processor()], ["-smp", "1"], ["-m", "1024M"],
                ["-smbios", f"type=11,value=io.systemd.credential.binary:ssh.authorized_keys.root={encoded}"],
            ],
        }],
        "provisioners": [
            {"type": "ansible", "playbook_file": str(playbook), "user": "root", "use_proxy": False, "host_alias": "local"},
            {"type": "shell", "inline": ["apt-get clean && rm -rf /var/lib/apt/lists/*"]},
        ],
    }


def packed(directory, base, key, turn):
    """Seconds of `packer build`, and of its parts as its own output tells them."""
    output = directory / f"packer-{turn}"
    file = directory / "template.json"
    file.write_text(json.dumps(template(base, key, ROOT / BUNDLE / "ansible/bootstrap.yml", output)))
    (directory / "tmp").mkdir(exist_ok=True)
    environment = dict(
        os.environ, PACKER_NO_COLOR="1", CHECKPOINT_DISABLE="1", PACKER_CACHE_DIR=str(directory / "cache"),
        TMPDIR=str(directory / "tmp"), PACKER_CONFIG_DIR=str(directory), HOME=str(directory),
    )
    began = time.monotonic()
    process = subprocess.Popen(
        ["packer", "build", file], env=environment, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said, marks = [], {}
    for line in process.stdout:
        said.append(line)
        for mark, words in (("boot", "Connected to SSH"), ("provision", "Gracefully halting"), ("snapshot", "finished")):
            if words in line:
                marks.setdefault(mark, time.monotonic() - began)
    if process.wait() != 0:
        sys.exit(f"bench: packer failed:\n{''.join(said[-40:])}")
    whole = time.monotonic() - began
    shutil.rmtree(output)
    boot, provision = marks.get("boot", 0), marks.get("provision", 0)
    return whole, {"boot": boot, "provision": provision - boot, "snapshot": whole - provision}


def run(factory, directory, row, turns):
    """Pairs of builds, one of factoryd and one of packer, then what factoryd does where something is known."""
    if shutil.which("packer") is None:
        sys.exit("bench: packer is missing: apt-get install packer")
    # Sandboxed programs are another user, who must get through to the state directory.
    directory.chmod(0o755)
    files = content()
    bundle = {path: text for path, text in files.items() if path.startswith((BUNDLE, "pipelines/bundle"))}
    repository = Repository(directory / "source.git", {path: text for path, text in files.items() if path not in bundle})
    factory.start()
    try:
        repository.push(factory.repository)
        settled(factory)
        base = directory / "base.qcow2"
        images = asked(factory, "images")["images"]
        image = next(image["image"] for image in images if image["bundle"] == "images/base-debian")
        subprocess.run([factory.binary, "--socket", factory.socket, "images", "export", image, "-o", base], check=True, stdout=subprocess.DEVNULL)
        key = directory / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        playbook = (ROOT / BUNDLE / "ansible/bootstrap.yml").read_text()
        ours, theirs, most = [], [], 0
        for turn in range(turns):
            # Another title of the page: nothing of the bundle is known, and the same work is to be done.
            changed = playbook.replace("page_title: Made by factoryd", f"page_title: Made by factoryd {turn}")
            assert changed != playbook, "the playbook has no title to change"
            loads = [os.getloadavg()[0]]
            ours.append(pushed(factory, repository, bundle | {f"{BUNDLE}/ansible/bootstrap.yml": changed}))
            most = max(most, factory.memory("VmHWM"))
            loads.append(os.getloadavg()[0])
            theirs.append(packed(directory, base, key, turn))
            loads.append(os.getloadavg()[0])
            print(f"  pair {turn + 1}: factoryd {ours[-1][0]:.1f} s {rounded(ours[-1][1])}, packer {theirs[-1][0]:.1f} s {rounded(theirs[-1][1])}, load before, between, after: {', '.join(f'{load:.1f}' for load in loads)}", flush=True)
        row("packer build", [whole for whole, _ in theirs], unit="s")
        row("git push → the whole build, nothing known of the bundle", [whole for whole, _ in ours], unit="s", peer=[whole for whole, _ in theirs], name="packer")
        for stage in STAGES:
            row(f"  {stage}", [stages.get(stage, 0) for _, stages in ours], unit="s")
        row("memory of the daemon at most, while it built", [most], unit="MB", aim=200)
        plain = (ROOT / BUNDLE / "output/nginx_stack.heat.yml.j2").read_text()
        warm = [pushed(factory, repository, {f"{BUNDLE}/output/nginx_stack.heat.yml.j2": f"# {turn}\n{plain}"})[0] for turn in range(3)]
        row("the same, another template: rendered from what is kept", warm, unit="s", peer=[whole for whole, _ in theirs], name="packer")
        named = (ROOT / BUNDLE / "build-vars.yml").read_text()
        warm = [pushed(factory, repository, {f"{BUNDLE}/build-vars.yml": named.replace("cw_bundle: nginx", f"cw_bundle: nginx{turn}")})[0] for turn in range(3)]
        row("the same, another property: published from the kept disk", warm, unit="s", peer=[whole for whole, _ in theirs], name="packer")
    finally:
        factory.stop()


def rounded(stages):
    return "(" + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items() if seconds is not None) + ")"
