//! Whether the gateway is ready for traffic.

/// The conditions of readiness.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    /// Every kind of resource has been read completely once.
    pub(super) synced: bool,
    /// The gateway is stopping.
    pub(super) draining: bool,
    /// A certificate is usable, or none is configured.
    pub(super) certificate: bool,
}

/// Why the gateway is not ready; empty where it is.
pub(super) fn reasons(state: State) -> Vec<&'static str> {
    let reasons = [
        (state.draining, "the gateway is draining"),
        (!state.synced, "the source has not been read completely yet"),
        (!state.certificate, "none of the configured certificates is usable"),
    ];
    reasons.into_iter().filter_map(|(holds, reason)| holds.then_some(reason)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_ready_if_every_condition_holds() {
        let ready = State { synced: true, draining: false, certificate: true };
        assert!(reasons(ready).is_empty());
        assert_eq!(reasons(State { synced: false, ..ready }).len(), 1);
        assert_eq!(reasons(State { draining: true, ..ready }).len(), 1);
        assert_eq!(reasons(State { certificate: false, ..ready }).len(), 1);
    }
}
