"""Peers that check credentials, each in its own way: nginx asks, HAProxy verifies."""

from . import backends
from .gateways import new_folder
from .guarded import SERVER_CPU
from .peers import haproxy_begins
from .process import Process, free_ports


def nginx(folder, backend):
    """The checker is a server of the same nginx, and allows at once: the cost of the subrequest."""
    place = new_folder(folder / "nginx")
    port, checker = free_ports(2)
    file = place / "nginx.conf"
    file.write_text(f"""
daemon off;
worker_processes 1;
pid {place}/nginx.pid;
error_log {place}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log {place}/access.log combined buffer=64k flush=1s;
    keepalive_requests 100000000; keepalive_time 1h;
    client_body_temp_path {place}; proxy_temp_path {place}; fastcgi_temp_path {place}; uwsgi_temp_path {place}; scgi_temp_path {place};
    upstream backend {{ server 127.0.0.1:{backend}; keepalive 256; keepalive_requests 100000000; keepalive_time 1h; }}
    upstream checker {{ server 127.0.0.1:{checker}; keepalive 256; keepalive_requests 100000000; keepalive_time 1h; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            auth_request /check;
            proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Request-Id $request_id; proxy_set_header Authorization "";
        }}
        location = /check {{
            internal;
            proxy_pass http://checker; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_pass_request_body off; proxy_set_header Content-Length "";
        }}
    }}
    server {{ listen 127.0.0.1:{checker}; access_log off; location / {{ return 204; }} }}
}}
""")
    return Process("nginx", ["nginx", "-p", place, "-c", file], SERVER_CPU, place, [port]), port


def haproxy(folder, backend, key=None):
    """With a key it verifies the signature of every request; the claims are not checked. Without one it only forwards."""
    name = "haproxy-verifying" if key else "haproxy"
    place = new_folder(folder / name)
    (port,) = free_ports(1)
    log = backends.LogServer()
    file = place / "haproxy.cfg"
    file.write_text(f"""{haproxy_begins('http', log.port)}frontend in
    bind 127.0.0.1:{port}
    option httplog
    option forwardfor
{verify(key) if key else ''}    http-request del-header authorization
    default_backend backend
backend backend
    http-reuse always
    server s 127.0.0.1:{backend}
""")
    return Process(name, ["haproxy", "-db", "-f", file], SERVER_CPU, place, [port]), port


def verify(key):
    return f"""
    http-request set-var(txn.bearer) http_auth_bearer
    http-request set-var(txn.algorithm) var(txn.bearer),jwt_header_query('$.alg')
    http-request deny unless {{ var(txn.algorithm) -m str ES256 }}
    http-request deny unless {{ var(txn.bearer),jwt_verify(txn.algorithm,"{key.public}") 1 }}
"""
