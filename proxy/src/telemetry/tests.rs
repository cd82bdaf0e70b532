use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, UNIX_EPOCH};

use http::{Method, Version};
use portcullis_config::settings::AccessLogSettings;

use super::*;

const NOW: SystemTime = UNIX_EPOCH;

pub(super) fn record() -> Record<'static> {
    Record {
        id: b"0190-a",
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        listener: "https",
        tls: true,
        version: Version::HTTP_2,
        method: &Method::GET,
        host: "shop--staging.apps.example.com",
        path: "/cart",
        status: 200,
        grpc_status: None,
        bytes_in: 5,
        bytes_out: 1024,
        duration: Duration::from_millis(3),
        upstream_duration: Some(Duration::from_micros(900)),
        environment: "staging",
        service: "shop",
        variant: "stable",
        assignment: None,
        missed_variant: "",
        upstream: Some(([10, 0, 0, 7], 8080).into()),
        tries: 1,
        application: "",
        user: "",
        rejected: None,
        denied: None,
        login: None,
        refusal: None,
        failure: None,
        user_agent: None,
        referer: None,
    }
}

fn settings(access_log: AccessLogSettings) -> Settings {
    let json =
        serde_json::json!({"zone": "apps.example.com", "source": {"directory": "manifests"}});
    let mut settings: Settings = serde_json::from_value(json).unwrap();
    settings.access_log = access_log;
    settings
}

fn telemetry(access_log: AccessLogSettings) -> Arc<Telemetry> {
    let certificates = || CertificateStatus {
        served: vec![ServedCertificate { origin: "files".to_owned(), not_after: 1_795_255_200 }],
        problems: 3,
    };
    Telemetry::new(&settings(access_log), Arc::default(), certificates, NOW).unwrap()
}

fn without_log() -> Arc<Telemetry> {
    telemetry(AccessLogSettings { format: AccessLogFormat::None, file: None })
}

#[test]
fn counters_of_workers_are_added_up() {
    let telemetry = without_log();
    let (first, second) = (telemetry.meter(), telemetry.meter());
    first.record(&record(), NOW);
    second.record(&record(), NOW);
    second.record(&Record { status: 503, upstream_duration: None, ..record() }, NOW);
    let text = telemetry.metrics().unwrap();
    let labels = "environment=\"staging\",service=\"shop\",variant=\"stable\"";
    for line in [
        format!("portcullis_requests_total{{{labels},code=\"2xx\"}} 2\n"),
        format!("portcullis_requests_total{{{labels},code=\"5xx\"}} 1\n"),
        format!("portcullis_request_duration_seconds_bucket{{{labels},le=\"0.0025\"}} 0\n"),
        format!("portcullis_request_duration_seconds_bucket{{{labels},le=\"0.005\"}} 3\n"),
        format!("portcullis_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 3\n"),
        format!("portcullis_request_duration_seconds_sum{{{labels}}} 0.009\n"),
        format!("portcullis_upstream_duration_seconds_count{{{labels}}} 2\n"),
        format!("portcullis_response_body_bytes_total{{{labels}}} 3072\n"),
    ] {
        assert!(text.contains(&line), "{line} is missing in\n{text}");
    }
}

