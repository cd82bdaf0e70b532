//! Every metric, and where its numbers come from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use portcullis_config::live::Live;
use portcullis_config::problem::Severity;

use super::ServedCertificate;
use super::counter::Tally;
use super::exposition::{Exposition, Kind, Metric};
use super::meter::Counts;
use super::process;
use super::series::{Labels, Sum};
use crate::session::Counts as RevocationCounts;

/// All that a scrape reads.
pub(super) struct Sources<'s> {
    pub(super) started: SystemTime,
    pub(super) now: SystemTime,
    pub(super) workers: &'s [Arc<Counts>],
    pub(super) series: &'s [(Labels, Sum)],
    pub(super) certificates: &'s [ServedCertificate],
    pub(super) certificate_problems: usize,
    pub(super) dropped_lines: u64,
    pub(super) revocations: &'s RevocationCounts,
    pub(super) live: &'s Live,
}

macro_rules! metrics {
    ($($name:ident: $kind:ident $text:literal [$($label:literal),*] $help:literal;)+) => {
        $(static $name: Metric = Metric { name: $text, kind: Kind::$kind, labels: &[$($label),*], help: $help };)+

        /// All of them, in the order of their exposition.
        #[cfg(test)]
        pub(super) static ALL: &[&Metric] = &[$(&$name),+];
    };
}

metrics! {
    REQUESTS: Counter "portcullis_requests_total" ["environment", "service", "variant", "code"] "Requests that have ended, by class of status (1xx to 5xx). The three names are empty where no route was taken.";
    REQUEST_DURATION: Histogram "portcullis_request_duration_seconds" ["environment", "service", "variant"] "From a request's head to its response's end.";
    UPSTREAM_DURATION: Histogram "portcullis_upstream_duration_seconds" ["environment", "service", "variant"] "From the first try to the head of the backend's response.";
    GRPC: Counter "portcullis_grpc_responses_total" ["environment", "service", "variant", "grpc_status"] "Responses with a grpc-status, by its number; `unknown` for what is no number from 0 to 16.";
    BYTES_IN: Counter "portcullis_request_body_bytes_total" ["environment", "service", "variant"] "Octets of request bodies.";
    BYTES_OUT: Counter "portcullis_response_body_bytes_total" ["environment", "service", "variant"] "Octets of response bodies.";
    IN_FLIGHT: Gauge "portcullis_requests_in_flight" [] "Requests under way.";
    REFUSALS: Counter "portcullis_requests_refused_total" ["reason"] "Requests that were refused before they were routed.";
    REJECTED: Counter "portcullis_credentials_rejected_total" ["reason"] "Requests that showed a credential that does not hold, and got what does not exist.";
    LOGINS: Counter "portcullis_logins_total" ["outcome"] "Steps of logins, and ends of sessions by the person or the provider.";
    REVOCATIONS: Counter "portcullis_session_revocations_total" ["outcome"] "Ends of sessions that other replicas were told of (`told`), and times that telling them failed (`failed`).";
    REVOCATIONS_PENDING: Gauge "portcullis_session_revocations_pending" [] "Ends of sessions that other replicas were not told of yet.";
    FAILURES: Counter "portcullis_requests_failed_total" ["reason"] "Exchanges that failed after the request was routed.";
    ACCEPTED: Counter "portcullis_connections_accepted_total" ["listener"] "Connections from clients that were accepted.";
    ACCEPT_ERRORS: Counter "portcullis_accept_errors_total" ["listener", "reason"] "Connections from clients that could not be accepted: `exhausted` where descriptors or memory had run out.";
    CONNECTIONS: Counter "portcullis_connections_total" ["listener", "protocol"] "Connections from clients that came to speak HTTP.";
    CONNECTIONS_OPEN: Gauge "portcullis_connections_open" ["listener", "protocol"] "Connections from clients that are open.";
    TURNED_AWAY: Counter "portcullis_connections_refused_total" ["listener", "reason"] "Connections from clients that were closed before they spoke HTTP.";
    HANDSHAKES: Counter "portcullis_tls_handshakes_total" ["version"] "TLS handshakes with clients that were completed.";
    HANDSHAKE_FAILURES: Counter "portcullis_tls_handshake_failures_total" ["reason"] "TLS handshakes with clients that failed.";
    UPSTREAM_CONNECTIONS: Counter "portcullis_upstream_connections_total" [] "Connections to backends that were made.";
    UPSTREAM_OPEN: Gauge "portcullis_upstream_connections_open" [] "Connections to backends that are open.";
    UPSTREAM_REUSED: Counter "portcullis_upstream_connections_reused_total" [] "Requests that went over a connection that was there already.";
    UPSTREAM_RETRIES: Counter "portcullis_upstream_retries_total" [] "Tries after the first one of a request.";
    UPSTREAM_FAILURES: Counter "portcullis_upstream_failures_total" ["reason"] "Tries that failed.";
    UPSTREAM_EJECTIONS: Counter "portcullis_upstream_ejections_total" [] "Times that an endpoint was avoided because it had failed.";
    CONFIGURATION_AGE: Gauge "portcullis_configuration_age_seconds" [] "Since the source of resources was last heard of.";
    CONFIGURATION_SYNCED: Gauge "portcullis_configuration_synced" [] "1 once every kind of resource has been read in whole.";
    SNAPSHOTS: Counter "portcullis_snapshots_total" [] "Snapshots of the routing table that were published.";
    HOSTS: Gauge "portcullis_hosts" ["listener"] "Hostnames and wildcards in the routing table.";
    PROBLEMS: Gauge "portcullis_problems" ["severity", "reason"] "Problems with resources as they are now.";
    CERTIFICATE: Gauge "portcullis_certificate_not_after_seconds" ["certificate"] "When a certificate that is served ends, in seconds since 1970.";
    CERTIFICATE_PROBLEMS: Gauge "portcullis_certificate_problems" [] "Certificates that are not usable, soon not any more, or could not be ordered.";
    LOG_DROPPED: Counter "portcullis_access_log_dropped_total" [] "Lines of the access log that could not be written as fast as they came, or not at all.";
    BUILD: Gauge "portcullis_build_info" ["version"] "Always 1; the label says which version runs.";
    PROCESS_START: Gauge "process_start_time_seconds" [] "When the process started, in seconds since 1970.";
    PROCESS_CPU: Counter "process_cpu_seconds_total" [] "CPU time, user and system.";
    PROCESS_RESIDENT: Gauge "process_resident_memory_bytes" [] "Resident memory.";
    PROCESS_FILES: Gauge "process_open_fds" [] "Open file descriptors.";
    PROCESS_MAX_FILES: Gauge "process_max_fds" [] "The most file descriptors that may be open.";
    PROCESS_THREADS: Gauge "process_threads" [] "Threads.";
}

