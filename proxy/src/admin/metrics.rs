//! Metrics in Prometheus' text format.

use std::time::SystemTime;

use prometheus::proto::MetricFamily;
use prometheus::{Encoder, GaugeVec, IntGauge, Opts, TextEncoder, core::Collector};

use super::Admin;

/// All metrics. One that cannot be made is left out, and that is logged: it must not take the others with it.
pub(super) fn text(admin: &Admin, now: SystemTime) -> String {
    let mut families = admin.connections.gather();
    match own(admin, now) {
        Ok(own) => families.extend(own),
        Err(error) => tracing::error!(%error, "metrics are missing"),
    }
    families.sort_by(|one, other| one.name().cmp(other.name()));
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
        tracing::error!(%error, "metrics cannot be written");
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// What is known only when it is asked for.
fn own(admin: &Admin, now: SystemTime) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let open = IntGauge::new("portcullis_connections_open", "Connections from clients that are open.")?;
    open.set(i64::try_from(admin.admission.open()).unwrap_or(i64::MAX));
    let expiry = GaugeVec::new(
        Opts::new("portcullis_certificate_expires_in_seconds", "Seconds until a certificate in use expires; 0 once it has."),
        &["certificate"],
    )?;
    for certificate in admin.certificates.in_use() {
        let name = certificate.origin.to_string();
        expiry.with_label_values(&[name.as_str()]).set(certificate.remaining(now).as_secs_f64());
    }
    let problems = IntGauge::new("portcullis_certificate_problems", "Certificates that are not usable, or soon not any more.")?;
    problems.set(i64::try_from(admin.certificates.problems().len()).unwrap_or(i64::MAX));
    Ok([open.collect(), expiry.collect(), problems.collect()].concat())
}
