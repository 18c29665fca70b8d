#!/usr/bin/env bash
# Every port of the stack but the gateways' is there for this machine alone, and whoever asks without a
# secret is refused on each that does more than tell its health.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib/common.sh"
# shellcheck source=scripts/lib/check.sh
source "$SCRIPTS/lib/check.sh"

python3 - "$REALCHAT_DIR" <<'PYTHON'
import glob, ipaddress, os, re, socket, struct, sys, urllib.error, urllib.request

folder = sys.argv[1]
env = dict(re.findall(r"^(\w+)='(.*)'$", open(f"{folder}/env").read(), re.M))
wrong = []

# Who listens where: the sockets of a process, in the tables of the kernel.
def address(text):
    host, port = text.split(":")
    raw = b"".join(struct.pack("<I", int(host[at : at + 8], 16)) for at in range(0, len(host), 8))
    found = ipaddress.ip_address(raw)
    return getattr(found, "ipv4_mapped", None) or found, int(port, 16)

listening = {}
for table in ("/proc/net/tcp", "/proc/net/tcp6"):
    for line in open(table).read().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":
            listening[f"socket:[{fields[9]}]"] = address(fields[1])
counted = 0
for name, pid in env.items():
    if not name.endswith("_PID"):
        continue
    for link in glob.glob(f"/proc/{pid}/fd/*"):
        try:
            found = listening.get(os.readlink(link))
        except OSError:
            continue
        if found:
            counted += 1
            if not found[0].is_loopback:
                wrong.append(f"{name}: {found[0]} port {found[1]} is open to other machines")
if counted < 10:
    wrong.append(f"only {counted} ports were found")

# The links: who does not prove the secret gets a challenge at most, and is hung up on.
def probe(name, host, port, payload):
    with socket.create_connection((host, port), timeout=10) as stream:
        stream.sendall(payload)
        answer = b""
        try:
            while chunk := stream.recv(65536):
                answer += chunk
        except TimeoutError:
            wrong.append(f"{name}: {payload[:20]} was not hung up on within 10 s")
        except ConnectionError:
            pass
    if len(answer) > 128:
        wrong.append(f"{name}: {payload[:20]} was answered with {len(answer)} bytes")

links = 0
for daemon in ("chatd", "presenced"):
    text = open(f"{folder}/config/{daemon}.toml").read()
    host, port = re.search(r'\[link\][^[]*?listen = "([^":]+):(\d+)"', text).groups()
    links += 1
    for payload in (
        b"GET / HTTP/1.1\r\nHost: link\r\n\r\n",
        struct.pack(">I", 40) + bytes(40),
        struct.pack(">I", 0x7FFFFFFF) + bytes(100),
        os.urandom(4_000),
    ):
        probe(f"{daemon}'s link", host, int(port), payload)

# Admin ports tell, and take no orders.
admins = [url for name, url in env.items() if name.endswith("_ADMIN_URL")]
for url in admins:
    for method, path in (("POST", "/metrics"), ("PUT", "/failpoints"), ("GET", "/failpoints"), ("GET", "/../env")):
        request = urllib.request.Request(url + path, method=method)
        try:
            status = urllib.request.urlopen(request, timeout=10).status
        except urllib.error.HTTPError as error:
            status = error.code
        if status not in (400, 404, 405):
            wrong.append(f"{url}: {method} {path} was answered with {status}")

# The parts: no password, no answer.
host, port = re.search(r"@([\d.]+):(\d+)/", env["REDIS_URL"]).groups()
with socket.create_connection((host, int(port)), timeout=10) as stream:
    stream.sendall(b"KEYS *\r\n")
    answer = stream.recv(200)
    if not answer.startswith(b"-NOAUTH"):
        wrong.append(f"Redis answered {answer[:60]} without a password")
host, port = re.search(r"@([\d.]+):(\d+)/", env["DATABASE_URL"]).groups()
with socket.create_connection((host, int(port)), timeout=10) as stream:
    body = struct.pack(">I", 196608) + b"user\0realchat\0database\0realchat\0\0"
    stream.sendall(struct.pack(">I", len(body) + 4) + body)
    kind, _, method = struct.unpack(">cII", stream.recv(9))
    # 0 would be: come in.
    if kind == b"R" and method == 0:
        wrong.append("PostgreSQL asks for no password")

for line in wrong:
    print("wrong:", line, file=sys.stderr)
print(f"{counted} ports are this machine's alone; {links} links, {len(admins)} admin ports, Redis and PostgreSQL refuse")
sys.exit(bool(wrong))
PYTHON
