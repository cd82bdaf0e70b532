"""Gateways in front of several backends, with the retries that each of them offers."""

from dataclasses import dataclass

from .gateways import HOST, listeners_for_operators
from .peers import haproxy_begins, haproxy_bind
from .process import Process, status, wait_for


@dataclass(frozen=True)
class Place:
    """Where a gateway is set up."""

    folder: object
    port: int
    admin_port: int
    log_port: int
    backend_ports: list
    certificate: object
    key: object
    cpu: int
    nginx_balancing: str = ""
    # The port of a shadow, which gets copies of all requests.
    shadow_port: int | None = None


def nginx(place, shape, _upstream, _program):
    """nginx, which tries the next backend by default. For gRPC, whose requests are POSTs, that must be allowed.

    A backend that failed is avoided for as long as it is away, not for the 10 s of the default: then all three would be avoided at times.
    """
    listen = f"listen 127.0.0.1:{place.port}" + (" ssl" if shape.tls else "") + (" http2" if shape.http2 else "")
    forward = (
        "grpc_pass grpc://backend; grpc_next_upstream error timeout non_idempotent;"
        if shape.grpc
        else 'proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";'
    )
    servers = "".join(f"server 127.0.0.1:{port} fail_timeout=1s; " for port in place.backend_ports)
    file = place.folder / "nginx.conf"
    file.write_text(f"""
daemon off;
worker_processes 1;
pid {place.folder}/nginx.pid;
error_log {place.folder}/nginx.error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    keepalive_time 1h;
    client_body_temp_path {place.folder}; proxy_temp_path {place.folder};
    fastcgi_temp_path {place.folder}; uwsgi_temp_path {place.folder}; scgi_temp_path {place.folder};
    ssl_certificate {place.certificate};
    ssl_certificate_key {place.key};
    ssl_protocols TLSv1.2 TLSv1.3;
    upstream backend {{ {place.nginx_balancing} {servers} keepalive 256; keepalive_requests 100000000; keepalive_time 1h; }}
    server {{
        {listen};
        server_name {HOST};
        location / {{ {forward} }}
    }}
}}
""")
    return Process("nginx", ["nginx", "-p", place.folder, "-c", file], place.cpu, place.folder, [place.port])


def haproxy(place, shape, upstream, _program):
    """HAProxy, which tries another backend after failed connections and empty responses."""
    protocol = " proto h2" if upstream == "h2c" else ""
    servers = "".join(f"\n    server s{port} 127.0.0.1:{port}{protocol}" for port in place.backend_ports)
    file = place.folder / "haproxy.cfg"
    file.write_text(f"""{haproxy_begins('http', place.log_port)}frontend in
    {haproxy_bind(place, shape)}
    default_backend backend
backend backend
    balance leastconn
    http-reuse always
    option redispatch 1
    retries 3
    retry-on conn-failure empty-response{servers}
""")
    return Process("haproxy", ["haproxy", "-db", "-f", file], place.cpu, place.folder, [place.port])


def portcullis(place, shape, upstream, program):
    """Portcullis on a folder of manifests. gRPC requests are POSTs, which must be allowed to be sent again."""
    manifests = place.folder / "manifests"
    manifests.mkdir()
    protocol = "kubernetes.io/h2c" if upstream == "h2c" else "http"
    slices = "".join(_slice("web", port) for port in place.backend_ports)
    if place.shadow_port:
        slices += f"""---
apiVersion: v1
kind: Service
metadata: {{name: next, namespace: bench, annotations: {{portcullis.dev/canary-of: web, portcullis.dev/mirror-percent: "100"}}}}
spec:
  ports: [{{name: web, port: 80, appProtocol: {protocol}}}]
{_slice("next", place.shadow_port)}"""
    annotations = '{portcullis.dev/retry-non-idempotent: "true"}' if shape.grpc else "{}"
    (manifests / "bench.yaml").write_text(f"""
apiVersion: v1
kind: Namespace
metadata:
  name: bench
  labels: {{portcullis.dev/environment: bench}}
  annotations: {{portcullis.dev/expose: all, portcullis.dev/require: none}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: bench, annotations: {annotations}}}
spec:
  ports: [{{name: web, port: 80, appProtocol: {protocol}}}]
{slices}""")
    file = place.folder / "portcullis.yaml"
    http, https = ("null", f"127.0.0.1:{place.port}") if shape.tls else (f"127.0.0.1:{place.port}", "null")
    file.write_text(f"""
zone: example.test
source: {{directory: {manifests}}}
workers: 1
listeners:
  http: {{address: {http}, mode: serve}}
  https: {{address: {https}}}
{listeners_for_operators(program, place.folder, place.admin_port)}
certificates: [{{files: {{certificate: {place.certificate}, key: {place.key}}}}}]
accessLog: {{format: none}}
""")
    process = Process("portcullis", [program, "gateway", "--config", file], place.cpu, place.folder, [place.port, place.admin_port])
    wait_for(lambda: status(place.admin_port, "localhost", "/readyz") == 200, "portcullis is ready")
    return process


def _slice(service, port):
    return f"""---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-{port}, namespace: bench, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports: [{{name: web, port: {port}, protocol: TCP}}]
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]
"""


GATEWAYS = {"portcullis": portcullis, "haproxy": haproxy, "nginx": nginx}
