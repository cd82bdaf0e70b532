//! An environment of a test: a Kubernetes Namespace of its own, and services in it that run the
//! echo server.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::client::{self, Version};
use crate::gateway::{Gateway, HTTPS, ZONE};
use crate::node::{self, Cluster, eventually, kubectl};
use crate::pods::{self, Pod};

/// How long the cluster may take over a change of pods: far more than it should, so that a busy
/// machine fails no test.
pub(crate) const PODS: Duration = Duration::from_secs(180);
/// How long a change may take from the API to the gateway, controllers included; as generous.
pub(crate) const SOON: Duration = PODS;

/// An environment, deleted at the end.
pub(crate) struct Environment {
    gateway: &'static Gateway,
    /// The Namespace's name, and the environment's.
    pub(crate) name: String,
}

// === impl Environment ===

impl Environment {
    /// A new environment whose services are all exposed, and open to everyone.
    pub(crate) fn open(cluster: &Cluster, purpose: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(1);
        let name = format!("{purpose}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        node::apply(&format!(
            r#"
apiVersion: v1
kind: Namespace
metadata:
  name: {name}
  labels: {{portcullis.dev/environment: {name}}}
  annotations: {{portcullis.dev/expose: all, portcullis.dev/require: none}}
"#
        ));
        Self { gateway: cluster.gateway, name }
    }

    /// The hostname of a service here.
    pub(crate) fn host(&self, service: &str) -> String {
        format!("{service}--{}.{ZONE}", self.name)
    }

    /// A Service and a Deployment of echo pods.
    pub(crate) fn deploy(&self, service: &str, replicas: usize) {
        let namespace = &self.name;
        node::apply(&format!(
            r#"
apiVersion: v1
kind: Service
metadata: {{name: {service}, namespace: {namespace}}}
spec:
  selector: {{app: {service}}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {service}, namespace: {namespace}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {service}}}}}
  strategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}
  template:
    metadata:
      labels: {{app: {service}}}
    spec:
      terminationGracePeriodSeconds: 15
      containers:
        - name: echo
          image: local/portcullis-echo:test
          env: [{{name: ECHO_SHUTDOWN_DELAY, value: 2s}}, {{name: ECHO_RECORDS, value: /records}}]
          volumeMounts: [{{name: records, mountPath: /records}}]
          ports: [{{name: http, containerPort: 8080}}]
          readinessProbe: {{httpGet: {{path: /ready, port: http}}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 5}}
      volumes: [{{name: records, emptyDir: {{}}}}]
"#
        ));
    }

    /// A second Service for the pods of `service`, which receives gRPC. Returns its name.
    pub(crate) async fn add_grpc(&self, service: &str) -> String {
        let (name, namespace) = (format!("{service}-grpc"), &self.name);
        node::apply(&format!(
            r#"
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{app: {service}}}
  ports: [{{name: grpc, port: 80, targetPort: http}}]
"#
        ));
        self.answers(&name).await;
        name
    }

    /// Deploys, and waits until every pod is ready and the URL answers.
    pub(crate) async fn serve(&self, service: &str, replicas: usize) {
        self.deploy(service, replicas);
        self.rolled_out(service);
        self.answers(service).await;
    }

    /// Waits until the pods of a Deployment are as they were asked for.
    pub(crate) fn rolled_out(&self, service: &str) {
        kubectl(&[
            "rollout",
            "status",
            &format!("deployment/{service}"),
            "--namespace",
            &self.name,
            "--timeout=180s",
        ]);
    }

    /// Waits until a service's URL answers 200.
    pub(crate) async fn answers(&self, service: &str) {
        self.answers_with(service, 200).await;
    }

    /// Waits until a service's URL answers with `status`, through the node port and at every
    /// replica: each follows changes by itself.
    pub(crate) async fn answers_with(&self, service: &str, status: u16) {
        let host = self.host(service);
        let replicas = self.gateway.replicas();
        let doors = std::iter::once(self.gateway.https)
            .chain(replicas.iter().map(|replica| replica.port(HTTPS)));
        for door in doors {
            eventually(&format!("{host} answers {status} at {door}"), SOON, || async {
                match self.status(door, &host).await {
                    Ok(got) if got == status => Ok(()),
                    Ok(got) => Err(format!("it answered {got}")),
                    Err(error) => Err(error.to_string()),
                }
            })
            .await;
        }
    }

    async fn status(&self, door: SocketAddr, host: &str) -> Result<u16, client::Failure> {
        Ok(client::get(self.gateway, door, Version::Http1, host, "/").await?.status)
    }

    /// Sets how many pods a service has.
    pub(crate) fn scale(&self, service: &str, replicas: usize) {
        kubectl(&[
            "scale",
            &format!("deployment/{service}"),
            "--namespace",
            &self.name,
            &format!("--replicas={replicas}"),
        ]);
    }

    /// Has every pod of a service replaced, as `kubectl rollout restart` does.
    pub(crate) fn restart(&self, service: &str) {
        kubectl(&[
            "rollout",
            "restart",
            &format!("deployment/{service}"),
            "--namespace",
            &self.name,
        ]);
    }

    /// The names of a service's pods that are ready and not on their way out.
    pub(crate) fn ready_pods(&self, service: &str) -> BTreeSet<String> {
        self.pods(service).into_iter().filter(|pod| pod.is_ready).map(|pod| pod.name).collect()
    }

    /// A service's pods that are not on their way out.
    pub(crate) fn pods(&self, service: &str) -> Vec<Pod> {
        pods::of(&self.name, &format!("app={service}"))
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // Not awaited: the node goes away in whole, and a throw-away cluster finishes by itself.
        let mut kubectl = Command::new("kubectl");
        kubectl
            .args(["delete", "namespace", &self.name, "--wait=false"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let _ = kubectl.status();
    }
}
