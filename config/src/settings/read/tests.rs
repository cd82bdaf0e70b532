use super::*;
use crate::settings::SourceSettings;

fn problems(text: &str) -> Vec<String> {
    let problems = Settings::parse(Path::new("gateway.yaml"), text.as_bytes())
        .expect_err("there must be a problem");
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_minimal_configuration_has_every_default() {
    let settings = Settings::parse(
        Path::new("gateway.yaml"),
        b"zone: apps.example.com\nsource:\n  kubernetes:\n",
    )
    .unwrap();
    assert_eq!(settings.hostname, "{service}--{environment}.{zone}");
    assert!(matches!(settings.source, SourceSettings::Kubernetes(kubernetes) if kubernetes.events));
}

#[test]
fn every_problem_is_reported_at_once_with_location_and_fix() {
    insta::assert_snapshot!(problems(include_str!("everything-wrong.yaml")).join("\n"));
}

#[test]
fn missing_keys_are_reported_besides_invalid_ones() {
    assert_eq!(
        problems("zoen: apps.example.com\nworkers: 0\n"),
        [
            "gateway.yaml:1:1: `zoen`: unknown key (did you mean `zone`?)",
            "gateway.yaml:1:1: the key `zone` is missing (add the domain that the gateway serves, such as `zone: apps.example.com`)",
            "gateway.yaml:1:1: the key `source` is missing (add `source:` with `kubernetes: {}` or `directory: FOLDER` below it)",
            "gateway.yaml:2:10: `workers`: expected a whole number from 1 on, found integer `0` (write a whole number from 1 on)",
        ]
    );
}

#[test]
fn a_file_without_a_document_or_with_two_is_rejected() {
    assert_eq!(
        problems("# nothing\n"),
        ["gateway.yaml:1:1: it is empty (write `zone` and `source` at least)"]
    );
    assert_eq!(
        problems("a: 1\n---\nb: 1\n"),
        ["gateway.yaml:3:1: a second document starts here (merge the documents into one)"]
    );
    assert_eq!(problems("- a\n").len(), 1);
}

#[test]
fn files_must_exist_relative_to_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.yaml");
    let text = "zone: a.example\nsource: {directory: manifests}\ncertificates:\n- files: {certificate: tls.crt, key: tls.key}\n";
    std::fs::write(&path, text).unwrap();
    std::fs::write(folder.path().join("tls.key"), "no key").unwrap();
    let locations: Vec<_> = Settings::read(&path)
        .unwrap_err()
        .into_iter()
        .filter_map(|problem| problem.origin.place)
        .collect();
    assert_eq!(
        locations.iter().map(|location| (location.line, location.column)).collect::<Vec<_>>(),
        [(2, 21), (4, 24), (4, 38)]
    );

    std::fs::create_dir(folder.path().join("manifests")).unwrap();
    std::fs::write(folder.path().join("tls.crt"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    std::fs::write(folder.path().join("tls.key"), "-----BEGIN PRIVATE KEY-----\n").unwrap();
    let settings = Settings::read(&path).unwrap();
    assert_eq!(settings.source, SourceSettings::Directory(folder.path().join("manifests")));
}

#[test]
fn a_missing_file_is_reported() {
    let problems = Settings::read(Path::new("nowhere/gateway.yaml")).unwrap_err();
    assert!(
        problems[0].to_string().starts_with("nowhere/gateway.yaml:1:1: it cannot be read: "),
        "{problems:?}"
    );
}

#[test]
fn valid_access_settings_are_accepted() {
    let text = "zone: a.example
source: {directory: manifests}
access:
  credentialsNamespace: portcullis
  issuers:
  - {name: corp, issuer: https://id.example.com/realms/corp, audiences: [portcullis], jwksUri: \"https://id.example.com/keys?v=1\"}
  - {name: demo, issuer: \"http://127.0.0.1:5556\", audiences: [a, b], prefix: \"demo:\", algorithms: [ES256]}
  - {name: local_1, issuer: \"http://localhost\", audiences: [a], prefix: \"local:\"}
  login: {issuer: corp, clientId: portcullis, host: sign-in.a.example}
";
    let settings = Settings::parse(Path::new("gateway.yaml"), text.as_bytes()).unwrap();
    assert_eq!(settings.access.issuers.len(), 3);
    let github = "zone: a.example\nsource: {directory: .}\naccess: {login: {issuer: github, clientId: x, scopes: [\"read:org\"]}}\n";
    assert!(Settings::parse(Path::new("gateway.yaml"), github.as_bytes()).is_ok());
}

#[test]
fn no_issuer_has_the_prefix_of_users_of_github_where_they_log_in() {
    let settings = |prefix: &str, login: &str| {
        format!(
            "zone: a.example\nsource: {{directory: .}}\naccess:\n  issuers: [{{name: corp, issuer: \
             \"https://id.example\", audiences: [a], prefix: \"{prefix}\"}}]\n  login: {{issuer: {login}, \
             clientId: x}}\n"
        )
    };
    for (prefix, login, is_rejected) in [
        ("", "github", false),
        ("partner:", "github", false),
        ("git", "github", true),
        ("github:", "github", true),
        ("github:corp:", "github", true),
        ("github:", "corp", false),
    ] {
        let text = settings(prefix, login);
        let found: Vec<String> = Settings::parse(Path::new("gateway.yaml"), text.as_bytes())
            .err()
            .into_iter()
            .flatten()
            .map(|problem| problem.to_string())
            .collect();
        let is_about = |problem: &String| problem.contains("confused with users of GitHub");
        assert_eq!(found.iter().any(is_about), is_rejected, "{prefix} {login}: {found:?}");
        assert!(found.iter().all(is_about), "{found:?}");
    }
}

#[test]
fn files_of_access_must_exist_relative_to_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.yaml");
    let text = "zone: a.example
source: {directory: .}
access:
  clientCertificateAuthorities: ca.crt
  issuers:
  - name: corp
    issuer: https://id.example.com
    audiences: [a]
    certificateAuthorities: ca.crt
    introspection: {clientId: a, clientSecretFile: secret}
  login: {issuer: corp, clientId: a, clientSecretFile: secret, github: {certificateAuthorities: ca.crt}}
";
    std::fs::write(&path, text).unwrap();
    let lines = || -> Vec<_> {
        Settings::read(&path)
            .unwrap_err()
            .iter()
            .filter_map(|problem| Some(problem.origin.place.as_ref()?.line))
            .collect()
    };
    assert_eq!(lines(), [4, 9, 10, 11, 11]);
    std::fs::write(folder.path().join("ca.crt"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    std::fs::write(folder.path().join("secret"), "\n").unwrap();
    assert_eq!(lines(), [10, 11], "an empty secret is rejected");
    std::fs::write(folder.path().join("secret"), "s3cret\n").unwrap();
    let access = Settings::read(&path).unwrap().access;
    assert_eq!(access.login.unwrap().client_secret_file, Some(folder.path().join("secret")));
    assert_eq!(access.client_certificate_authorities, Some(folder.path().join("ca.crt")));
}
