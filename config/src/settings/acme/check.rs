//! Validation of ACME settings.

use std::fs;
use std::path::Path;

use super::{AcmeSettings, AuthoritySettings, ChallengeKind, DnsProviderSettings, StoreSettings};
use crate::model::check_label;
use crate::settings::check::{ErrorSink, contains, readable};
use crate::settings::{Settings, SourceSettings};

/// Validates everything that does not depend on other files.
pub(in crate::settings) fn validate(settings: &Settings, report: &mut ErrorSink<'_>) {
    let Some(acme) = &settings.acme else { return };
    if acme.authorities.is_empty() {
        report(
            &["acme", "authorities"],
            "there is no authority to order from".to_owned(),
            "name one, or leave the key out for Let's Encrypt".to_owned(),
        );
    }
    for (index, authority) in acme.authorities.iter().enumerate() {
        validate_authority(acme, authority, &index.to_string(), report);
    }
    challenge(settings, acme, report);
    if acme.retry_after.is_zero() {
        let help = "write a duration such as `1m`".to_owned();
        report(
            &["acme", "retryAfter"],
            "authorities block clients that retry without a pause".to_owned(),
            help,
        );
    }
    store(settings, acme, report);
}

fn validate_authority(
    acme: &AcmeSettings,
    authority: &AuthoritySettings,
    index: &str,
    report: &mut ErrorSink<'_>,
) {
    for (key, url) in
        [("directory", Some(&authority.directory)), ("staging", authority.staging.as_ref())]
    {
        if url.is_some_and(|url| !is_https(url)) {
            let help = "write the URL of the authority's directory, beginning with `https://` \
                        (RFC 8555 §6.1)"
                .to_owned();
            report(
                &["acme", "authorities", index, key],
                "it is not an `https` URL".to_owned(),
                help,
            );
        }
    }
    if authority.directory(acme.staging).is_none() {
        let help = "set its `staging` directory, or remove `acme.staging`".to_owned();
        report(&["acme", "authorities", index], "it has no staging directory".to_owned(), help);
    }
    for (number, contact) in authority.contact.iter().enumerate() {
        if !contact.contains(':') {
            let help = "write a URL such as `mailto:ops@example.com`".to_owned();
            report(
                &["acme", "authorities", index, "contact", &number.to_string()],
                "it is not a URL".to_owned(),
                help,
            );
        }
    }
}

fn challenge(settings: &Settings, acme: &AcmeSettings, report: &mut ErrorSink<'_>) {
    let listeners = &settings.listeners;
    let (wrong, help) = match acme.challenge {
        ChallengeKind::Http01 if listeners.http.address.is_none() => {
            ("there is no listener for plain HTTP", "set `listeners.http.address`")
        }
        ChallengeKind::TlsAlpn01 if listeners.https.address.is_none() => {
            ("there is no listener for HTTPS", "set `listeners.https.address`")
        }
        ChallengeKind::Dns01 if acme.dns.provider.is_none() => {
            ("there is no provider for DNS records", "set `acme.dns.provider`, or use `http-01`")
        }
        _ => return provider(acme, report),
    };
    report(&["acme", "challenge"], wrong.to_owned(), help.to_owned());
}

fn provider(acme: &AcmeSettings, report: &mut ErrorSink<'_>) {
    match &acme.dns.provider {
        Some(DnsProviderSettings::Exec(exec)) if exec.command.is_empty() => {
            let help = "write the program's path and its first arguments".to_owned();
            report(
                &["acme", "dns", "provider", "exec", "command"],
                "there is no program".to_owned(),
                help,
            );
        }
        Some(DnsProviderSettings::Webhook(webhook)) if !is_https(&webhook.url) => {
            let help =
                "write a URL that begins with `https://`: a forged response could take over \
                        the zone"
                    .to_owned();
            report(
                &["acme", "dns", "provider", "webhook", "url"],
                "it is not an `https` URL".to_owned(),
                help,
            );
        }
        _ => {}
    }
    if acme.dns.propagation_timeout.is_zero() {
        let help = "write a duration such as `2m`".to_owned();
        report(
            &["acme", "dns", "propagationTimeout"],
            "a timeout must be longer than zero".to_owned(),
            help,
        );
    }
}

fn store(settings: &Settings, acme: &AcmeSettings, report: &mut ErrorSink<'_>) {
    match (&acme.store, &settings.source) {
        (None, SourceSettings::Directory(_)) => report(
            &["acme", "store"],
            "there is no store for account keys and certificates".to_owned(),
            "add `store: {folder: FOLDER}`: a folder that outlives the process".to_owned(),
        ),
        (Some(StoreSettings::Kubernetes(_)), SourceSettings::Directory(_)) => report(
            &["acme", "store", "kubernetes"],
            "the source is not a cluster".to_owned(),
            "write `store: {folder: FOLDER}`, or set `source.kubernetes`".to_owned(),
        ),
        (Some(StoreSettings::Kubernetes(kubernetes)), _) => {
            if let Some(Err(error)) = kubernetes.namespace.as_deref().map(check_label) {
                let help = "write the name of a Namespace".to_owned();
                report(
                    &["acme", "store", "kubernetes", "namespace"],
                    format!("no Namespace can have this name: it {error}"),
                    help,
                );
            }
        }
        _ => {}
    }
}

/// Validates the files that the settings refer to.
pub(in crate::settings) fn files(settings: &Settings, report: &mut ErrorSink<'_>) {
    let Some(acme) = &settings.acme else { return };
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
    for (index, authority) in acme.authorities.iter().enumerate() {
        let index = index.to_string();
        if let Some(path) = &authority.root_file {
            contains(path, CERTIFICATE, &["acme", "authorities", &index, "rootFile"], report);
        }
        if let Some(account) = &authority.external_account {
            readable(
                &account.key_file,
                &["acme", "authorities", &index, "externalAccount", "keyFile"],
                report,
            );
        }
    }
    match &acme.dns.provider {
        Some(DnsProviderSettings::Rfc2136(settings)) => {
            readable(
                &settings.key_file,
                &["acme", "dns", "provider", "rfc2136", "keyFile"],
                report,
            );
        }
        Some(DnsProviderSettings::Webhook(settings)) => {
            if let Some(path) = &settings.root_file {
                contains(
                    path,
                    CERTIFICATE,
                    &["acme", "dns", "provider", "webhook", "rootFile"],
                    report,
                );
            }
            if let Some(path) = &settings.authorization_file {
                readable(
                    path,
                    &["acme", "dns", "provider", "webhook", "authorizationFile"],
                    report,
                );
            }
        }
        Some(DnsProviderSettings::Exec(_)) | None => {}
    }
    if let Some(folder) = acme.store.as_ref().and_then(StoreSettings::folder)
        && !folder.is_dir()
        && !folder.parent().is_some_and(|parent| {
            parent == Path::new("") || fs::metadata(parent).is_ok_and(|parent| parent.is_dir())
        })
    {
        report(
            &["acme", "store", "folder"],
            format!("there is neither {} nor its parent folder", folder.display()),
            "create it, or name another one".to_owned(),
        );
    }
}

fn is_https(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|url| {
        url.scheme() == Some(&http::uri::Scheme::HTTPS)
            && url.host().is_some_and(|host| !host.is_empty())
    })
}
