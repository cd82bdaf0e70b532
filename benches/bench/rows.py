"""The kinds of work that `compare` looks at."""

from dataclasses import dataclass, field

from .backends import LARGE_BYTES
from .gateways import Variation
from .load import Shape

# Of the cost of the better peer.
GOAL = 0.9


@dataclass(frozen=True)
class Row:
    """One kind of work."""

    name: str
    title: str
    shape: Shape
    upstream: str = "http1"
    # Whether a proxy that only moves bytes is shown, too.
    floor: bool = False
    # The requests of a round, as a part of `--requests`.
    share: float = 1.0
    # Whether latencies are measured at half of saturation.
    latency: bool = False
    # Other set-ups of Portcullis, which are compared with the usual one instead of peers.
    variations: dict = field(default_factory=dict)
    # The goal for those, of the cost of the usual one.
    most: float = 1.05

    @property
    def addresses(self):
        """Those of the backend."""
        return max((variation.endpoints for variation in self.variations.values()), default=1)

    @property
    def opening(self):
        """The connections that are opened for a round, unless that is the work."""
        return 0 if self.shape.fresh else self.shape.connections


HTTP1, TLS = Shape(False, False, 64), Shape(False, True, 64)
LARGE = 0.03

ROWS = [
    Row("http1-1", "HTTP/1.1, 1 connection", Shape(False, False, 1), share=0.5),
    Row("http1", "HTTP/1.1, 64 connections", HTTP1, floor=True, latency=True),
    Row("http1-1000", "HTTP/1.1, 1,000 connections", Shape(False, False, 1000)),
    Row("http1-new", "HTTP/1.1, a new connection for each request", Shape(False, False, 64, fresh=True), share=0.5),
    Row("http1-tls-1", "HTTP/1.1 over TLS, 1 connection", Shape(False, True, 1), share=0.5),
    Row("http1-tls", "HTTP/1.1 over TLS, 64 connections", TLS, latency=True),
    Row("http1-tls-1000", "HTTP/1.1 over TLS, 1,000 connections", Shape(False, True, 1000), share=3),
    Row("http1-tls-new", "HTTP/1.1 over TLS, a new connection for each request", Shape(False, True, 64, fresh=True), share=0.1),
    Row("http2", "HTTP/2 over TLS, 16 × 10 streams, to HTTP/1.1", Shape(True, True, 16, 10), latency=True),
    Row("http2-1", "HTTP/2 over TLS, 1 × 100 streams, to HTTP/1.1", Shape(True, True, 1, 100)),
    Row("http2-h2c", "HTTP/2 over TLS, 16 × 10 streams, to h2c", Shape(True, True, 16, 10), "h2c", latency=True),
    Row("grpc", "gRPC unary over TLS, 16 × 10 streams", Shape(True, True, 16, 10, grpc=True), "h2c"),
    Row("grpc-stream", "gRPC over TLS, messages on 16 × 10 streams in both directions", Shape(True, True, 16, 10, grpc=True, echo=True), "h2c"),
    Row("websocket", "WebSocket, messages on 64 connections", Shape(False, False, 64, echo=True)),
    Row("down", "HTTP/1.1, 1 MiB down, 16 connections", Shape(False, False, 16, down=LARGE_BYTES), share=LARGE),
    Row("up", "HTTP/1.1, 1 MiB up, 16 connections", Shape(False, False, 16, up=LARGE_BYTES), share=LARGE),
    Row("http2-down", "HTTP/2 over TLS, 1 MiB down, 4 × 4 streams", Shape(True, True, 4, 4, down=LARGE_BYTES), share=LARGE),
    Row("http2-up", "HTTP/2 over TLS, 1 MiB up, 4 × 4 streams", Shape(True, True, 4, 4, up=LARGE_BYTES), share=LARGE),
    Row("services", "HTTP/1.1, one of many services", HTTP1, variations={
        "1,000 services": Variation(services=1_000), "10,000 services": Variation(services=10_000)}),
    Row("endpoints", "HTTP/1.1, one of many endpoints", HTTP1, variations={
        "100 endpoints": Variation(endpoints=100), "1,000 endpoints": Variation(endpoints=1_000)}),
    Row("canary", "HTTP/1.1 over TLS, a browser that keeps its variant", TLS, most=1.1, variations={"sticky canary": Variation(canary=True)}),
    Row("workers", "HTTP/1.1, 64 connections on two workers", HTTP1, variations={"two workers": Variation(workers=2)}),
]
