//! Sign-in with a browser on another machine: the device authorization grant (RFC 8628).

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::provider::{Provider, TokenResponse};
use crate::cli::output;
use crate::cli::problems::Failure;

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// Default (§3.2) and maximum polling interval, in seconds.
const INTERVAL: (u64, u64) = (5, 60);
/// What `slow_down` adds to the interval, in seconds (§3.5).
const SLOW_DOWN: u64 = 5;

/// The device authorization response (§3.2).
#[derive(Deserialize)]
struct DeviceAuthorization {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

pub(super) async fn sign_in(provider: &Provider<'_>) -> Result<TokenResponse, Failure> {
    let Some(endpoint) = &provider.endpoints.device_authorization_endpoint else {
        let message = format!("{} does not support the device flow", provider.registration.issuer);
        return Err(Failure::with_help(message, "sign in without --device"));
    };
    let response = provider.post(endpoint, &[("scope", &provider.scope())]).await?;
    if let Ok(error) = serde_json::from_slice(&response.body) {
        return Err(provider.rejected(&error));
    }
    let device: DeviceAuthorization =
        serde_json::from_slice(&response.body).map_err(|_| provider.invalid_response(&response))?;
    let complete = device
        .verification_uri_complete
        .as_ref()
        .map_or(String::new(), |url| format!(" (or open {})", printable(url)));
    output::report(&format!(
        "Open {} and type the code {}{complete}\n",
        printable(&device.verification_uri),
        printable(&device.user_code)
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
            Err(error) if error.error == "authorization_pending" => {}
            Err(error) if error.error == "slow_down" => {
                interval = (interval + SLOW_DOWN).min(INTERVAL.1)
            }
            Err(error) => return Err(provider.rejected(&error)),
        }
    }
    Err(Failure::with_help(
        "the code expired before it was entered",
        "run `portcullis login --device` again",
    ))
}

/// Keeps only printable ASCII, since the text goes to a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(512).collect()
}
