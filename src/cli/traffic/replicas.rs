//! The replicas of a gateway, by their admin listeners, and what each has applied.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use clap::Args;
use portcullis_config::model::NamespacedName;
use portcullis_proxy::telemetry::traffic::feed::{Feed, Service};

use super::pods::Pods;
use crate::cli::gateway_access::{ADMIN_VARIABLE, Admin, DEFAULT_ADMIN};
use crate::cli::problems::Failure;

/// Selects the replicas of a gateway.
#[derive(Debug, Args)]
pub(super) struct ReplicaArgs {
    /// Admin address of a replica of the gateway; can be repeated
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = DEFAULT_ADMIN,
        env = ADMIN_VARIABLE,
        value_delimiter = ','
    )]
    admin: Vec<SocketAddr>,
    /// Namespace of the gateway, to reach each of its pods by `kubectl port-forward`, instead
    /// of --admin
    #[arg(long, value_name = "NAMESPACE")]
    gateway: Option<String>,
}

/// The replicas that are asked.
pub(super) enum Replicas {
    /// These admin addresses.
    Addresses(Vec<SocketAddr>),
    /// The running pods of a gateway.
    Pods(Pods),
}

/// What one replica reports.
pub(super) struct Replica {
    /// The name of its pod, or its address.
    pub(super) name: String,
    pub(super) feed: Result<Feed, Failure>,
}

// === impl ReplicaArgs ===

impl ReplicaArgs {
    /// The replicas; those of a cluster are found by the context of the kubeconfig.
    pub(super) fn open(&self, context: Option<&str>) -> Replicas {
        match &self.gateway {
            Some(namespace) => Replicas::Pods(Pods::new(namespace, context)),
            None => Replicas::Addresses(self.admin.clone()),
        }
    }
}

// === impl Replicas ===

impl Replicas {
    /// Finds pods that were started, and forgets those that are stopped.
    ///
    /// # Errors
    /// The pods cannot be listed.
    pub(super) async fn refresh(&mut self) -> Result<(), Failure> {
        match self {
            Self::Addresses(_) => Ok(()),
            Self::Pods(pods) => pods.refresh().await,
        }
    }

    /// Reads the traffic of all replicas at once, without windows: that of one service, or of all.
    pub(super) fn read(&self, service: Option<&NamespacedName>, timeout: Duration) -> Vec<Replica> {
        let target = target(service);
        let all: Vec<(String, Result<SocketAddr, Failure>)> = match self {
            Self::Addresses(all) => {
                all.iter().map(|address| (address.to_string(), Ok(*address))).collect()
            }
            Self::Pods(pods) => pods.addresses(),
        };
        let read = |address: Result<SocketAddr, Failure>| {
            Admin::new(Some(address?))?.get_within(&target, timeout)
        };
        thread::scope(|scope| {
            let reads: Vec<_> = all
                .into_iter()
                .map(|(name, address)| (name, scope.spawn(move || read(address))))
                .collect();
            let failed = || Err(Failure::new("the thread that reads its traffic has failed"));
            let joined = reads.into_iter().map(|(name, read)| Replica {
                name,
                feed: read.join().unwrap_or_else(|_| failed()),
            });
            joined.collect()
        })
    }
}

/// The feed of one service, or of all.
fn target(service: Option<&NamespacedName>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("windows", "false");
    if let Some(NamespacedName { namespace, name }) = service {
        query.append_pair("namespace", namespace).append_pair("service", name);
    }
    format!("/v1/traffic?{}", query.finish())
}

// === impl Replica ===

impl Replica {
    /// What it reports of a service.
    pub(super) fn service(&self, name: &NamespacedName) -> Option<&Service> {
        let services = &self.feed.as_ref().ok()?.services;
        services
            .iter()
            .find(|found| *found.namespace == *name.namespace && *found.service == *name.name)
    }

    /// Why it has not applied a generation; `None` if it has.
    pub(super) fn behind(&self, service: &NamespacedName, generation: &str) -> Option<String> {
        let why = match (&self.feed, self.service(service)) {
            (Err(failure), _) => failure.to_string(),
            (Ok(_), None) => format!("it does not serve {service}"),
            (Ok(_), Some(found)) => match found.generation.as_deref() {
                Some(applied) if applied == generation => return None,
                Some(applied) => format!("it has generation {applied}"),
                None => format!("it knows no variants of {service}"),
            },
        };
        Some(format!("{}: {why}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    /// The target of the request by which a replica is asked.
    fn requested(service: Option<&NamespacedName>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let replicas = Replicas::Addresses(vec![listener.local_addr().unwrap()]);
        thread::scope(|scope| {
            let server = scope.spawn(move || {
                let (mut connection, _) = listener.accept().unwrap();
                let head = BufReader::new(connection.try_clone().unwrap()).lines();
                let lines: Vec<String> =
                    head.map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
                connection.write_all(b"HTTP/1.1 503 Unavailable\r\n\r\n").unwrap();
                lines[0].split(' ').nth(1).unwrap().to_owned()
            });
            let found = replicas.read(service, Duration::from_secs(30));
            assert!(found[0].feed.is_err());
            server.join().unwrap()
        })
    }

    #[test]
    fn no_more_is_read_than_what_is_needed() {
        assert_eq!(requested(None), "/v1/traffic?windows=false");
        let expected = "/v1/traffic?windows=false&namespace=shop&service=web";
        assert_eq!(requested(Some(&NamespacedName::new("shop", "web"))), expected);
    }
}
