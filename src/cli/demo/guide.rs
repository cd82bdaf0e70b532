//! The text that the demo prints: URLs, and commands to paste into a shell.

use std::fmt::Write;

use super::ZONE;
use super::cluster::Cluster;
use super::gateway::Gateway;
use super::provider::Provider;

/// Printed after the scripted steps.
pub(super) const INTERACTIVE: &str = "\nNow try it: paste any command above, or switch a pod. \
                                      Ctrl-C stops everything and cleans up.\n`make demo-release` shows \
                                      how releases are rolled out, on a Kubernetes node.\n";

/// A curl command, and what it demonstrates.
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
        title: "a service in staging, over HTTP/2",
        host: "web--staging",
        before: "",
        arguments: "",
        path: "/",
        after: "",
    },
    Call {
        title: "the same service in production",
        host: "web--production",
        before: "",
        arguments: "",
        path: "/",
        after: "",
    },
    Call {
        title: "the request as the pod receives it",
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
        title: "gRPC: a call, and the pod that responded",
        host: "calls--staging",
        // Length-prefixed (no compression, 7 octets): field 1, "hello".
        before: r"printf '\0\0\0\0\7\12\5hello' | ",
        arguments: "--header 'content-type: application/grpc' --header 'te: trailers' \
                    --data-binary @- --output - ",
        path: "/portcullis.echo.v1.Echo/Unary",
        after: r" | tr -c '[:print:]\n' ' '; echo",
    },
    Call {
        title: "WebSocket: handshake, greeting and close",
        host: "chat--staging",
        before: "",
        arguments: "--http1.1 --include --output - --header 'Connection: Upgrade' --header \
                    'Upgrade: websocket' --header 'Sec-WebSocket-Version: 13' --header \
                    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' ",
        path: "/greet",
        after: r" | tr -c '[:print:]\n' ' '; echo",
    },
    Call {
        title: "for granted applications and users only: anyone else gets the same 404 as for an \
                unknown name",
        host: "back-office--production",
        before: "",
        arguments: "--include ",
        path: "/",
        after: "",
    },
];

/// The guide, printed before the scripted steps.
pub(super) fn text(gateway: &Gateway, cluster: &Cluster, provider: &Provider) -> String {
    let mut text = String::from(
        "\nPortcullis is ready. There are no route objects, only Namespaces and Services.\n\n",
    );
    let port = gateway.https();
    for host in ["web--staging", "calls--staging", "chat--staging", "web--production"] {
        let _ = writeln!(text, "  https://{host}.{ZONE}:{port}/");
    }
    text.push_str("\nPaste any of these into another terminal:\n");
    for call in &CALLS {
        let _ = write!(text, "\n# {}\n{}\n", call.title, call.command(gateway));
    }
    text.push_str(&credentials(gateway, cluster, &provider.url()));
    text.push_str(&canary(gateway, cluster, &provider.url()));
    let _ = write!(
        text,
        "\n# plain HTTP is redirected\ncurl --silent --include --resolve web--staging.{ZONE}:{http}:127.0.0.1 http://web--staging.{ZONE}:{http}/\n\
         \n# the routing table, and the metrics\ncurl --silent http://127.0.0.1:{admin}/routes\ncurl --silent http://127.0.0.1:{telemetry}/metrics\n",
        http = gateway.http(),
        admin = gateway.admin(),
        telemetry = gateway.telemetry(),
    );
    if let Some(pod) = cluster.pod("web-2") {
        let address = pod.address();
        let _ = write!(
            text,
            "\n# make a pod unready, then ready\ncurl --silent --request POST http://{address}/ready/off\n\
             curl --silent --request POST http://{address}/ready/on\n"
        );
    }
    let _ = write!(
        text,
        "\nManifests (edit them): {}\nGateway log: {}\nAccess log: {}\n",
        cluster.folder().display(),
        gateway.log().display(),
        gateway.access_log().display(),
    );
    text
}

/// The commands that need credentials.
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
    let api_key = format!("--header 'X-Api-Key: {key}' ");
    format!(
        "\n# for applications: a client key\n{}\n\
         \n# for applications and users: the same key, with a token of Ann, who has a grant\n{}\n\
         \n# ... and with a token of Eve, who has none: 404\n{}\n\
         \n# in a browser that trusts {}, log in as ann:\n#   https://back-office--production.{ZONE}:{port}/\n#   https://login.{ZONE}:{port}/\n",
        call("reports--production", &api_key),
        call("back-office--production", &(api_key.clone() + &token("ann"))),
        call("back-office--production", &(api_key.clone() + &token("eve"))),
        ca.display(),
    )
}

/// The commands that move traffic to a canary.
fn canary(gateway: &Gateway, cluster: &Cluster, provider: &str) -> String {
    let (port, ca, folder) = (gateway.https(), gateway.ca(), cluster.folder());
    let (ca, folder, admin) = (ca.display(), folder.display(), gateway.admin());
    let program = std::env::current_exe()
        .map_or_else(|_| "portcullis".to_owned(), |path| path.display().to_string());
    let set = |change: &str| {
        format!(
            "{program} traffic set web {change} --environment staging --folder {folder} --wait --admin 127.0.0.1:{admin}"
        )
    };
    let count = |header: &str| {
        format!(
            "for i in $(seq 20); do curl --silent --cacert {ca} --resolve \
             web--staging.{ZONE}:{port}:127.0.0.1 {header}'https://web--staging.{ZONE}:{port}/whoami'; done | sort | uniq -c"
        )
    };
    let ann = format!(
        "token=$(curl --silent '{provider}/token?person=ann'); {}",
        count("--header \"Authorization: Bearer $token\" ")
    );
    format!(
        "\n# a canary: half of the callers of web in staging\n{}\n\
         \n# ... and who answers 20 callers\n{}\n\
         \n# ... but the same variant for Ann each time\n{ann}\n\
         \n# ... and why: their bucket, and the salt of the rollout\n{program} explain --admin 127.0.0.1:{admin} --user ann@shop.example https://web--staging.{ZONE}/\n\
         \n# the weights, and the requests of each variant\n{program} traffic --admin 127.0.0.1:{admin}\n\
         \n# all traffic back to the stable variant\n{}\n",
        set("canary=50"),
        count(""),
        set("--previous"),
    )
}

// === impl Call ===

impl Call {
    fn command(&self, gateway: &Gateway) -> String {
        let Self { host, before, arguments, path, after, .. } = self;
        let (port, ca) = (gateway.https(), gateway.ca());
        let ca = ca.display();
        format!(
            "{before}curl --silent --cacert {ca} --resolve {host}.{ZONE}:{port}:127.0.0.1 {arguments}'https://{host}.{ZONE}:{port}{path}'{after}"
        )
    }
}
