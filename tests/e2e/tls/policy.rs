//! Negotiated versions, cipher suites and groups.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;

use rustls::NamedGroup;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use serde_json::json;
use tokio::process::Command;

use crate::harness::{Gateway, WEB, World, client, echo, soon};

/// The group that is negotiated with a client that offers these, in its order of preference.
///
/// # Errors
/// There is none.
async fn agreed(
    gateway: &Gateway,
    offered: &[&'static dyn SupportedKxGroup],
) -> io::Result<NamedGroup> {
    let provider = CryptoProvider { kx_groups: offered.to_vec(), ..default_provider() };
    let stream =
        client::tls_with(gateway, WEB, client::tls_config_with(gateway, &["h2"], provider)).await?;
    Ok(stream.get_ref().1.negotiated_key_exchange_group().expect("the handshake has ended").name())
}

#[tokio::test]
async fn the_post_quantum_group_is_negotiated() {
    let pod = echo("pod-1").await;
    for policy in ["intermediate", "modern"] {
        let settings = json!({ "listeners": { "https": { "policy": policy } } });
        let gateway = Gateway::of(World::web(&pod)).settings(settings).start().await;
        let alone = agreed(&gateway, &[kx_group::X25519MLKEM768]).await.expect("it is offered");
        assert_eq!(alone, NamedGroup::X25519MLKEM768);
        let first =
            agreed(&gateway, &[kx_group::X25519MLKEM768, kx_group::X25519]).await.expect("a group");
        assert_eq!(first, NamedGroup::X25519MLKEM768, "browsers offer it first");
        for known in [kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1] {
            assert_eq!(agreed(&gateway, &[known]).await.expect("it is offered"), known.name());
        }
        assert!(agreed(&gateway, &[kx_group::SECP256R1MLKEM768]).await.is_err());
        assert_ne!(gateway.curl(WEB, "/").args(["--curves", "P-521"]).run().await.exit, 0);
    }
}

#[tokio::test]
async fn the_modern_profile_is_tls_1_3_only() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::of(World::web(&pod))
        .settings(json!({ "listeners": { "https": { "policy": "modern" } } }))
        .start()
        .await;
    let call = |version: &str| gateway.curl(WEB, "/whoami").args(["--tls-max", version]).run();
    let (old, new) = (call("1.2").await, call("1.3").await);
    // CURLE_SSL_CONNECT_ERROR
    assert_eq!((old.exit, old.status), (35, 0), "{old:?}");
    assert_eq!((new.exit, new.status), (0, 200), "{new:?}");
    assert!(
        gateway.metric("portcullis_tls_handshake_failures_total{reason=\"incompatible\"").await
            >= 1.0
    );
}

#[tokio::test]
async fn ciphers_without_forward_secrecy_are_rejected_in_tls_1_2() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let call = |ciphers: &str| {
        gateway.curl(WEB, "/whoami").args(["--tls-max", "1.2", "--ciphers", ciphers]).run()
    };
    for good in [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    ] {
        assert_eq!(call(good).await.status, 200, "{good}");
    }
    for bad in [
        "AES128-GCM-SHA256",
        "AES256-SHA",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA384",
        "DHE-RSA-AES128-GCM-SHA256",
    ] {
        assert_eq!(call(bad).await.exit, 35, "{bad}");
    }
}

/// The path in which `tests/sslyze/build` installs it.
async fn sslyze() -> PathBuf {
    let build = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sslyze/build");
    let output =
        Command::new(build).arg("--print-dir").output().await.expect("tests/sslyze/build runs");
    let python =
        PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim()).join("bin/python");
    assert!(python.exists(), "sslyze is not there: run tests/sslyze/build");
    python
}

#[tokio::test]
async fn sslyze_finds_no_deviation_from_mozillas_profiles() {
    let pod = echo("pod-1").await;
    for policy in ["intermediate", "modern"] {
        let settings = json!({ "listeners": { "https": { "policy": policy } } });
        let gateway = Gateway::of(World::web(&pod)).settings(settings).start().await;
        let mut command = Command::new(sslyze().await);
        command
            .args([
                "-m",
                "sslyze",
                "--mozilla_config",
                policy,
                "--early_data",
                "--certinfo_ca_file",
            ])
            .arg(gateway.ca());
        command.arg(format!("{WEB}:{}{{127.0.0.1}}", gateway.https().port()));
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = soon("sslyze ends", command.output()).await.expect("sslyze runs");
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && report.contains("OK - Compliant"), "{policy}: {report}");
        let (_, early) = report.split_once("TLS 1.3 Early Data:").expect("it was looked at");
        assert_eq!(
            early.lines().map(str::trim).find(|line| !line.is_empty()),
            Some("Not Supported")
        );
        // It did scan: for another server these lines would differ.
        assert_eq!(
            report.contains("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
            policy == "intermediate",
            "{report}"
        );
        assert!(report.contains("TLS_AES_128_GCM_SHA256"), "{report}");
    }
}
