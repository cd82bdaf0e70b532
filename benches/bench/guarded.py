"""A gateway that requires credentials, and the issuer of tokens that it trusts."""

import base64
import http.client
import http.server
import json
import subprocess
import threading
import time
import urllib.parse

from .gateways import listeners_for_operators, new_folder
from .process import Process, free_ports, status, wait_for

SERVER_CPU, LOAD_CPU = 0, 1
ZONE = "example.test"
PERSON = {"sub": "1", "email": "ann@example.com", "email_verified": True, "groups": ["dev", "ops"]}


class Key:
    """A key on P-256, by way of openssl."""

    def __init__(self, folder):
        self.private, self.public = folder / "issuer.key", folder / "issuer.pub"
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.private], check=True)
        subprocess.run(["openssl", "ec", "-in", self.private, "-pubout", "-out", self.public], check=True, capture_output=True)
        self.public.chmod(0o644)

    def document(self):
        point = subprocess.run(["openssl", "ec", "-in", self.private, "-pubout", "-outform", "DER"], check=True, capture_output=True).stdout[-64:]
        return {"keys": [{"kty": "EC", "crv": "P-256", "kid": "bench", "x": encoded(point[:32]), "y": encoded(point[32:])}]}

    def token(self, claims):
        message = ".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "ES256", "typ": "JWT", "kid": "bench"}, claims))
        der = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.private], input=message.encode(), check=True, capture_output=True).stdout
        # SEQUENCE of two INTEGERs, each of which may have a leading zero or be short.
        length = der[3]
        numbers = der[4 : 4 + length], der[6 + length :]
        return f"{message}.{encoded(b''.join(number.lstrip(bytes(1)).rjust(32, bytes(1)) for number in numbers))}"


class Issuer:
    """A minimal OpenID provider for one login: it accepts every user."""

    def __init__(self, key):
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                path, _, query = self.path.partition("?")
                asked = dict(urllib.parse.parse_qsl(query))
                if path == "/authorize":
                    issuer.nonce = asked["nonce"]
                    self.send_response(302)
                    back = urllib.parse.urlencode({"code": "code", "state": asked["state"]})
                    self.send_header("location", f"{asked['redirect_uri']}?{back}")
                    self.send_header("content-length", "0")
                    self.end_headers()
                else:
                    self.say(key.document() if path == "/keys" else issuer.discovery())

            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                now = int(time.time())
                claims = {"iss": issuer.url, "aud": "bench", "iat": now, "exp": now + 3600, "nonce": issuer.nonce, **PERSON}
                self.say({"id_token": key.token(claims), "access_token": "none", "token_type": "Bearer"})

            def say(self, document):
                body = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.nonce = None
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def discovery(self):
        return {"issuer": self.url, "jwks_uri": f"{self.url}/keys", "authorization_endpoint": f"{self.url}/authorize", "token_endpoint": f"{self.url}/token"}

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()


def portcullis(program, folder, backend, issuer):
    """The running gateway, its ports for HTTP and HTTPS, and a client key.

    Environments: `open`, `app` (the client key), `user` and `both` (tokens of the client `shop` for `PERSON`), each with one service `web`.
    """
    place = new_folder(folder / "portcullis")
    manifests = new_folder(place / "manifests")
    made = subprocess.run([program, "key", "create", "importer", "--namespace", "keys", "--folder", manifests], check=True, capture_output=True, text=True)
    grants = {
        "open": "portcullis.dev/require: none",
        "app": "portcullis.dev/require: app, portcullis.dev/allow-apps: 'importer'",
        "user": "portcullis.dev/require: user, portcullis.dev/allow-users: '*@example.com'",
        "both": "portcullis.dev/require: app+user, portcullis.dev/allow-apps: 'shop', portcullis.dev/allow-users: '*@example.com'",
    }
    for environment, annotations in grants.items():
        (manifests / f"{environment}.yaml").write_text(f"""
apiVersion: v1
kind: Namespace
metadata:
  name: {environment}
  labels: {{portcullis.dev/environment: {environment}}}
  annotations: {{portcullis.dev/expose: all, {annotations}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {environment}}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: {environment}, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: {backend}, protocol: TCP}}]
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]
""")
    port, secure_port, admin = free_ports(3)
    file = place / "portcullis.yaml"
    file.write_text(f"""
zone: {ZONE}
source: {{directory: {manifests}}}
workers: 1
listeners:
  http: {{address: "127.0.0.1:{port}", mode: serve}}
  https: {{address: "127.0.0.1:{secure_port}"}}
{listeners_for_operators(program, place, admin)}
accessLog: {{format: combined, file: {place}/access.log}}
access:
  credentialsNamespace: keys
  issuers: [{{name: bench, issuer: "{issuer}", jwksUri: "{issuer}/keys", audiences: [bench], algorithms: [ES256]}}]
  login: {{issuer: bench, clientId: bench, port: {secure_port}}}
""")
    process = Process("portcullis", [program, "gateway", "--config", file], SERVER_CPU, place, [port, admin])
    wait_for(lambda: status(admin, "localhost", "/readyz") == 200, "portcullis is ready")
    return process, port, secure_port, made.stdout.strip()


def answered(port, host, token):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/get", headers={"Host": host, "Authorization": f"Bearer {token}"})
        return connection.getresponse().status
    finally:
        connection.close()


def encoded(octets):
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