#[test]
fn open_connections_and_requests_count_until_dropped() {
    let telemetry = without_log();
    let (first, second) = (telemetry.meter(), telemetry.meter());
    let open = (
        first.request(),
        second.request(),
        first.connection("https", Protocol::Http2),
        second.upstream_connection(),
    );
    drop((first.request(), second.connection("https", Protocol::Http2)));
    let text = telemetry.metrics().unwrap();
    for line in [
        "portcullis_requests_in_flight 2\n",
        "portcullis_connections_total{listener=\"https\",protocol=\"http2\"} 2\n",
        "portcullis_connections_open{listener=\"https\",protocol=\"http2\"} 1\n",
        "portcullis_upstream_connections_open 1\n",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    drop(open);
    assert!(telemetry.metrics().unwrap().contains("portcullis_requests_in_flight 0\n"));
}

#[test]
fn label_values_are_escaped() {
    let telemetry = without_log();
    telemetry.meter().record(&Record { service: "a\"b\\c\nd", ..record() }, NOW);
    assert!(telemetry.metrics().unwrap().contains("service=\"a\\\"b\\\\c\\nd\""));
}

#[test]
fn the_access_log_supports_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let telemetry =
        telemetry(AccessLogSettings { format: AccessLogFormat::Json, file: Some(path.clone()) });
    let meter = telemetry.meter();
    meter.record(&Record { id: b"before", ..record() }, NOW);
    let written = |path: &std::path::Path, id: &str| {
        for _ in 0..1000 {
            if std::fs::read_to_string(path).is_ok_and(|text| text.contains(id)) {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        false
    };
    assert!(written(&path, "before"));
    let rotated = folder.path().join("access.log.1");
    std::fs::rename(&path, &rotated).unwrap();
    meter.record(&Record { id: b"after", ..record() }, NOW);
    telemetry.close();
    let (old, new) =
        (std::fs::read_to_string(rotated).unwrap(), std::fs::read_to_string(path).unwrap());
    assert!(old.contains("before") && !old.contains("after"), "{old}");
    assert!(new.contains("after") && new.ends_with("}\n"), "{new}");
}

/// Compares the table in `docs/metrics.md` with the metrics.
#[test]
fn the_documentation_lists_all_metrics() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let documentation = std::fs::read_to_string(path).unwrap();
    let rows: Vec<&str> = documentation
        .lines()
        .filter(|line| line.starts_with("| `portcullis_") || line.starts_with("| `process_"))
        .collect();
    let expected: Vec<String> = [
        workers::METRICS,
        shadows::METRICS,
        control::METRICS,
        process::METRICS,
        listeners::METRICS,
    ]
    .concat()
    .into_iter()
    .map(|metric| {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!(
            "| `{}` | {} | {} | {} |",
            metric.name,
            format!("{:?}", metric.kind).to_lowercase(),
            labels.join(", "),
            metric.help
        )
    })
    .collect();
    assert_eq!(rows, expected);
}

#[test]
fn metrics_without_labels_always_have_a_sample() {
    let text = without_log().metrics().unwrap();
    // No source has been read.
    let unknown = "portcullis_configuration_age_seconds";
    for metric in
        [workers::METRICS, shadows::METRICS, control::METRICS, process::METRICS, listeners::METRICS]
            .concat()
    {
        if metric.labels.is_empty() && metric.name != unknown {
            let sample = format!("\n{} ", metric.name);
            assert!(text.contains(&sample), "{}", metric.name);
        }
    }
    assert!(!text.contains(unknown));
}

#[test]
fn families_are_unique_and_ordered_by_name() {
    let telemetry = without_log();
    let (first, second) = (telemetry.meter(), telemetry.meter());
    for meter in [&first, &second] {
        meter.record(&Record { grpc_status: Some(99), failure: Some("connect"), ..record() }, NOW);
        meter.accept_failed("https", "exhausted");
    }
    let text = telemetry.metrics().unwrap();
    let of = |what: &str| -> Vec<&str> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(what));
        lines.filter_map(|line| line.split(' ').next()).collect()
    };
    let (help, kinds) = (of("# HELP "), of("# TYPE "));
    assert_eq!(help, kinds);
    assert!(help.is_sorted_by(|one, next| one < next), "{help:?}");
    for line in [
        "portcullis_grpc_responses_total{environment=\"staging\",service=\"shop\",\
         variant=\"stable\",grpc_status=\"unknown\"} 2\n",
        "portcullis_requests_failed_total{reason=\"connect\"} 2\n",
        "portcullis_accept_errors_total{listener=\"https\",reason=\"exhausted\"} 2\n",
        "portcullis_certificate_not_after_seconds{certificate=\"files\"} 1795255200\n",
        "portcullis_certificate_problems 3\n",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}
