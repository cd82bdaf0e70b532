//! The operator's rules for the addresses of endpoints (`endpoints` in the configuration).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::address::readings;
use crate::settings::endpoints::{AllowedEndpoints, EndpointSettings, EndpointVerification};

/// The rules.
#[derive(Debug, Clone, Default)]
pub(super) struct EndpointRules {
    denied: Vec<IpNet>,
    verifies: bool,
    allowed: Vec<AllowedEndpoints>,
}

// === impl EndpointRules ===

impl EndpointRules {
    pub(super) fn new(settings: &EndpointSettings) -> Self {
        Self {
            denied: settings.deny.clone(),
            verifies: settings.verify == EndpointVerification::Pods,
            allowed: settings.allow.clone(),
        }
    }

    /// Whether no endpoint may have `address`, in any of its [`readings`].
    pub(super) fn denies(&self, address: IpAddr) -> bool {
        let is_denied =
            |address: IpAddr| self.denied.iter().any(|denied| denied.contains(&address));
        !self.denied.is_empty() && readings(address).any(is_denied)
    }

    /// Whether endpoints are verified by Pods.
    pub(super) fn verifies(&self) -> bool {
        self.verifies
    }

    /// Whether endpoints of `namespace` may have `address` without a Pod.
    pub(super) fn allows(&self, namespace: &str, address: IpAddr) -> bool {
        self.allowed.iter().any(|allowed| {
            allowed.network.contains(&address)
                && allowed.namespaces.iter().any(|allowed| *allowed == *namespace)
        })
    }
}
