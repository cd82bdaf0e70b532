//! Whether the gateway should be sent traffic.

/// What readiness depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    /// Every kind of resource has been read in whole once.
    pub(super) synced: bool,
    /// The gateway is stopping.
    pub(super) draining: bool,
    /// A certificate can be served, or none was asked for.
    pub(super) certificate: bool,
}

/// Why the gateway is not ready; empty where it is.
pub(super) fn reasons(state: State) -> Vec<&'static str> {
    let reasons = [
        (state.draining, "the gateway is draining"),
        (!state.synced, "the source has not been read in whole yet"),
        (!state.certificate, "none of the configured certificates is usable"),
    ];
    reasons.into_iter().filter_map(|(holds, reason)| holds.then_some(reason)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_ready_when_it_knows_all_and_does_not_stop() {
        let ready = State { synced: true, draining: false, certificate: true };
        assert!(reasons(ready).is_empty());
        assert_eq!(reasons(State { synced: false, ..ready }).len(), 1);
        assert_eq!(reasons(State { draining: true, ..ready }).len(), 1);
        assert_eq!(reasons(State { certificate: false, ..ready }).len(), 1);
    }
}
