//! The gateway under test, installed once for all tests as a user installs it: a namespace, a TLS
//! Secret, and `kubectl apply -k`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::client::Version;
use crate::environment::PODS;
use crate::node::{self, eventually, kubectl};
use crate::pods::{self, Pod};

/// The zone of the overlay's configuration.
pub(crate) const ZONE: &str = "apps.test";
/// Where the gateway runs.
pub(crate) const NAMESPACE: &str = "portcullis";
/// The port of each replica's listener for HTTPS.
pub(crate) const HTTPS: u16 = 8443;

/// How the installed gateway is reached.
pub(crate) struct Gateway {
    /// The node port for HTTPS.
    pub(crate) https: SocketAddr,
    /// The node port for plain HTTP.
    pub(crate) http: SocketAddr,
    /// A PEM file with the authority of the zone's certificate.
    pub(crate) authority: PathBuf,
    namespace: String,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

// === impl Gateway ===

impl Gateway {
    /// The gateway; the first call installs it and waits until every replica is ready.
    pub(crate) fn installed() -> &'static Self {
        static GATEWAY: OnceLock<Gateway> = OnceLock::new();
        GATEWAY.get_or_init(|| {
            let authority = node::state().join("zone-authority.crt");
            // The suite runs in several processes, one after the other.
            if !authority.exists() {
                install(&authority);
            }
            Self::find(authority, NAMESPACE)
        })
    }

    /// Another installation with the same certificate, whose Namespace has its name.
    pub(crate) fn of_release(&self, name: &str) -> Self {
        Self::find(self.authority.clone(), name)
    }

    /// Finds an installation whose Namespace has its name.
    fn find(authority: PathBuf, name: &str) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&authority).expect("the authority's file")
        {
            roots.add(certificate.expect("PEM")).expect("an authority");
        }
        Self {
            https: node_port(name, "https"),
            http: node_port(name, "http"),
            authority,
            namespace: name.to_owned(),
            http1: tls(roots.clone(), b"http/1.1"),
            http2: tls(roots, b"h2"),
        }
    }

    /// What a client's TLS is to be for `version`.
    pub(crate) fn tls(&self, version: Version) -> Arc<ClientConfig> {
        match version {
            Version::Http1 => self.http1.clone(),
            Version::Http2 => self.http2.clone(),
        }
    }

    /// Waits until there are so many replicas, all ready and none on its way out.
    pub(crate) async fn settled(&self, replicas: usize) {
        eventually(&format!("{replicas} replicas of the gateway"), PODS, || async {
            let pods = kubectl(&["get", "pods", "--namespace", &self.namespace, "--output=name"])
                .lines()
                .count();
            let ready = self.replicas().len();
            if pods == replicas && ready == replicas {
                Ok(())
            } else {
                Err(format!("{pods} pods, {ready} ready"))
            }
        })
        .await;
    }

    /// The replicas that are ready now.
    pub(crate) fn replicas(&self) -> Vec<Pod> {
        let mut pods = pods::of(&self.namespace, "app.kubernetes.io/component=gateway");
        pods.retain(|pod| pod.is_ready);
        pods
    }
}

/// Installs the gateway as its documentation says: the zone's certificate as a Secret, then all
/// manifests.
fn install(authority_file: &Path) {
    let (authority, certificate, key) = issue();
    for (name, content) in [("zone.crt", &certificate), ("zone.key", &key)] {
        fs::write(node::state().join(name), content).expect("the state folder takes files");
    }
    kubectl(&["create", "namespace", NAMESPACE]);
    create_certificate(NAMESPACE);
    let overlay = node::repository("tests/cluster/overlay");
    node::output(Command::new("kubectl").args(["apply", "--server-side", "-k"]).arg(overlay));
    kubectl(&[
        "rollout",
        "status",
        "deployment/portcullis",
        "--namespace",
        NAMESPACE,
        "--timeout=180s",
    ]);
    fs::write(authority_file, authority).expect("the state folder takes files");
}

/// Creates the Secret with the zone's certificate in a Namespace.
pub(crate) fn create_certificate(namespace: &str) {
    let file =
        |option: &str, name: &str| format!("{option}={}", node::state().join(name).display());
    kubectl(&[
        "create",
        "secret",
        "tls",
        "portcullis-tls",
        "--namespace",
        namespace,
        &file("--cert", "zone.crt"),
        &file("--key", "zone.key"),
    ]);
}

/// An authority, and a certificate of it for every name of the zone with its key, as PEM.
fn issue() -> (String, String, String) {
    let mut params = CertificateParams::default();
    // Another name than the certificate's, which would look self-signed otherwise.
    params.distinguished_name.push(DnType::CommonName, "zone authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = params.self_signed(&key).expect("an authority").pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key");
    let names = vec![ZONE.to_owned(), format!("*.{ZONE}")];
    let certificate = CertificateParams::new(names)
        .and_then(|params| params.signed_by(&key, &issuer))
        .expect("a certificate");
    (authority, certificate.pem(), key.serialize_pem())
}

fn node_port(installation: &str, name: &str) -> SocketAddr {
    let port = format!(r#"jsonpath={{.spec.ports[?(@.name=="{name}")].nodePort}}"#);
    let port =
        kubectl(&["get", "service", installation, "--namespace", installation, "--output", &port]);
    let address = node::node_address();
    format!("{address}:{port}").parse().expect("the node's address and the Service's node port")
}

fn tls(roots: RootCertStore, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}
