"""What is compared: Portcullis and its peers, each set up for the same work.

All of them use one worker, keep connections to the backend, route by host, set the same headers for the backend (X-Forwarded-For,
-Proto, -Host, -Port, X-Real-IP, X-Request-Id), count requests for metrics, and write an access log that is gathered in memory and written out of the
request's way: nginx by `buffer=`, HAProxy by a ring whose content goes to a log server, Portcullis as it always does.
"""

import subprocess
from dataclasses import dataclass

from .process import Process, status, wait_for

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
    cpu: int


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


class Nginx:
    """nginx; `keepalive` connections to the backend, HTTP/1.1, or `grpc_pass`."""

    name = "nginx"

    def serves(self, row):
        return row.upstream == "http1" or row.shape.grpc

    def start(self, row, place):
        listen = f"listen 127.0.0.1:{place.port}" + (" ssl" if row.shape.tls else "") + (" http2" if row.shape.http2 else "")
        set_header, forward = ("grpc_set_header", "grpc_pass grpc://backend;") if row.shape.grpc else (
            "proxy_set_header", 'proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";')
        file = place.folder / "nginx.conf"
        file.write_text(f"""
daemon off;
worker_processes 1;
pid {place.folder}/nginx.pid;
error_log {place.folder}/nginx.error.log;
events {{ worker_connections 4096; }}
http {{
    access_log {place.folder}/nginx.access.log combined buffer=64k flush=1s;
    keepalive_requests 100000000;
    keepalive_time 1h;
    client_body_temp_path {place.folder}; proxy_temp_path {place.folder};
    fastcgi_temp_path {place.folder}; uwsgi_temp_path {place.folder}; scgi_temp_path {place.folder};
    ssl_certificate {place.certificate};
    ssl_certificate_key {place.key};
    ssl_protocols TLSv1.2 TLSv1.3;
    upstream backend {{
        server 127.0.0.1:{place.backend_port};
        keepalive 256; keepalive_requests 100000000; keepalive_time 1h;
    }}
    server {{
        {listen};
        server_name {HOST};
        location / {{
            {forward}
            {set_header} Host $host;
            {set_header} X-Forwarded-For $remote_addr;
            {set_header} X-Forwarded-Proto $scheme;
            {set_header} X-Forwarded-Host $host;
            {set_header} X-Forwarded-Port $server_port;
            {set_header} X-Real-IP $remote_addr;
            {set_header} X-Request-Id $request_id;
        }}
    }}
    server {{ listen 127.0.0.1:{place.admin_port}; access_log off; location / {{ stub_status; }} }}
}}
""")
        return Process(self.name, ["nginx", "-p", place.folder, "-c", file], place.cpu, place.folder, [place.port])


def haproxy_begins(mode, log_port):
    """What HAProxy's configuration begins with: one thread, and a log that is gathered in a ring."""
    return f"""
global
    nbthread 1
    maxconn 4096
    log ring@log local0
ring log
    format rfc5424
    size 4000000
    timeout connect 5s
    timeout server 60s
    server log 127.0.0.1:{log_port}
defaults
    mode {mode}
    log global
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-request 10s
"""


class HAProxy:
    """HAProxy; `passthrough` moves bytes only, and is the lower bound for a proxy of this kind."""

    def __init__(self, passthrough=False):
        self.passthrough = passthrough
        self.name = "haproxy-tcp" if passthrough else "haproxy"

    def serves(self, row):
        return row.floor or not self.passthrough

    def start(self, row, place):
        bind = f"bind 127.0.0.1:{place.port}"
        if row.shape.tls:
            bind += f" ssl crt {place.folder}/both.pem alpn {'h2' if row.shape.http2 else 'http/1.1'}"
            (place.folder / "both.pem").write_text(place.certificate.read_text() + place.key.read_text())
        elif row.shape.http2:
            bind += " proto h2"
        server = f"server s 127.0.0.1:{place.backend_port}" + (" proto h2" if row.upstream == "h2c" else "")
        http = f"""
    option httplog
    option dontlognull
    option forwardfor
    unique-id-format %{{+X}}o%ci%cp%Ts%rt%pid
    unique-id-header X-Request-Id
    http-request set-header X-Forwarded-Proto {'https' if row.shape.tls else 'http'}
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    http-request set-header X-Real-IP %[src]
    use_backend backend if {{ req.hdr(host),field(1,:) -i {HOST} }}"""
        file = place.folder / f"{self.name}.cfg"
        file.write_text(f"""{haproxy_begins('tcp' if self.passthrough else 'http', place.log_port)}frontend in
    {bind}
    {'option tcplog' if self.passthrough else http}
    default_backend backend
backend backend
    {'' if self.passthrough else 'http-reuse always'}
    {server}
frontend metrics
    mode http
    no log
    bind 127.0.0.1:{place.admin_port}
    http-request use-service prometheus-exporter
""")
        return Process(self.name, ["haproxy", "-db", "-f", file], place.cpu, place.folder, [place.port])


class Portcullis:
    """Portcullis on a folder of manifests, as `kubectl apply -f` would take them."""

    def __init__(self, program, name="portcullis"):
        self.program, self.name = program, name

    def serves(self, _row):
        return True

    def start(self, row, place):
        manifests = place.folder / "manifests"
        manifests.mkdir()
        protocol = "kubernetes.io/h2c" if row.upstream == "h2c" else "http"
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
metadata: {{name: web, namespace: bench}}
spec:
  ports: [{{name: web, port: 80, appProtocol: {protocol}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: bench, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: web, port: {place.backend_port}, protocol: TCP}}]
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]
""")
        file = place.folder / "portcullis.yaml"
        http, https = ("null", f"127.0.0.1:{place.port}") if row.shape.tls else (f"127.0.0.1:{place.port}", "null")
        file.write_text(f"""
zone: example.test
source: {{directory: {manifests}}}
workers: 1
listeners:
  http: {{address: {http}, mode: serve}}
  https: {{address: {https}}}
{listeners_for_operators(self.program, place.folder, place.admin_port)}
certificates: [{{files: {{certificate: {place.certificate}, key: {place.key}}}}}]
accessLog: {{format: combined, file: {place.folder}/portcullis.access.log}}
""")
        process = Process(self.name, [self.program, "gateway", "--config", file], place.cpu, place.folder, [place.port, place.admin_port])
        wait_for(lambda: status(place.admin_port, "localhost", "/readyz") == 200, "portcullis is ready")
        return process
