"""The backends: nginx with a file of 1 KiB and one of 1 MiB, over HTTP/1.1 or HTTP/2 without TLS; an echo; and a log server."""

import json
import socket
import threading

from .load import BODY_BYTES
from .process import Process, free_ports
from .programs import LOAD

MESSAGE_PREFIX_BYTES = 5
LARGE_BYTES = 1 << 20


def grpc_message(length):
    """A gRPC message of `length` bytes in all, its prefix included."""
    payload = length - MESSAGE_PREFIX_BYTES
    return b"\0" + payload.to_bytes(4, "big") + b"x" * payload


def loopback(number):
    """The addresses of a backend, from 0 on."""
    return f"127.0.{number // 250}.{number % 250 + 1}"


def start(upstream, folder, port, cpu, addresses=1):
    """Answers GET /get with `BODY_BYTES` bytes, GET /large with `LARGE_BYTES`, POST /upload with `BODY_BYTES` after it has read the whole request, and
    POST /post (gRPC) with a message of as many and the trailer `grpc-status: 0`."""
    files = folder / "files"
    files.mkdir()
    (files / "get").write_bytes(b"x" * BODY_BYTES)
    (files / "large").write_bytes(b"x" * LARGE_BYTES)
    for name in ("post", "upload"):
        (files / name).write_bytes(b"")  # found, so that the answer is 405 and not 404
    (files / "message").write_bytes(grpc_message(BODY_BYTES))
    listen = [f"listen {loopback(number)}:{port} {'http2' if upstream == 'h2c' else ''};" for number in range(addresses)]
    file = folder / "backend.conf"
    file.write_text(f"""
daemon off;
worker_processes 1;
pid {folder}/backend.pid;
error_log {folder}/backend.error.log;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    keepalive_time 1h;
    http2_max_concurrent_streams 1000;
    open_file_cache max=10;
    client_max_body_size 16m; client_body_buffer_size 2m;
    client_body_temp_path {folder}; proxy_temp_path {folder};
    fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        {" ".join(listen)}
        root {files};
        location = /get {{ }}
        location = /post {{
            mirror /whole;  # has the request's body read to its end before it is answered
            error_page 405 =200 /message;
        }}
        location = /upload {{
            mirror /whole;
            error_page 405 =200 /get;
        }}
        location = /whole {{ internal; return 204; }}
        location = /message {{
            internal;
            default_type application/grpc;
            add_trailer grpc-status 0;
        }}
    }}
}}
""")
    return Process("backend", ["nginx", "-p", folder, "-c", file], cpu, folder, [port])


def start_echo(grpc, folder, port, cpu):
    """Echoes the messages of WebSockets over HTTP/1.1, or of streams of gRPC over HTTP/2 without TLS."""
    (other,) = free_ports(1)
    ports = {"grpc": port, "websocket": other} if grpc else {"grpc": other, "websocket": port}
    addresses = {kind: f"127.0.0.1:{number}" for kind, number in ports.items()}
    return Process("backend", [LOAD.path, json.dumps({"echo": addresses})], cpu, folder, [port])


class LogServer:
    """Receives the logs of HAProxy's ring, so that logging costs it as much as gateways that write files."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.received = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self._drain, args=[connection], daemon=True).start()

    def _drain(self, connection):
        with connection:
            while data := connection.recv(1 << 20):
                self.received += len(data)
