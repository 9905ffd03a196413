"""What is done over the services' own interfaces before anybody comes: users, projects, the catalogue, networks.

bootstrap.py STAGE PORTS_FILE PASSWORD "PARTS"; doing a stage twice is success.
"""

import os
import sys
import time

import requests

STAGE, PORTS_FILE, PASSWORD, PARTS = sys.argv[1:5]
PARTS = PARTS.split()
PORTS = dict(line.strip().removeprefix("port_").split("=") for line in open(PORTS_FILE))
SESSION = requests.Session()
# The services here are on loopback, whatever proxy the environment names.
SESSION.trust_env = False


def url(service, path=""):
    return f"http://127.0.0.1:{PORTS[service]}{path}"


KEYSTONE = url("keystone", "/v3")
# Service, its type in the catalogue, the path of its endpoint.
CATALOGUE = [
    ("glance", "image", ""),
    ("nova", "compute", "/v2.1"),
    ("placement", "placement", ""),
    ("neutron", "network", ""),
    ("heat", "orchestration", "/v1/%(project_id)s"),
]


def call(method, address, body=None, also=()):
    answer = SESSION.request(method, address, json=body, timeout=60)
    if not answer.ok and answer.status_code not in also:
        raise SystemExit(f"{method} {address}: {answer.status_code} {answer.text[:400]}")
    return answer.json() if answer.content and "json" in answer.headers.get("content-type", "") else {}


def log_in():
    user = {"name": "admin", "domain": {"id": "default"}, "password": PASSWORD}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    identity = {"methods": ["password"], "password": {"user": user}}
    answer = SESSION.post(KEYSTONE + "/auth/tokens", json={"auth": {"identity": identity, "scope": scope}}, timeout=60)
    answer.raise_for_status()
    SESSION.headers["X-Auth-Token"] = answer.headers["X-Subject-Token"]


def made(base, kind, body, query):
    """The one that is there, or a new one."""
    plural = kind + "s"
    found = call("GET", f"{base}/{plural}?{query}")[plural]
    return found[0] if found else call("POST", f"{base}/{plural}", {kind: body})[kind]


def identity():
    roles = {role["name"]: role["id"] for role in call("GET", KEYSTONE + "/roles")["roles"]}
    for name in ("service", "heat_stack_owner", "heat_stack_user"):
        if name not in roles:
            roles[name] = call("POST", KEYSTONE + "/roles", {"role": {"name": name}})["role"]["id"]

    def project(name):
        return made(KEYSTONE, "project", {"name": name, "domain_id": "default"}, "name=" + name)["id"]

    def user(name, of, wanted):
        body = {"name": name, "domain_id": "default", "password": PASSWORD, "default_project_id": of}
        person = made(KEYSTONE, "user", body, "name=" + name)["id"]
        for role in wanted:
            call("PUT", f"{KEYSTONE}/projects/{of}/users/{person}/roles/{roles[role]}")

    service = project("service")
    # Two projects of people: the factory's, and somebody else's.
    for name in ("demo", "other"):
        user(name, project(name), ["member", "reader", "heat_stack_owner"])
    for name, kind, path in CATALOGUE:
        if name not in PARTS:
            continue
        user(name, service, ["admin", "service"])
        entry = made(KEYSTONE, "service", {"name": name, "type": kind}, "type=" + kind)["id"]
        for interface in ("public", "internal", "admin"):
            body = {"service_id": entry, "interface": interface, "region_id": "RegionOne", "url": url(name) + path}
            made(KEYSTONE, "endpoint", body, f"service_id={entry}&interface={interface}")
    if "heat" in PARTS:
        domain = made(KEYSTONE, "domain", {"name": "heat"}, "name=heat")["id"]
        body = {"name": "heat_domain_admin", "domain_id": domain, "password": PASSWORD}
        person = made(KEYSTONE, "user", body, "name=heat_domain_admin&domain_id=" + domain)["id"]
        call("PUT", f"{KEYSTONE}/domains/{domain}/users/{person}/roles/{roles['admin']}")


def cloud():
    """Flavors; a network that the host is in, one behind a router, and SSH let in."""
    for name, ram, disk, cpus in (("m1.nano", 128, 1, 1), ("m1.tiny", 512, 2, 1), ("m1.small", 1024, 6, 1)):
        flavor = {"name": name, "ram": ram, "disk": disk, "vcpus": cpus}
        call("POST", url("nova", "/v2.1/flavors"), {"flavor": flavor}, also=(409,))
    neutron, prefix = url("neutron", "/v2.0"), "172.31.77"
    demo = call("GET", KEYSTONE + "/projects?name=demo")["projects"][0]["id"]
    body = {"name": "provider", "shared": True, "router:external": True, "provider:network_type": "flat",
            "provider:physical_network": "physnet1"}
    outside = made(neutron, "network", body, "name=provider")["id"]
    pool = [{"start": prefix + ".20", "end": prefix + ".250"}]
    body = {"name": "provider-v4", "network_id": outside, "ip_version": 4, "cidr": prefix + ".0/24",
            "gateway_ip": prefix + ".1", "allocation_pools": pool}
    made(neutron, "subnet", body, "name=provider-v4")
    inside = made(neutron, "network", {"name": "private", "project_id": demo}, "name=private")["id"]
    body = {"name": "private-v4", "project_id": demo, "network_id": inside, "ip_version": 4, "cidr": "10.77.0.0/24"}
    subnet = made(neutron, "subnet", body, "name=private-v4")["id"]
    body = {"name": "router1", "project_id": demo, "external_gateway_info": {"network_id": outside}}
    router = made(neutron, "router", body, "name=router1")["id"]
    if not call("GET", f"{neutron}/ports?device_id={router}&network_id={inside}")["ports"]:
        call("PUT", f"{neutron}/routers/{router}/add_router_interface", {"subnet_id": subnet})
    for group in call("GET", f"{neutron}/security-groups?project_id={demo}&name=default")["security_groups"]:
        rule = {"direction": "ingress", "ethertype": "IPv4", "security_group_id": group["id"], "project_id": demo}
        for what in ({"protocol": "tcp"}, {"protocol": "icmp"}):
            call("POST", f"{neutron}/security-group-rules", {"security_group_rule": rule | what}, also=(409,))


def wait_for(what, look):
    end = time.monotonic() + 120
    while not look():
        if time.monotonic() > end:
            raise SystemExit(f"{what} take longer than two minutes")
        time.sleep(0.2)


def compute():
    def look():
        listed = call("GET", url("nova", "/v2.1/os-services?binary=nova-compute"))["services"]
        return any(one["state"] == "up" and (one["updated_at"] or "")[:19] >= os.environ["SINCE"] for one in listed)

    wait_for("Nova's computers", look)


def agents():
    wanted = {"Linux bridge agent", "DHCP agent", "Metadata agent", "L3 agent"}

    def look():
        listed = call("GET", url("neutron", "/v2.0/agents"))["agents"]
        fresh = [one for one in listed if one["heartbeat_timestamp"].replace(" ", "T")[:19] >= os.environ["SINCE"]]
        return wanted <= {one["agent_type"] for one in fresh if one["alive"]}

    wait_for("Neutron's agents", look)


log_in()
{"identity": identity, "cloud": cloud, "compute": compute, "agents": agents}[STAGE]()
