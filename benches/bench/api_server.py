"""A Kubernetes API server in memory that knows ConfigMaps alone, each in the Namespace of its environment."""

import json
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KINDS = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": [
    {"name": "configmaps", "singularName": "configmap", "namespaced": True, "kind": "ConfigMap", "verbs": ["get", "patch", "delete"]}]}


class ApiServer(ThreadingHTTPServer):
    """Ends with the `with` block that holds it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects, self.version = {}, 1
        # The times of all writes.
        self.written = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def kubeconfig(self):
        cluster = {"server": f"http://127.0.0.1:{self.server_address[1]}"}
        return {"apiVersion": "v1", "kind": "Config", "current-context": "bench", "users": [{"name": "bench", "user": {}}],
                "clusters": [{"name": "bench", "cluster": cluster}], "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/api/v1":
            self._answer(200, KINDS)
        elif path == "/api/v1/namespaces":
            environment = urllib.parse.parse_qs(query)["labelSelector"][0].rpartition("=")[2]
            self._answer(200, {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": [{"metadata": {"name": environment}}]})
        elif path in self.server.objects:
            self._answer(200, self.server.objects[path])
        else:
            self._answer(404, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 404, "reason": "NotFound", "message": "NotFound"})

    def do_PATCH(self):
        path, _, query = self.path.partition("?")
        new = json.loads(self.rfile.read(int(self.headers["content-length"])))
        old = self.server.objects.get(path, {"metadata": {"uid": path, "resourceVersion": "0"}})
        for key in ["uid", "resourceVersion"]:
            new["metadata"][key] = old["metadata"][key]
        if "dryRun" not in query and new != old:
            self.server.version += 1
            new["metadata"]["resourceVersion"] = str(self.server.version)
            self.server.objects[path] = new
            self.server.written.append(time.monotonic())
        self._answer(200, new)

    def _answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
