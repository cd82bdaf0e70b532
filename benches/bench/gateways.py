"""What is compared: Portcullis, and what it shares with its peers (see `peers`), each set up for the same work.

All of them use one worker, keep connections to the backend, route by host, set the same headers for the backend (X-Forwarded-For,
-Proto, -Host, -Port, X-Real-IP, X-Request-Id), count requests for metrics, and write an access log that is gathered in memory and written out of the
request's way: nginx by `buffer=`, HAProxy by a ring whose content goes to a log server, Pingora by a buffer, Portcullis as it always does. Caddy has no such buffer.
"""

import subprocess
from dataclasses import dataclass

from .backends import loopback
from .process import Process, status

HOST = "web--bench.example.test"


@dataclass(frozen=True)
class Place:
    """Where a gateway is set up."""

    folder: object
    port: int
    admin_port: int
    log_port: int
    backend_port: int
    certificate: object
    key: object
    # One, or a list such as `0,1`.
    cpu: object
    # The most connections from clients and to backends that it must be able to hold.
    connections: int = 4096


def new_folder(folder):
    folder.mkdir()
    return folder


def listeners_for_operators(program, folder, port):
    """Settings that put probes on `port`, and nothing else beside clients. A binary from before the split of listeners has all on one."""
    settings = f'probes: {{address: "127.0.0.1:{port}"}}\ntelemetry: {{address: null}}\nadmin: {{address: null}}'
    file = folder / "listeners.yaml"
    file.write_text(f"zone: example.test\nsource: {{directory: {folder}}}\n{settings}\n")
    unusable = subprocess.run([program, "check", file], capture_output=True).returncode == 2
    file.unlink()
    return f'admin: {{address: "127.0.0.1:{port}"}}' if unusable else settings


def make_certificate(folder):
    """A self-signed one on the curve P-256, as public certificate authorities issue them by default."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={HOST}",
         "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@dataclass(frozen=True)
class Variation:
    """How a Portcullis differs from the one that is compared with peers."""

    workers: int = 1
    services: int = 1
    # Of each service.
    endpoints: int = 1
    # Two variants of the service, between which browsers are divided by their cookie.
    canary: bool = False


class Portcullis:
    """Portcullis on a folder of manifests, as `kubectl apply -f` would take them."""

    def __init__(self, program, name="portcullis", variation=Variation()):
        self.program, self.name, self.variation = program, name, variation

    @property
    def workers(self):
        return self.variation.workers

    def serves(self, _row):
        return True

    def version(self):
        said = subprocess.run([self.program, "--version"], check=True, capture_output=True, text=True).stdout
        return said.strip()

    def start(self, row, place):
        manifests = place.folder / "manifests"
        manifests.mkdir()
        (manifests / "bench.yaml").write_text(self._manifests(row, place))
        file = place.folder / "portcullis.yaml"
        http, https = ("null", f"127.0.0.1:{place.port}") if row.shape.tls else (f"127.0.0.1:{place.port}", "null")
        file.write_text(f"""
zone: example.test
source: {{directory: {manifests}}}
workers: {self.variation.workers}
listeners:
  http: {{address: {http}, mode: serve}}
  https: {{address: {https}}}
{listeners_for_operators(self.program, place.folder, place.admin_port)}
limits: {{connectionsPerClient: {place.connections}}}
timeouts: {{clientIdle: 10m}}
drain: {{delay: 0s, deadline: 1s}}
certificates: [{{files: {{certificate: {place.certificate}, key: {place.key}}}}}]
accessLog: {{format: combined, file: {place.folder}/portcullis.access.log}}
""")
        process = Process(self.name, [self.program, "gateway", "--config", file], place.cpu, place.folder, [place.port, place.admin_port])
        process.wait_for(lambda: status(place.admin_port, "localhost", "/readyz") == 200, "portcullis is ready")
        return process

    def _manifests(self, row, place):
        protocol = "kubernetes.io/h2c" if row.upstream == "h2c" else "http"
        services = [_service(name, "{}", protocol, place.backend_port, self.variation.endpoints) for name in ("web", *(f"s{number}" for number in range(1, self.variation.services)))]
        if self.variation.canary:
            services[0] = _service("web", "{portcullis.dev/affinity: cookie}", protocol, place.backend_port)
            canary = '{portcullis.dev/canary-of: web, portcullis.dev/canary-weight: "50"}'
            services.append(_service("next", canary, protocol, place.backend_port))
        return f"""
apiVersion: v1
kind: Namespace
metadata:
  name: bench
  labels: {{portcullis.dev/environment: bench}}
  annotations: {{portcullis.dev/expose: all, portcullis.dev/require: none}}
{"".join(services)}"""


def _service(name, annotations, protocol, port, endpoints=1):
    pods = ", ".join(f"{{addresses: [{loopback(number)}], conditions: {{ready: true}}}}" for number in range(endpoints))
    return f"""---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: bench, annotations: {annotations}}}
spec:
  ports: [{{name: web, port: 80, appProtocol: {protocol}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: bench, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: web, port: {port}, protocol: TCP}}]
endpoints: [{pods}]
"""
