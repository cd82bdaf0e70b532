//! Encoded characters beyond ASCII that some decoders take for ASCII, or do not see.

use smallvec::SmallVec;

/// Whether all decoders read the percent-encoded octets beyond ASCII of `path` as the same
/// characters, and none as ASCII. `path` has only complete encodings.
///
/// Decoders differ on octets that are not UTF-8: some read over-long forms (`%c0%ae` as `.`), others
/// a code page. They differ on [`UNSETTLED`] characters, too.
pub(super) fn are_settled(path: &[u8]) -> bool {
    let mut decoded = SmallVec::<[u8; 256]>::new();
    let mut rest = path.iter();
    while let Some(octet) = rest.next() {
        decoded.push(if *octet == b'%' { pair(rest.next(), rest.next()) } else { *octet });
    }
    std::str::from_utf8(&decoded)
        .is_ok_and(|text| !text.chars().any(|char| !char.is_ascii() && is_unsettled(char)))
}

fn pair(high: Option<&u8>, low: Option<&u8>) -> u8 {
    let digit = |octet: Option<&u8>| {
        octet.and_then(|octet| char::from(*octet).to_digit(16)).unwrap_or_default() as u8
    };
    digit(high) << 4 | digit(low)
}

fn is_unsettled(char: char) -> bool {
    let after = UNSETTLED.partition_point(|(first, _)| *first <= char);
    after
        .checked_sub(1)
        .and_then(|index| UNSETTLED.get(index))
        .is_some_and(|(_, last)| char <= *last)
}

/// Ranges of characters, in order, that become ASCII, or a separator, by compatibility
/// normalization (NFKC), case conversion or the best fit of a code page, and those that are
/// controls, white space, ignorable or private. Letters of all scripts are not among them.
const UNSETTLED: &[(char, char)] = &[
    ('\u{80}', '\u{a0}'),
    ('\u{a8}', '\u{a8}'),
    ('\u{aa}', '\u{aa}'),
    ('\u{ad}', '\u{ad}'),
    ('\u{af}', '\u{af}'),
    ('\u{b2}', '\u{b4}'),
    ('\u{b8}', '\u{ba}'),
    ('\u{bc}', '\u{be}'),
    ('\u{130}', '\u{133}'),
    ('\u{13f}', '\u{140}'),
    ('\u{149}', '\u{149}'),
    ('\u{17f}', '\u{17f}'),
    ('\u{1c4}', '\u{1cc}'),
    ('\u{1f1}', '\u{1f3}'),
    ('\u{2b0}', '\u{2ff}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{37a}', '\u{37a}'),
    ('\u{37e}', '\u{37e}'),
    ('\u{384}', '\u{385}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{1680}', '\u{1680}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{1d2c}', '\u{1dbf}'),
    ('\u{1e9a}', '\u{1e9b}'),
    ('\u{1fbd}', '\u{1fbd}'),
    ('\u{1fbf}', '\u{1fc1}'),
    ('\u{1fcd}', '\u{1fcf}'),
    ('\u{1fdd}', '\u{1fdf}'),
    ('\u{1fed}', '\u{1fef}'),
    ('\u{1ffd}', '\u{1ffe}'),
    ('\u{2000}', '\u{200f}'),
    ('\u{2017}', '\u{2017}'),
    ('\u{2024}', '\u{202f}'),
    ('\u{203c}', '\u{204a}'),
    ('\u{205f}', '\u{209f}'),
    ('\u{20a8}', '\u{20a8}'),
    ('\u{2100}', '\u{218f}'),
    ('\u{2215}', '\u{2216}'),
    ('\u{2460}', '\u{24ff}'),
    ('\u{27cb}', '\u{27cd}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{29f5}', '\u{29f9}'),
    ('\u{2a74}', '\u{2a76}'),
    ('\u{2c7c}', '\u{2c7d}'),
    ('\u{3000}', '\u{3000}'),
    ('\u{3002}', '\u{3002}'),
    ('\u{309b}', '\u{309c}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{3200}', '\u{33ff}'),
    ('\u{a7f2}', '\u{a7f4}'),
    ('\u{e000}', '\u{f8ff}'),
    ('\u{fb00}', '\u{fb06}'),
    ('\u{fb29}', '\u{fb29}'),
    ('\u{fc5e}', '\u{fc63}'),
    ('\u{fdd0}', '\u{fdef}'),
    ('\u{fdfa}', '\u{fdfb}'),
    ('\u{fe00}', '\u{fe7f}'),
    ('\u{feff}', '\u{ff61}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{ffe0}', '\u{ffff}'),
    ('\u{107a5}', '\u{107a5}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{1d400}', '\u{1d7ff}'),
    ('\u{1f100}', '\u{1f1ff}'),
    ('\u{1fbf0}', '\u{1fbf9}'),
    ('\u{e0000}', '\u{10ffff}'),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_in_order() {
        assert!(UNSETTLED.iter().all(|(first, last)| first <= last));
        assert!(UNSETTLED.windows(2).all(|pair| pair[0].1 < pair[1].0));
    }

    #[test]
    fn letters_and_usual_punctuation_are_settled() {
        for path in [
            "/caf%c3%a9",
            "/Stra%C3%9Fe/%E6%9D%B1%E4%BA%AC",
            "/%d0%9f%d1%80%d0%b8%d0%b2%d0%b5%d1%82",
            "/A%E2%80%93B/it%E2%80%99s",
            "/%f0%9f%98%80",
        ] {
            assert!(are_settled(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn what_decoders_take_for_ascii_is_not() {
        for path in [
            "/%c0%ae",
            "/%c1%9c",
            "/%e0%80%af",
            "/%f0%80%80%ae",
            "/%ff",
            "/%c3",
            "/%c3x",
            "/%a9",
            "/%ed%a0%80",
            "/%f4%90%80%80",
            "/caf%e9",
            "/%ef%bc%8e",
            "/%ef%bc%8f",
            "/%ef%bc%bc",
            "/%ef%bc%85",
            "/%ef%bd%81dmin",
            "/%e2%80%a4",
            "/%e2%80%a5",
            "/%e2%81%84",
            "/%e2%88%95",
            "/%cd%be",
            "/%c2%a0",
            "/%c2%85",
            "/%c2%ad",
            "/%e2%80%8b",
            "/%e3%80%80",
            "/%ef%bb%bf",
            "/%e2%84%aa",
            "/%c5%bf",
            "/%f0%9d%90%9a",
        ] {
            assert!(!are_settled(path.as_bytes()), "{path}");
        }
    }
}
