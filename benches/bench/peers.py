"""The peers of Portcullis: nginx, HAProxy, Caddy and a plain proxy of Pingora, each set up for the same work (see `gateways`)."""

import json
import re
import subprocess

from .gateways import HOST
from .process import PATH, Process
from .programs import PINGORA


class Peer:
    """A gateway with one worker that serves every kind of work."""

    workers = 1

    def serves(self, _row):
        return True


class Nginx(Peer):
    """nginx; `keepalive` connections to the backend, HTTP/1.1, or `grpc_pass`. Bodies are passed on as they arrive, and none goes through a file."""

    name = "nginx"

    def serves(self, row):
        return row.upstream == "http1" or row.shape.grpc

    def version(self):
        return said(["nginx", "-v"])

    def start(self, row, place):
        listen = f"listen 127.0.0.1:{place.port}" + (" ssl" if row.shape.tls else "") + (" http2" if row.shape.http2 else "")
        connection = "upgrade" if row.shape.echo else ""
        set_header, forward = ("grpc_set_header", "grpc_pass grpc://backend;") if row.shape.grpc else (
            "proxy_set_header", f'proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "{connection}";')
        upgrade = "proxy_set_header Upgrade $http_upgrade;" if row.shape.echo and not row.shape.grpc else ""
        file = place.folder / "nginx.conf"
        file.write_text(f"""
daemon off;
worker_processes 1;
pid {place.folder}/nginx.pid;
error_log {place.folder}/nginx.error.log;
worker_rlimit_nofile {place.connections + 512};
events {{ worker_connections {place.connections}; }}
http {{
    access_log {place.folder}/nginx.access.log combined buffer=64k flush=1s;
    keepalive_requests 100000000;
    keepalive_time 1h;
    keepalive_timeout 10m;
    http2_max_concurrent_streams 1000;
    client_max_body_size 16m;
    proxy_request_buffering off; proxy_max_temp_file_size 0;
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
            {upgrade}
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


def haproxy_begins(mode, log_port, connections=4096):
    """What HAProxy's configuration begins with: one thread, and a log that is gathered in a ring."""
    return f"""
global
    nbthread 1
    maxconn {connections}
    no strict-limits
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


def haproxy_bind(place, shape):
    """Where HAProxy listens, with TLS by a file that has both chain and key."""
    bind = f"bind 127.0.0.1:{place.port}"
    if shape.tls:
        (place.folder / "both.pem").write_text(place.certificate.read_text() + place.key.read_text())
        return f"{bind} ssl crt {place.folder}/both.pem alpn {'h2' if shape.http2 else 'http/1.1'}"
    return f"{bind} proto h2" if shape.http2 else bind


class HAProxy(Peer):
    """HAProxy; `passthrough` moves bytes only, and is the lower bound for a proxy of this kind."""

    def __init__(self, passthrough=False):
        self.passthrough = passthrough
        self.name = "haproxy-tcp" if passthrough else "haproxy"

    def serves(self, row):
        return row.floor or not self.passthrough

    def version(self):
        return said(["haproxy", "-v"])

    def start(self, row, place):
        bind = haproxy_bind(place, row.shape)
        server = f"server s 127.0.0.1:{place.backend_port}" + (" proto h2" if row.upstream == "h2c" else "")
        http = f"""
    option httplog
    option dontlognull
    option forwardfor
    timeout http-keep-alive 10m
    unique-id-format %{{+X}}o%ci%cp%Ts%rt%pid
    unique-id-header X-Request-Id
    http-request set-header X-Forwarded-Proto {'https' if row.shape.tls else 'http'}
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    http-request set-header X-Real-IP %[src]
    use_backend backend if {{ req.hdr(host),field(1,:) -i {HOST} }}"""
        file = place.folder / f"{self.name}.cfg"
        file.write_text(f"""{haproxy_begins('tcp' if self.passthrough else 'http', place.log_port, place.connections)}frontend in
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


class Caddy(Peer):
    """Caddy, with one processor for Go code. It writes each line of its access log at once: it has no buffer for them."""

    name = "caddy"

    def version(self):
        return "Caddy " + said(["caddy", "version"])

    def start(self, row, place):
        scheme = "https" if row.shape.tls else "http"
        versions = "h2c 2" if row.upstream == "h2c" else "1.1"
        file = place.folder / "Caddyfile"
        file.write_text(f"""
{{
    admin off
    auto_https off
    storage file_system {place.folder}
    servers {{
        metrics
        protocols h1{' h2' if row.shape.http2 else ''}
        timeouts {{
            idle 10m
        }}
    }}
}}
{scheme}://{HOST}:{place.port} {{
    bind 127.0.0.1
    {f'tls {place.certificate} {place.key}' if row.shape.tls else ''}
    log {{
        output file {place.folder}/caddy.access.log {{
            roll_disabled
        }}
    }}
    reverse_proxy {{
        to {'h2c' if row.upstream == 'h2c' else 'http'}://127.0.0.1:{place.backend_port}
        flush_interval -1
        header_up X-Forwarded-Port {{http.request.port}}
        header_up X-Real-IP {{http.request.remote.host}}
        header_up X-Request-Id {{http.request.uuid}}
        transport http {{
            versions {versions}
            keepalive 1h
            keepalive_idle_conns 256
            keepalive_idle_conns_per_host 256
            compression off
        }}
    }}
}}
http://metrics.test:{place.admin_port} {{
    bind 127.0.0.1
    metrics
}}
""")
        command = ["env", "GOMAXPROCS=1", "caddy", "run", "--adapter", "caddyfile", "--config", file]
        return Process(self.name, command, place.cpu, place.folder, [place.port])


class Pingora(Peer):
    """The proxy in benches/peers, with one thread."""

    name = "pingora"

    def version(self):
        lock = (PINGORA.source / "Cargo.lock").read_text()
        version, openssl = (re.search(rf'name = "{crate}"\nversion = "(.*)"', lock).group(1) for crate in ("pingora-proxy", "openssl-src"))
        return f"Pingora {version} with OpenSSL {openssl.partition('+')[2]}"

    def start(self, row, place):
        settings = {
            "listen": f"127.0.0.1:{place.port}",
            "host": HOST,
            "backend": f"127.0.0.1:{place.backend_port}",
            "h2c": row.upstream == "h2c",
            "tls": [str(place.certificate), str(place.key)] if row.shape.tls else None,
            "http2": row.shape.http2,
            "access_log": str(place.folder / "pingora.access.log"),
        }
        file = place.folder / "pingora.json"
        file.write_text(json.dumps(settings))
        return Process(self.name, [PINGORA.path, file], place.cpu, place.folder, [place.port])


def said(command):
    """The first line that a program says about its version, without what follows the number."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": PATH})
    line = (done.stdout + done.stderr).strip().splitlines()[0]
    return re.sub(r"^(nginx) version: nginx/|^(HAProxy) version ", r"\1\2 ", line).split(" 20")[0]
