"""Those that take part in a row, and their start."""

import os
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

from . import backends
from .gateways import HOST, Place, Portcullis, make_certificate, new_folder
from .peers import Caddy, HAProxy, Nginx, Pingora
from .process import Failed, free_ports

SERVER_CPU, LOAD_CPU = 0, 1
BOTH_CPUS = "0,1"
# Those that Portcullis has its goal against.
PEERS = ["nginx", "haproxy", "caddy", "pingora"]


def gateways(options):
    """All that were chosen, Portcullis first."""
    all_of_them = [Portcullis(options.portcullis), Nginx(), HAProxy(), HAProxy(passthrough=True), Caddy(), Pingora()]
    chosen = [one for one in all_of_them if one.name in options.gateways]
    if options.before:
        chosen.insert(1, Portcullis(options.before, name="before"))
    return chosen


def contestants(row, options):
    """Those of a row: Portcullis and its peers, or Portcullis in its variations."""
    chosen = [one for one in gateways(options) if one.serves(row)]
    if not row.variations:
        return chosen
    variations = [Portcullis(options.portcullis, name, variation) for name, variation in row.variations.items()]
    return [one for one in chosen if one.name in ("portcullis", "before")] + variations


@contextmanager
def started(row, chosen, connections=4096):
    """The backend of the row, and its gateways by name: each with its port. The folder has what the load sends."""
    with tempfile.TemporaryDirectory(prefix="portcullis-bench-") as folder, ExitStack() as running:
        folder = Path(folder)
        folder.chmod(0o755)  # nginx, started by root, reads as another user
        certificate, key = make_certificate(folder)
        log = backends.LogServer()
        (backend_port,) = free_ports(1)
        own = new_folder(folder / "backend")
        if row.shape.echo:
            backend = running.enter_context(backends.start_echo(row.shape.grpc, own, backend_port, LOAD_CPU))
        else:
            backend = running.enter_context(backends.start(row.upstream, own, backend_port, LOAD_CPU, row.addresses))
        found = {}
        for gateway in chosen:
            port, admin_port = free_ports(2)
            cpu = BOTH_CPUS if gateway.workers > 1 else SERVER_CPU
            own = new_folder(folder / gateway.name.replace(" ", "-").replace(",", ""))
            place = Place(own, port, admin_port, log.port, backend_port, certificate, key, cpu, connections)
            found[gateway.name] = running.enter_context(gateway.start(row, place)), port
        yield folder, backend, found


def visitor(port):
    """The cookie of a browser, which the gateway recognizes it by: as `name=value`."""
    page = [part for field in ("Accept: text/html", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document") for part in ("--header", field)]
    command = ["curl", "--silent", "--insecure", "--resolve", f"{HOST}:{port}:127.0.0.1", "--dump-header", "-", "--output", os.devnull, *page]
    done = subprocess.run([*command, f"https://{HOST}:{port}/get"], check=True, capture_output=True, text=True)
    cookies = [line.partition(":")[2].partition(";")[0].strip() for line in done.stdout.splitlines() if line.lower().startswith("set-cookie:")]
    if len(cookies) != 1:
        raise Failed(f"a browser got {len(cookies)} cookies: {done.stdout}")
    return cookies[0]
