//! Which responses are retried, by an annotation.

use super::annotations::Reader;
use crate::model::vocabulary::RETRY_ON;

/// Response status codes that are retried by default: those of a gateway in front of the service,
/// and of an overloaded service.
pub const RETRY_CODES: [u16; 3] = [502, 503, 504];
/// The gRPC status code that is retried by default, `UNAVAILABLE`.
const UNAVAILABLE: u16 = 14;
/// gRPC status codes by name, which are those of Envoy and of service configurations of gRPC.
const GRPC_CODES: [(&str, u16); 6] = [
    ("cancelled", 1),
    ("deadline-exceeded", 4),
    ("resource-exhausted", 8),
    ("aborted", 10),
    ("internal", 13),
    ("unavailable", UNAVAILABLE),
];

/// The status codes of HTTP and of gRPC that are retried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RetryOn {
    pub(super) codes: Vec<u16>,
    pub(super) grpc_codes: Vec<u16>,
}

// === impl RetryOn ===

impl Default for RetryOn {
    fn default() -> Self {
        Self { codes: RETRY_CODES.to_vec(), grpc_codes: vec![UNAVAILABLE] }
    }
}

/// The annotation; `None` without a valid item.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<RetryOn> {
    let help = "write status codes such as 502, `gateway-error`, `5xx`, or gRPC status codes such \
                as `unavailable`, separated by commas; until then they are not retried";
    let items: Vec<RetryOn> = reader.read_list(RETRY_ON, help, item).good()?;
    let mut all = RetryOn { codes: Vec::new(), grpc_codes: Vec::new() };
    for RetryOn { codes, grpc_codes } in items {
        all.codes.extend(codes);
        all.grpc_codes.extend(grpc_codes);
    }
    for codes in [&mut all.codes, &mut all.grpc_codes] {
        codes.sort_unstable();
        codes.dedup();
    }
    Some(all)
}

fn item(text: &str) -> Result<RetryOn, String> {
    let http = |codes: Vec<u16>| RetryOn { codes, grpc_codes: Vec::new() };
    if let Some((_, code)) = GRPC_CODES.iter().find(|(name, _)| *name == text) {
        return Ok(RetryOn { codes: Vec::new(), grpc_codes: vec![*code] });
    }
    match text {
        "5xx" => Ok(http((500..600).collect())),
        "gateway-error" => Ok(http(RETRY_CODES.to_vec())),
        // Always retried; on its own it says that nothing else is.
        "connect-failure" => Ok(http(Vec::new())),
        _ => match text.parse::<u16>() {
            Ok(code @ 400..600) if text.len() == 3 => Ok(http(vec![code])),
            _ => Err("is not a status from 400 to 599, nor a name of some".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_a_status_or_a_name_of_some() {
        let codes = |text| item(text).ok().map(|item| (item.codes, item.grpc_codes));
        assert_eq!(codes("429"), Some((vec![429], vec![])));
        assert_eq!(codes("gateway-error"), Some((vec![502, 503, 504], vec![])));
        assert_eq!(codes("5xx").map(|(codes, _)| codes.len()), Some(100));
        assert_eq!(codes("connect-failure"), Some((vec![], vec![])));
        assert_eq!(codes("unavailable"), Some((vec![], vec![14])));
        for text in ["", "200", "399", "600", "+503", "0503", "4xx", "UNAVAILABLE", "14", "reset"] {
            assert_eq!(codes(text), None, "{text}");
        }
    }
}
