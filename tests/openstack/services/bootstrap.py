"""What is done over the services' own interfaces before anybody comes: users, projects, the catalogue, networks.

bootstrap.py STAGE PORTS_FILE PASSWORD "PARTS"; doing a stage twice is success.
"""

import sys

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


log_in()
{"identity": identity}[STAGE]()
