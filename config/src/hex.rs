//! Octets as hexadecimal digits.

use std::fmt::Write;

/// Two digits an octet, in lower case.
#[must_use]
pub fn write(octets: &[u8]) -> String {
    octets.iter().fold(String::with_capacity(2 * octets.len()), |mut text, octet| {
        // A String takes all.
        let _ = write!(text, "{octet:02x}");
        text
    })
}

/// Reads what [`write()`] writes, in either case; `None` for anything else.
#[must_use]
pub fn read(text: &str) -> Option<Vec<u8>> {
    let digit =
        |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let octets = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { octets } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_hexadecimal_is_read_as_it_was() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(read(&write(&bytes)), Some(bytes));
        assert_eq!(read("abc"), None);
        assert_eq!(read("0g"), None);
        assert_eq!((write(&[0, 0xab]), read("00AB")), ("00ab".to_owned(), Some(vec![0, 0xab])));
    }
}