/// The whole text.
pub(super) fn render(sources: &Sources<'_>) -> String {
    let mut text = Exposition::default();
    requests(&mut text, sources);
    clients(&mut text, sources);
    upstreams(&mut text, sources);
    control(&mut text, sources);
    machine(&mut text, sources);
    text.finish()
}

fn requests(text: &mut Exposition, sources: &Sources<'_>) {
    const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
    let mut family = text.family(&REQUESTS);
    each(sources, |names, sum| {
        for (class, count) in CLASSES.into_iter().zip(sum.classes).filter(|(_, count)| *count > 0) {
            family.sample(&[names[0], names[1], names[2], class], count);
        }
    });
    let mut family = text.family(&REQUEST_DURATION);
    each(sources, |names, sum| family.histogram(&names, &sum.duration));
    let mut family = text.family(&UPSTREAM_DURATION);
    each(sources, |names, sum| {
        if sum.upstream.count() > 0 {
            family.histogram(&names, &sum.upstream);
        }
    });
    let mut family = text.family(&GRPC);
    each(sources, |names, sum| {
        for (code, count) in sum.grpc.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let code = if code > 16 { "unknown".to_owned() } else { code.to_string() };
            family.sample(&[names[0], names[1], names[2], &code], count);
        }
    });
    let mut family = text.family(&BYTES_IN);
    each(sources, |names, sum| {
        family.sample(&names, sum.bytes_in);
    });
    let mut family = text.family(&BYTES_OUT);
    each(sources, |names, sum| {
        family.sample(&names, sum.bytes_out);
    });
    let ended = total(sources, |counts| counts.ended.get());
    text.family(&IN_FLIGHT)
        .sample(&[], total(sources, |counts| counts.begun.get()).saturating_sub(ended));
    by_reason(text, &REFUSALS, sources, |counts| &counts.refusals);
    by_reason(text, &REJECTED, sources, |counts| &counts.rejected);
    by_reason(text, &LOGINS, sources, |counts| &counts.logins);
    text.family(&REVOCATIONS)
        .sample(&["told"], sources.revocations.told())
        .sample(&["failed"], sources.revocations.failed());
    text.family(&REVOCATIONS_PENDING).sample(&[], sources.revocations.pending());
    by_reason(text, &FAILURES, sources, |counts| &counts.failures);
}

