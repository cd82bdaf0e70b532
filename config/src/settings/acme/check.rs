//! What types cannot say about the settings for ACME.

use std::fs;
use std::path::Path;

use super::{AcmeSettings, AuthoritySettings, ChallengeKind, DnsProviderSettings, StoreSettings};
use crate::model::check_label;
use crate::settings::check::{Complain, contains, readable};
use crate::settings::{Settings, SourceSettings};

/// Checks all that needs no look at other files.
pub(in crate::settings) fn meaning(settings: &Settings, complain: &mut Complain<'_>) {
    let Some(acme) = &settings.acme else { return };
    if acme.authorities.is_empty() {
        complain(
            &["acme", "authorities"],
            "there is no authority to order from".to_owned(),
            "name one, or leave the key out for Let's Encrypt".to_owned(),
        );
    }
    for (index, authority) in acme.authorities.iter().enumerate() {
        of_authority(acme, authority, &index.to_string(), complain);
    }
    challenge(settings, acme, complain);
    if acme.retry_after.is_zero() {
        let help = "write a duration such as `1m`".to_owned();
        complain(
            &["acme", "retryAfter"],
            "authorities shut out who asks without a pause".to_owned(),
            help,
        );
    }
    store(settings, acme, complain);
}

fn of_authority(
    acme: &AcmeSettings,
    authority: &AuthoritySettings,
    index: &str,
    complain: &mut Complain<'_>,
) {
    for (key, url) in
        [("directory", Some(&authority.directory)), ("staging", authority.staging.as_ref())]
    {
        if url.is_some_and(|url| !is_https(url)) {
            let help = "write the URL of the authority's directory, beginning with `https://` \
                        (RFC 8555 §6.1)"
                .to_owned();
            complain(&["acme", "authorities", index, key], "it is no `https` URL".to_owned(), help);
        }
    }
    if authority.directory(acme.staging).is_none() {
        let help = "give its `staging` directory, or take `acme.staging` out".to_owned();
        complain(
            &["acme", "authorities", index],
            "no staging directory of it is known".to_owned(),
            help,
        );
    }
    for (number, contact) in authority.contact.iter().enumerate() {
        if !contact.contains(':') {
            let help = "write a URL such as `mailto:ops@example.com`".to_owned();
            complain(
                &["acme", "authorities", index, "contact", &number.to_string()],
                "it is no URL".to_owned(),
                help,
            );
        }
    }
}

fn challenge(settings: &Settings, acme: &AcmeSettings, complain: &mut Complain<'_>) {
    let listeners = &settings.listeners;
    let (wrong, help) = match acme.challenge {
        ChallengeKind::Http01 if listeners.http.address.is_none() => {
            ("there is no listener for plain HTTP", "give `listeners.http.address`")
        }
        ChallengeKind::TlsAlpn01 if listeners.https.address.is_none() => {
            ("there is no listener for HTTPS", "give `listeners.https.address`")
        }
        ChallengeKind::Dns01 if acme.dns.provider.is_none() => (
            "nobody makes the DNS records",
            "give `acme.dns.provider`, or prove names by `http-01`",
        ),
        _ => return provider(acme, complain),
    };
    complain(&["acme", "challenge"], wrong.to_owned(), help.to_owned());
}

fn provider(acme: &AcmeSettings, complain: &mut Complain<'_>) {
    match &acme.dns.provider {
        Some(DnsProviderSettings::Exec(exec)) if exec.command.is_empty() => {
            let help = "write the program's path and its first arguments".to_owned();
            complain(
                &["acme", "dns", "provider", "exec", "command"],
                "there is no program".to_owned(),
                help,
            );
        }
        Some(DnsProviderSettings::Webhook(webhook)) if !is_https(&webhook.url) => {
            let help = "write a URL that begins with `https://`: whoever answers in its place \
                        could take over the zone"
                .to_owned();
            complain(
                &["acme", "dns", "provider", "webhook", "url"],
                "it is no `https` URL".to_owned(),
                help,
            );
        }
        _ => {}
    }
    if acme.dns.propagation_timeout.is_zero() {
        let help = "write a duration such as `2m`".to_owned();
        complain(
            &["acme", "dns", "propagationTimeout"],
            "nothing can be done in no time".to_owned(),
            help,
        );
    }
}

fn store(settings: &Settings, acme: &AcmeSettings, complain: &mut Complain<'_>) {
    match (&acme.store, &settings.source) {
        (None, SourceSettings::Directory(_)) => complain(
            &["acme", "store"],
            "there is no place for account keys and certificates".to_owned(),
            "add `store: {folder: FOLDER}`: a folder that outlives the process".to_owned(),
        ),
        (Some(StoreSettings::Kubernetes(_)), SourceSettings::Directory(_)) => complain(
            &["acme", "store", "kubernetes"],
            "the gateway has no API server".to_owned(),
            "write `store: {folder: FOLDER}`, or give `source.kubernetes`".to_owned(),
        ),
        (Some(StoreSettings::Kubernetes(kubernetes)), _) => {
            if let Some(Err(error)) = kubernetes.namespace.as_deref().map(check_label) {
                let help = "write the name of a Namespace".to_owned();
                complain(
                    &["acme", "store", "kubernetes", "namespace"],
                    format!("no Namespace can have this name: it {error}"),
                    help,
                );
            }
        }
        _ => {}
    }
}

/// Checks the files that are named.
pub(in crate::settings) fn files(settings: &Settings, complain: &mut Complain<'_>) {
    let Some(acme) = &settings.acme else { return };
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
    for (index, authority) in acme.authorities.iter().enumerate() {
        let index = index.to_string();
        if let Some(path) = &authority.root_file {
            contains(path, CERTIFICATE, &["acme", "authorities", &index, "rootFile"], complain);
        }
        if let Some(account) = &authority.external_account {
            readable(
                &account.key_file,
                &["acme", "authorities", &index, "externalAccount", "keyFile"],
                complain,
            );
        }
    }
    match &acme.dns.provider {
        Some(DnsProviderSettings::Rfc2136(settings)) => {
            readable(
                &settings.key_file,
                &["acme", "dns", "provider", "rfc2136", "keyFile"],
                complain,
            );
        }
        Some(DnsProviderSettings::Webhook(settings)) => {
            if let Some(path) = &settings.root_file {
                contains(
                    path,
                    CERTIFICATE,
                    &["acme", "dns", "provider", "webhook", "rootFile"],
                    complain,
                );
            }
            if let Some(path) = &settings.authorization_file {
                readable(
                    path,
                    &["acme", "dns", "provider", "webhook", "authorizationFile"],
                    complain,
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
        complain(
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
