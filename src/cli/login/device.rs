//! Signing in by a browser on another machine: the device authorization grant (RFC 8628).

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::provider::{Provider, TokenAnswer};
use crate::cli::output;
use crate::cli::problems::Failure;

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// How long it is waited between two questions where the provider does not say (§3.2), and at most.
const INTERVAL: (u64, u64) = (5, 60);
/// What a question that came too soon adds (§3.5).
const SLOWER: u64 = 5;

/// What the provider answers first (§3.2).
#[derive(Deserialize)]
struct Device {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

pub(super) async fn sign_in(provider: &Provider<'_>) -> Result<TokenAnswer, Failure> {
    let Some(endpoint) = &provider.endpoints.device_authorization_endpoint else {
        let message = format!("{} has no device flow", provider.registration.issuer);
        return Err(Failure::with_help(message, "sign in without --device"));
    };
    let answer = provider.post(endpoint, &[("scope", &provider.registration.scope)]).await?;
    if let Ok(refusal) = serde_json::from_slice(&answer.body) {
        return Err(provider.refused(&refusal));
    }
    let device: Device =
        serde_json::from_slice(&answer.body).map_err(|_| provider.nonsense(&answer))?;
    let shorter = device
        .verification_uri_complete
        .as_ref()
        .map_or(String::new(), |url| format!(" (or open {})", plain(url)));
    output::tell(&format!(
        "Open {} and type the code {}{shorter}\n",
        plain(&device.verification_uri),
        plain(&device.user_code)
    ))?;

    let end = Instant::now() + Duration::from_secs(device.expires_in.min(3600));
    let mut interval = device.interval.unwrap_or(INTERVAL.0).clamp(1, INTERVAL.1);
    while Instant::now() < end {
        sleep(Duration::from_secs(interval)).await;
        match provider
            .tokens(&[("grant_type", GRANT), ("device_code", &device.device_code)])
            .await?
        {
            Ok(tokens) => return Ok(tokens),
            Err(refusal) if refusal.error == "authorization_pending" => {}
            Err(refusal) if refusal.error == "slow_down" => {
                interval = (interval + SLOWER).min(INTERVAL.1)
            }
            Err(refusal) => return Err(provider.refused(&refusal)),
        }
    }
    Err(Failure::with_help(
        "nobody typed the code in time",
        "run `portcullis login --device` again",
    ))
}

/// What a terminal shows as it is.
fn plain(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(512).collect()
}