fn clients(text: &mut Exposition, sources: &Sources<'_>) {
    let closed = tallied(sources, |counts| &counts.closed);
    let opened = tallied(sources, |counts| &counts.opened);
    by_reason(text, &ACCEPTED, sources, |counts| &counts.accepted);
    let mut family = text.family(&ACCEPT_ERRORS);
    for ((listener, reason), count) in tallied(sources, |counts| &counts.accept_errors) {
        family.sample(&[listener, reason], count);
    }
    let mut family = text.family(&CONNECTIONS);
    for ((listener, protocol), count) in &opened {
        family.sample(&[listener, protocol.as_str()], count);
    }
    let mut family = text.family(&CONNECTIONS_OPEN);
    for (label, count) in &opened {
        let closed =
            closed.iter().find(|(closed, _)| closed == label).map_or(0, |(_, closed)| *closed);
        family.sample(&[label.0, label.1.as_str()], count.saturating_sub(closed));
    }
    let mut family = text.family(&TURNED_AWAY);
    for ((listener, reason), count) in tallied(sources, |counts| &counts.turned_away) {
        family.sample(&[listener, reason], count);
    }
    by_reason(text, &HANDSHAKES, sources, |counts| &counts.handshakes);
    by_reason(text, &HANDSHAKE_FAILURES, sources, |counts| &counts.handshake_failures);
}

fn upstreams(text: &mut Exposition, sources: &Sources<'_>) {
    let closed = total(sources, |counts| counts.upstream_closed.get());
    let opened = total(sources, |counts| counts.upstream_opened.get());
    text.family(&UPSTREAM_CONNECTIONS).sample(&[], opened);
    text.family(&UPSTREAM_OPEN).sample(&[], opened.saturating_sub(closed));
    text.family(&UPSTREAM_REUSED)
        .sample(&[], total(sources, |counts| counts.upstream_reused.get()));
    text.family(&UPSTREAM_RETRIES)
        .sample(&[], total(sources, |counts| counts.upstream_retries.get()));
    by_reason(text, &UPSTREAM_FAILURES, sources, |counts| &counts.upstream_failures);
    text.family(&UPSTREAM_EJECTIONS)
        .sample(&[], total(sources, |counts| counts.upstream_ejections.get()));
}

fn control(text: &mut Exposition, sources: &Sources<'_>) {
    let mut family = text.family(&CONFIGURATION_AGE);
    if let Some(age) = sources.live.age(sources.now) {
        family.sample(&[], age.as_secs());
    }
    text.family(&CONFIGURATION_SYNCED).sample(&[], u8::from(sources.live.is_synced()));
    text.family(&SNAPSHOTS).sample(&[], sources.live.publications());
    let mut family = text.family(&HOSTS);
    for listener in &sources.live.snapshot.load().listeners {
        family.sample(&[&listener.name], listener.hosts.len());
    }
    let mut problems = BTreeMap::new();
    for problem in sources.live.problems.load().iter() {
        *problems.entry((severity(problem.severity), problem.reason)).or_insert(0_u64) += 1;
    }
    let mut family = text.family(&PROBLEMS);
    for ((severity, reason), count) in problems {
        family.sample(&[severity, reason], count);
    }
    let mut family = text.family(&CERTIFICATE);
    for certificate in sources.certificates {
        family.sample(&[&certificate.origin], certificate.not_after);
    }
    text.family(&CERTIFICATE_PROBLEMS).sample(&[], sources.certificate_problems);
    text.family(&LOG_DROPPED).sample(&[], sources.dropped_lines);
    text.family(&BUILD).sample(&[env!("CARGO_PKG_VERSION")], 1);
}

fn machine(text: &mut Exposition, sources: &Sources<'_>) {
    let started = sources.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    text.family(&PROCESS_START).sample(&[], started.as_secs());
    let Some(usage) = process::usage() else { return };
    text.family(&PROCESS_CPU).sample(&[], usage.cpu_seconds);
    text.family(&PROCESS_RESIDENT).sample(&[], usage.resident_bytes);
    text.family(&PROCESS_FILES).sample(&[], usage.open_files);
    if let Some(max) = usage.max_files {
        text.family(&PROCESS_MAX_FILES).sample(&[], max);
    }
    text.family(&PROCESS_THREADS).sample(&[], usage.threads);
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn each(sources: &Sources<'_>, mut visit: impl FnMut([&str; 3], &Sum)) {
    for (labels, sum) in sources.series {
        visit([&labels.environment, &labels.service, &labels.variant], sum);
    }
}

fn total(sources: &Sources<'_>, number: impl Fn(&Counts) -> u64) -> u64 {
    sources.workers.iter().map(|counts| number(counts)).sum()
}

fn tallied<L: Copy + Ord>(
    sources: &Sources<'_>,
    tally: impl Fn(&Counts) -> &Tally<L>,
) -> Vec<(L, u64)> {
    let mut sums = Vec::new();
    for counts in sources.workers {
        tally(counts).add_to(&mut sums);
    }
    sums.sort_unstable();
    sums
}

fn by_reason(
    text: &mut Exposition,
    metric: &'static Metric,
    sources: &Sources<'_>,
    tally: impl Fn(&Counts) -> &Tally<&'static str>,
) {
    let mut family = text.family(metric);
    for (reason, count) in tallied(sources, tally) {
        family.sample(&[reason], count);
    }
}
