//! Hexadecimal encoding of octets.

use std::fmt::Write;

/// Writes two lower-case digits per octet.
#[must_use]
pub fn write(octets: &[u8]) -> String {
    octets.iter().fold(String::with_capacity(2 * octets.len()), |mut text, octet| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{octet:02x}");
        text
    })
}

/// Reads what [`write()`] writes, in upper or lower case; `None` for anything else.
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
    fn written_octets_are_read_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(read(&write(&bytes)), Some(bytes));
        assert_eq!(read("abc"), None);
        assert_eq!(read("0g"), None);
        assert_eq!((write(&[0, 0xab]), read("00AB")), ("00ab".to_owned(), Some(vec![0, 0xab])));
    }
}
