//! Negotiates the format of a local reply (RFC 9110 §12.5.1).

/// The maximum number of media ranges to evaluate; further ones are ignored.
const MAX_RANGES: usize = 32;

/// The formats of local replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Html,
    Json,
}

/// How well a format fits: quality in thousandths, then exactness, then position.
type Fit = (u16, u8, std::cmp::Reverse<usize>);

// === impl Format ===

impl Format {
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
        }
    }

    /// Returns how exactly a lower-case media range matches this format; 0 if it does not.
    fn exactness(self, range: &str) -> u8 {
        match (self, range) {
            (Self::Text, "text/plain")
            | (Self::Html, "text/html")
            | (Self::Json, "application/json" | "application/problem+json") => 3,
            (Self::Text | Self::Html, "text/*") | (Self::Json, "application/*") => 2,
            (_, "*/*") => 1,
            _ => 0,
        }
    }
}

/// Returns the format that `Accept` prefers; text if it prefers none.
pub(super) fn format(accept: &[u8]) -> Format {
    let Ok(accept) = std::str::from_utf8(accept) else { return Format::Text };
    let accept = accept.to_ascii_lowercase();
    let mut best = (Format::Text, fit(Format::Text, &accept));
    for format in [Format::Html, Format::Json] {
        let fit = fit(format, &accept);
        if fit > best.1 {
            best = (format, fit);
        }
    }
    best.0
}

/// Returns how well a format fits. The most exact range decides, whatever its quality.
fn fit(format: Format, accept: &str) -> Option<Fit> {
    let mut most_exact: Option<(u8, Fit)> = None;
    for (position, range) in accept.split(',').take(MAX_RANGES).enumerate() {
        let mut parts = range.split(';').map(str::trim);
        let exactness = format.exactness(parts.next().unwrap_or_default());
        if exactness > most_exact.map_or(0, |(exactness, _)| exactness) {
            let fit = (quality(parts), exactness, std::cmp::Reverse(position));
            most_exact = Some((exactness, fit));
        }
    }
    most_exact.map(|(_, fit)| fit).filter(|(quality, ..)| *quality > 0)
}

fn quality<'a>(parameters: impl Iterator<Item = &'a str>) -> u16 {
    let mut weights = parameters.filter_map(|parameter| parameter.strip_prefix("q="));
    match weights.next() {
        None => 1000,
        // An invalid weight counts as 0.
        Some(weight) => {
            weight.parse::<f32>().map_or(0, |weight| (weight.clamp(0.0, 1.0) * 1000.0) as u16)
        }
    }
}
