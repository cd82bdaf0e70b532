//! Which form of an answer a client reads best (RFC 9110 §12.5.1).

/// Media ranges that are looked at; a client that lists more is answered by the first ones.
const MAX_RANGES: usize = 32;

/// The forms of our own answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Html,
    Json,
}

/// How well a form fits: quality in thousandths, then how exactly it was named, then how early.
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

    /// How exactly a media range, in lower case, names this form; 0 where it does not.
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

/// The form that an `Accept` asks for; text where it asks for none of ours, or for all alike.
pub(super) fn format(accept: &[u8]) -> Format {
    let Ok(accept) = std::str::from_utf8(accept) else { return Format::Text };
    let accept = accept.to_ascii_lowercase();
    let mut best = (Format::Text, fit(Format::Text, &accept));
    for form in [Format::Html, Format::Json] {
        let fit = fit(form, &accept);
        if fit > best.1 {
            best = (form, fit);
        }
    }
    best.0
}

/// The most exact range decides about a form, whatever its quality.
fn fit(form: Format, accept: &str) -> Option<Fit> {
    let mut decides: Option<(u8, Fit)> = None;
    for (place, range) in accept.split(',').take(MAX_RANGES).enumerate() {
        let mut parts = range.split(';').map(str::trim);
        let exactness = form.exactness(parts.next().unwrap_or_default());
        if exactness > decides.map_or(0, |(exactness, _)| exactness) {
            decides = Some((exactness, (quality(parts), exactness, std::cmp::Reverse(place))));
        }
    }
    decides.map(|(_, fit)| fit).filter(|(quality, ..)| *quality > 0)
}

fn quality<'a>(parameters: impl Iterator<Item = &'a str>) -> u16 {
    let mut weights = parameters.filter_map(|parameter| parameter.strip_prefix("q="));
    match weights.next() {
        None => 1000,
        // What is no number counts as not wanted.
        Some(weight) => {
            weight.parse::<f32>().map_or(0, |weight| (weight.clamp(0.0, 1.0) * 1000.0) as u16)
        }
    }
}
