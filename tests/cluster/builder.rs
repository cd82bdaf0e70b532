//! The release builder, installed by its manifests: as a Deployment of its own, and as a container
//! of a gateway's pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use portcullis_config::client_key::{Key, write_hash};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use crate::node::{Company, apply, eventually, in_cluster, kubectl, output, repository};
use crate::pods::{self, Pod};

const PODS: Duration = Duration::from_secs(180);
const API: u16 = 8470;
/// The name in the certificate.
const NAME: &str = "builder.test";

/// An installation in a Namespace of its own.
struct Installation {
    folder: TempDir,
    namespace: &'static str,
    key: Key,
}

// === impl Installation ===

impl Installation {
    /// Makes the Namespace, the Secrets and a volume, and applies an overlay.
    fn new(namespace: &'static str, overlay: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let new = Self { folder, namespace, key: Key::new(&[7; 32]) };
        let labels = "labels: {pod-security.kubernetes.io/enforce: restricted}";
        apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, {labels}}}\n"
        ));
        new.certify();
        new.provide_volume();
        let deploy = new.folder.path().join("deploy");
        output(Command::new("cp").arg("-r").arg(repository("deploy")).arg(&deploy));
        new.configure(&deploy.join("kubernetes/builder/builder.yaml"));
        let gateway = deploy.join("kubernetes/gateway.yaml");
        let text = fs::read_to_string(&gateway).expect("the gateway's configuration");
        let own = format!("credentialsNamespace: {namespace}");
        fs::write(&gateway, text.replace("credentialsNamespace: portcullis", &own))
            .expect("the gateway's configuration");
        let place = deploy.join("tested");
        fs::create_dir(&place).expect("a folder");
        let header = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n";
        let image =
            |name: &str| format!("- {{name: {name}, newName: local/portcullis, newTag: test}}\n");
        // No repository is followed here, so that the image without git will do.
        let images = format!("images:\n{}{}", image("portcullis"), image("portcullis-builder"));
        let text = format!("{header}namespace: {namespace}\n{images}{overlay}");
        fs::write(place.join("kustomization.yaml"), text).expect("the overlay");
        output(Command::new("kubectl").args(["apply", "--server-side", "-k"]).arg(place));
        new
    }

    /// Adds the only caller. The registry is never asked.
    fn configure(&self, path: &Path) {
        let hash = write_hash(&self.key.hash());
        let grants = "[{scope: admin, services: ['*'], environments: ['*']}]";
        let caller =
            format!("callers: [{{name: ci, keys: [{{hash: '{hash}'}}], grants: {grants}}}]");
        let text = fs::read_to_string(path).expect("the configuration");
        assert!(text.contains("callers: []"));
        fs::write(path, text.replace("callers: []", &caller)).expect("the configuration");
    }

    fn certify(&self) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![NAME.to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(self.authority(), certificate.pem()).expect("the certificate");
        let path = self.folder.path().join("tls.key");
        fs::write(&path, key.serialize_pem()).expect("the key");
        let (cert, key) = (self.authority(), path);
        self.kubectl(&[
            "create",
            "secret",
            "tls",
            "portcullis-builder-tls",
            &format!("--cert={}", cert.display()),
            &format!("--key={}", key.display()),
        ]);
    }

    /// The node has no provisioner: a folder of it is the volume. The kubelet does not change the
    /// owner of such a folder.
    fn provide_volume(&self) {
        let namespace = self.namespace;
        let path = self.folder.path().join("store");
        fs::create_dir(&path).expect("a folder");
        output(Command::new("chown").args(["-R", "65532:65532"]).arg(self.folder.path()));
        let path = path.display();
        apply(&format!(
            r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {namespace}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  hostPath: {{path: {path}}}
  claimRef: {{namespace: {namespace}, name: portcullis-builder}}
"#
        ));
    }

    fn authority(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(&[arguments, &["--namespace", self.namespace]].concat())
    }

    fn rolled_out(&self, deployment: &str) {
        self.kubectl(&["rollout", "status", deployment, "--timeout=180s"]);
    }

    /// The status of a request with the caller's key, at the pod.
    fn status(&self, pod: &Pod, path: &str) -> String {
        let address = pod.port(API);
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "10", "--output", "/dev/null"])
            .args(["--write-out", "%{http_code}", "--cacert"])
            .arg(self.authority())
            .args(["--resolve", &format!("{NAME}:{API}:{}", address.ip())])
            .args(["--header", &format!("Authorization: Bearer {}", self.key.expose())])
            .arg(format!("https://{NAME}:{API}{path}"));
        String::from_utf8_lossy(&curl.output().expect("curl runs").stdout).into_owned()
    }

    /// Waits until the API answers at a pod of this component.
    async fn answers(&self, component: &str) {
        let selector = format!("app.kubernetes.io/component={component}");
        eventually("the API answers", PODS, || async {
            let pods = pods::of(self.namespace, &selector);
            let pod = pods.first().ok_or("there is no pod")?;
            // It lists Namespaces by the rights of its own account.
            match (self.status(pod, "/healthz"), self.status(pod, "/api/v1/environments")) {
                (health, list) if health == "200" && list == "200" => Ok(()),
                statuses => Err(format!("{statuses:?}")),
            }
        })
        .await;
    }

    /// Whether the builder's account may do something in a Namespace.
    fn may(&self, verb: &str, resource: &str, namespace: &str) -> bool {
        let account = format!("system:serviceaccount:{}:portcullis-builder", self.namespace);
        // `kubectl` takes what follows a `/` for an object's name.
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let mut command = Command::new("kubectl");
        command.args(["auth", "can-i", verb, resource, "--subresource", subresource]);
        command.args(["--as", &account, "--namespace", namespace]);
        command.output().expect("kubectl runs").status.success()
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        // Not awaited: the node goes away in whole.
        for object in [format!("namespace/{}", self.namespace), format!("pv/{}", self.namespace)] {
            let _ = Command::new("kubectl").args(["delete", &object, "--wait=false"]).output();
        }
    }
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn the_builder_runs_in_a_deployment_of_its_own() {
    in_cluster(Company::Unwelcome, async |_| {
        let builder = Installation::new("builder", "resources: [../kubernetes/builder]\n");
        builder.rolled_out("deployment/portcullis-builder");
        builder.answers("builder").await;
        // Another pod takes over the store.
        builder.kubectl(&["rollout", "restart", "deployment/portcullis-builder"]);
        builder.rolled_out("deployment/portcullis-builder");
        builder.answers("builder").await;
        // It may write where an administrator says so, and nowhere else.
        kubectl(&["create", "namespace", "builder-environment"]);
        assert!(!builder.may("create", "deployments.apps", "builder-environment"));
        kubectl(&[
            "create",
            "rolebinding",
            "builder",
            "--clusterrole=portcullis-builder-environment",
            "--serviceaccount=builder:portcullis-builder",
            "--namespace=builder-environment",
        ]);
        for (verb, resource) in [
            ("create", "deployments.apps"),
            ("patch", "services"),
            // The check of a canary, its log, and what becomes of a rollout.
            ("create", "jobs.batch"),
            ("get", "pods/log"),
            ("create", "events.events.k8s.io"),
            // What else selects the canary's pods.
            ("list", "networkpolicies.networking.k8s.io"),
        ] {
            assert!(builder.may(verb, resource, "builder-environment"), "{verb} {resource}");
            assert!(!builder.may(verb, resource, "default"), "{verb} {resource}");
        }
        for resource in ["secrets", "rolebindings.rbac.authorization.k8s.io", "pods/exec"] {
            assert!(!builder.may("create", resource, "builder-environment"), "{resource}");
        }
        kubectl(&["delete", "namespace", "builder-environment", "--wait=false"]);
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn the_builder_runs_beside_a_gateway_with_a_token_of_its_own() {
    in_cluster(Company::Unwelcome, async |_| {
        let overlay = "resources: [../kubernetes, ../kubernetes/builder]\n\
                       components: [../kubernetes/components/builder-sidecar]\n\
                       transformers: [../kubernetes/instance]\n";
        let both = Installation::new("beside-gateway", overlay);
        both.rolled_out("deployment/portcullis");
        both.answers("gateway").await;
        let mounts = both.kubectl(&[
            "get",
            "pods",
            "--output",
            "jsonpath={range .items[0].spec.containers[*]}{.name} {range .volumeMounts[?(@.mountPath==\"/var/run/secrets/kubernetes.io/serviceaccount\")]}{.name}{end}\n{end}",
        ]);
        let lines: Vec<&str> = mounts.lines().collect();
        assert!(lines.contains(&"builder builder-token"), "{mounts}");
        assert!(lines.iter().any(|line| line.starts_with("gateway kube-api-access")), "{mounts}");
    });
}
