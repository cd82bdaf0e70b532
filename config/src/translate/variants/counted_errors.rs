//! Which responses count as errors, by an annotation.

use crate::model::vocabulary::SPLIT_ERRORS;
use crate::snapshot::split::CountedErrors;
use crate::translate::annotations::Reader;

/// gRPC status codes by name, as `portcullis.dev/retry-on` has them.
const GRPC_CODES: [(&str, u16); 16] = [
    ("cancelled", 1),
    ("unknown", 2),
    ("invalid-argument", 3),
    ("deadline-exceeded", 4),
    ("not-found", 5),
    ("already-exists", 6),
    ("permission-denied", 7),
    ("resource-exhausted", 8),
    ("failed-precondition", 9),
    ("aborted", 10),
    ("out-of-range", 11),
    ("unimplemented", 12),
    ("internal", 13),
    ("unavailable", 14),
    ("data-loss", 15),
    ("unauthenticated", 16),
];

/// The annotation; `None` without a valid item.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<CountedErrors> {
    let help = "write status codes such as 429, `5xx`, or gRPC status codes such as `unavailable`, \
                separated by commas; until then they do not count";
    let items = reader.read_list(SPLIT_ERRORS, help, item).good()?;
    let (codes, grpc_codes): (Vec<_>, Vec<_>) = items.into_iter().unzip();
    Some(CountedErrors::new(codes.concat(), grpc_codes.concat()))
}

/// The status codes of HTTP and of gRPC.
fn item(text: &str) -> Result<(Vec<u16>, Vec<u16>), String> {
    if let Some((_, code)) = GRPC_CODES.iter().find(|(name, _)| *name == text) {
        return Ok((Vec::new(), vec![*code]));
    }
    match (text, text.parse::<u16>()) {
        ("5xx", _) => Ok(((500..600).collect(), Vec::new())),
        (_, Ok(code @ 400..600)) if text.len() == 3 => Ok((vec![code], Vec::new())),
        _ => Err("is not a status from 400 to 599, nor a name of some".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_a_status_or_a_name_of_some() {
        assert_eq!(item("429"), Ok((vec![429], vec![])));
        assert_eq!(item("5xx").map(|(codes, _)| codes.len()), Ok(100));
        assert_eq!(item("data-loss"), Ok((vec![], vec![15])));
        for text in ["", "200", "399", "600", "+503", "0503", "4xx", "UNAVAILABLE", "ok", "14"] {
            assert!(item(text).is_err(), "{text}");
        }
    }
}
