//! What the demo tells: URLs, and lines that work as they are pasted.

use std::fmt::Write;

use super::ZONE;
use super::cluster::Cluster;
use super::gateway::Gateway;
use super::provider::Provider;

/// What there is to do after the play.
pub(super) const INTERMISSION: &str = "\nNow it is yours: paste any line above, or switch a pod. \
                                       Ctrl-C stops all of it and cleans up.\n";

/// A call of curl, with what it shows.
struct Call {
    title: &'static str,
    host: &'static str,
    before: &'static str,
    arguments: &'static str,
    path: &'static str,
    after: &'static str,
}

const CALLS: [Call; 7] = [
    Call {
        title: "a service of staging, over HTTP/2",
        host: "web--staging",
        before: "",
        arguments: "",
        path: "/",
        after: "",
    },
    Call {
        title: "the same service of production",
        host: "web--production",
        before: "",
        arguments: "",
        path: "/",
        after: "",
    },
    Call {
        title: "what a pod is sent",
        host: "web--staging",
        before: "",
        arguments: "--data hello ",
        path: "/echo",
        after: "",
    },
    Call {
        title: "events, one at a time",
        host: "web--staging",
        before: "",
        arguments: "--no-buffer ",
        path: "/events/3?interval=300ms",
        after: "",
    },
    Call {
        title: "gRPC: a call, and the pod that answered",
        host: "calls--staging",
        // Length-prefixed (no compression, 7 octets): field 1, "hello".
        before: r"printf '\0\0\0\0\7\12\5hello' | ",
        arguments: "--header 'content-type: application/grpc' --header 'te: trailers' \
                    --data-binary @- --output - ",
        path: "/portcullis.echo.v1.Echo/Unary",
        after: r" | tr -c '[:print:]\n' ' '; echo",
    },
    Call {
        title: "WebSocket: the handshake, a greeting, and the end",
        host: "chat--staging",
        before: "",
        arguments: "--http1.1 --include --output - --header 'Connection: Upgrade' --header \
                    'Upgrade: websocket' --header 'Sec-WebSocket-Version: 13' --header \
                    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' ",
        path: "/greet",
        after: r" | tr -c '[:print:]\n' ' '; echo",
    },
    Call {
        title: "for applications and users that were granted it, and closed to you: the same 404 \
                as a name that never was",
        host: "back-office--production",
        before: "",
        arguments: "--include ",
        path: "/",
        after: "",
    },
];

/// All of it.
pub(super) fn text(gateway: &Gateway, cluster: &Cluster, provider: &Provider) -> String {
    let mut text = String::from(
        "\nPortcullis is up. No route was written: Namespaces and Services are all there is.\n\n",
    );
    let port = gateway.https();
    for host in ["web--staging", "calls--staging", "chat--staging", "web--production"] {
        let _ = writeln!(text, "  https://{host}.{ZONE}:{port}/");
    }
    text.push_str("\nPaste any of these into another terminal:\n");
    for call in &CALLS {
        let _ = write!(text, "\n# {}\n{}\n", call.title, call.line(gateway));
    }
    text.push_str(&credentials(gateway, cluster, &provider.url()));
    let _ = write!(
        text,
        "\n# plain HTTP is redirected\ncurl --silent --include --resolve web--staging.{ZONE}:{http}:127.0.0.1 http://web--staging.{ZONE}:{http}/\n\
         \n# the live table, and the metrics\ncurl --silent http://127.0.0.1:{admin}/routes\ncurl --silent http://127.0.0.1:{telemetry}/metrics\n",
        http = gateway.http(),
        admin = gateway.admin(),
        telemetry = gateway.telemetry(),
    );
    if let Some(pod) = cluster.pod("web-2") {
        let address = pod.address();
        let _ = write!(
            text,
            "\n# make a pod unready, and ready again\ncurl --silent --request POST http://{address}/ready/off\n\
             curl --silent --request POST http://{address}/ready/on\n"
        );
    }
    let _ = write!(
        text,
        "\nManifests, yours to edit: {}\nGateway's log: {}\nAccess log: {}\n",
        cluster.folder().display(),
        gateway.log().display(),
        gateway.access_log().display(),
    );
    text
}

/// What is open to those alone who show something.
fn credentials(gateway: &Gateway, cluster: &Cluster, provider: &str) -> String {
    let (port, ca, key) = (gateway.https(), gateway.ca(), cluster.key().expose());
    let call = |host: &str, arguments: &str| {
        let ca = ca.display();
        format!(
            "curl --silent --cacert {ca} --resolve {host}.{ZONE}:{port}:127.0.0.1 {arguments}'https://{host}.{ZONE}:{port}/'"
        )
    };
    let token = |person: &str| {
        format!(
            "--header \"Authorization: Bearer $(curl --silent \
             '{provider}/token?person={person}')\" "
        )
    };
    let shown = format!("--header 'X-Api-Key: {key}' ");
    format!(
        "\n# for applications alone: a client key\n{}\n\
         \n# for both: the same key, beside a token of Ann, who was granted it\n{}\n\
         \n# ... and of Eve, who was not: 404\n{}\n\
         \n# in a browser, log in as ann (it has to trust {}, or you have to):\n#   https://back-office--production.{ZONE}:{port}/\n#   https://login.{ZONE}:{port}/\n",
        call("reports--production", &shown),
        call("back-office--production", &(shown.clone() + &token("ann"))),
        call("back-office--production", &(shown.clone() + &token("eve"))),
        ca.display(),
    )
}

// === impl Call ===

impl Call {
    fn line(&self, gateway: &Gateway) -> String {
        let Self { host, before, arguments, path, after, .. } = self;
        let (port, ca) = (gateway.https(), gateway.ca());
        let ca = ca.display();
        format!(
            "{before}curl --silent --cacert {ca} --resolve {host}.{ZONE}:{port}:127.0.0.1 {arguments}'https://{host}.{ZONE}:{port}{path}'{after}"
        )
    }
}
