//! Finds what h2 does not report about header blocks, without keeping any field.

use super::decode::Rest;
use super::dynamic_table::{DynamicTable, Entry, OVERHEAD};
use super::{Undecodable, huffman, table};

/// Reads the header blocks of one connection, in order.
#[derive(Debug, Default)]
pub(crate) struct Scanner(DynamicTable<Outline>);

/// What a block contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Findings {
    /// A pseudo-header.
    pub(crate) has_pseudo: bool,
    /// A `:path` with a fragment.
    pub(crate) has_fragment: bool,
}

/// What is kept of a field in the dynamic table.
#[derive(Debug, Clone, Copy)]
struct Outline {
    name: Name,
    /// Its value contains `#`.
    has_hash: bool,
    octets: Octets,
}

#[derive(Debug, Clone, Copy)]
struct Name {
    kind: Kind,
    octets: Octets,
}

/// A size; one that does not fit exceeds every table.
#[derive(Debug, Clone, Copy)]
struct Octets(u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Field,
    Path,
    /// Any other pseudo-header.
    Pseudo,
}

// === impl Scanner ===

impl Scanner {
    /// Reads one block.
    ///
    /// # Errors
    /// It cannot be decoded.
    pub(crate) fn scan(&mut self, block: &[u8]) -> Result<Findings, Undecodable> {
        let mut rest = Rest(block);
        let mut findings = Findings::default();
        while let Some(first) = rest.0.first().copied() {
            if first & 0xe0 == 0x20 {
                self.0.resize(rest.integer(5)?).ok_or(Undecodable)?;
                continue;
            }
            let is_added = first & 0xc0 == 0x40;
            let field = if first & 0x80 != 0 {
                self.entry(rest.integer(7)?)?
            } else {
                self.literal(&mut rest, if is_added { 6 } else { 4 })?
            };
            findings.add(&field);
            if is_added {
                self.0.insert(field);
            }
        }
        Ok(findings)
    }

    fn literal(&self, rest: &mut Rest<'_>, bits: u32) -> Result<Outline, Undecodable> {
        let name = match rest.integer(bits)? {
            0 => Name::read(rest)?,
            index => self.entry(index)?.name,
        };
        let (mut octets, mut has_hash) = (name.octets.get() + OVERHEAD, false);
        match rest.raw_string()? {
            (value, false) => {
                octets += value.len();
                has_hash = name.kind == Kind::Path && memchr::memchr(b'#', value).is_some();
            }
            (value, true) => huffman::decode(value, |octet| {
                octets += 1;
                has_hash |= octet == b'#';
            })
            .ok_or(Undecodable)?,
        }
        Ok(Outline { name, has_hash, octets: Octets::new(octets) })
    }

    fn entry(&self, index: usize) -> Result<Outline, Undecodable> {
        let index = index.checked_sub(1).ok_or(Undecodable)?;
        let Some((name, length, value)) = table::ENTRIES.get(index) else {
            return self.0.get(index - table::LENGTH).copied().ok_or(Undecodable);
        };
        let kind = match name {
            // `:path` (RFC 7541 Appendix A).
            super::Name::Pseudo if matches!(index, 3 | 4) => Kind::Path,
            super::Name::Pseudo | super::Name::Status => Kind::Pseudo,
            super::Name::Field(_) | super::Name::Malformed => Kind::Field,
        };
        let name = Name { kind, octets: Octets::new(*length) };
        let octets = Octets::new(length + value.len() + OVERHEAD);
        Ok(Outline { name, has_hash: false, octets })
    }
}

// === impl Findings ===

impl Findings {
    fn add(&mut self, field: &Outline) {
        self.has_pseudo |= field.name.kind != Kind::Field;
        self.has_fragment |= field.name.kind == Kind::Path && field.has_hash;
    }
}

// === impl Outline ===

impl Entry for Outline {
    fn octets(&self) -> usize {
        self.octets.get()
    }
}

// === impl Octets ===

impl Octets {
    fn new(octets: usize) -> Self {
        Self(u16::try_from(octets).unwrap_or(u16::MAX))
    }

    fn get(self) -> usize {
        usize::from(self.0)
    }
}

// === impl Name ===

impl Name {
    fn read(rest: &mut Rest<'_>) -> Result<Self, Undecodable> {
        const PATH: &[u8] = b":path";
        let (mut octets, mut is_pseudo, mut is_path) = (0, false, true);
        let mut take = |octet| {
            is_pseudo |= octets == 0 && octet == b':';
            is_path &= PATH.get(octets) == Some(&octet);
            octets += 1;
        };
        match rest.raw_string()? {
            (name, false) => name.iter().copied().for_each(take),
            (name, true) => huffman::decode(name, &mut take).ok_or(Undecodable)?,
        }
        let kind = match (is_pseudo, is_path && octets == PATH.len()) {
            (true, true) => Kind::Path,
            (true, false) => Kind::Pseudo,
            (false, _) => Kind::Field,
        };
        Ok(Self { kind, octets: Octets::new(octets) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http2::hpack::Decoder;

    const PSEUDO: Findings = Findings { has_pseudo: true, has_fragment: false };
    const FRAGMENT: Findings = Findings { has_pseudo: true, has_fragment: true };
    const NOTHING: Findings = Findings { has_pseudo: false, has_fragment: false };

    #[test]
    fn fields_are_recognized_in_every_representation() {
        let mut scanner = Scanner::default();
        // `:method: GET` of the static table; three fields for the dynamic table.
        let request = [&b"\x82"[..], b"\x44\x04/a#b", b"\x44\x02/a", b"\x40\x01x\x01#"].concat();
        assert_eq!(scanner.scan(&request), Ok(FRAGMENT));
        for (block, expected) in [
            (&b"\xbe"[..], NOTHING),
            (b"\xbf", PSEUDO),
            (b"\xc0", FRAGMENT),
            (b"\x82", PSEUDO),
            (b"\x84", PSEUDO),
            (b"\x04\x02/a", PSEUDO),
            (b"\x14\x02/#", FRAGMENT),
            (b"\x01\x02a#", PSEUDO),
            (b"\x0f\x2f\x01#", NOTHING),
            (b"\x0f\x30\x01y", PSEUDO),
            (b"\x0f\x31\x01#", FRAGMENT),
            (b"\x00\x01x\x01#", NOTHING),
            (b"\x00\x05:path\x01#", FRAGMENT),
            (b"\x00\x06:paths\x01#", PSEUDO),
            (b"\x00\x04:pat\x01#", PSEUDO),
            (b"\x00\x01x\x01y\x10\x05:path\x01/", PSEUDO),
            // `:path` and `/#` with Huffman codes.
            (b"\x00\x84\xb9\x58\xd3\x3f\x01/", PSEUDO),
            (b"\x04\x83\x63\xfe\xbf", FRAGMENT),
            (b"\x8f", NOTHING),
            (b"", NOTHING),
        ] {
            assert_eq!(scanner.scan(block), Ok(expected), "{block:02x?}");
        }
    }

    #[test]
    fn invalid_blocks_are_errors() {
        for block in [
            &b"\x80"[..],
            b"\xbe",
            b"\x40",
            b"\x40\x05a",
            b"\x3f\xff\xff\x7f",
            b"\xff",
            b"\x04\x81\x00",
        ] {
            assert_eq!(Scanner::default().scan(block), Err(Undecodable), "{block:02x?}");
        }
    }

    /// A field in one of its representations, some with references into the dynamic table.
    fn field() -> impl Strategy<Value = Vec<u8>> {
        let added = (1_u8..127).prop_map(|length| {
            let value = vec![b'v'; usize::from(length)];
            [b"\x40\x01x".to_vec(), vec![length], value].concat()
        });
        prop_oneof![
            (0x81_u8..0xd0).prop_map(|octet| vec![octet]),
            (0x41_u8..0x7f).prop_map(|octet| vec![octet, 1, b'z']),
            Just(b"\x40\x84\xb9\x58\xd3\x3f\x01/".to_vec()),
            added,
        ]
    }

    proptest! {
        #[test]
        fn the_decoder_finds_the_same(
            blocks in prop::collection::vec(prop::collection::vec(field(), 0..20), 0..40),
        ) {
            let (mut decoder, mut scanner) = (Decoder::default(), Scanner::default());
            for block in blocks.into_iter().map(|fields| fields.concat()) {
                let mut has_pseudo = false;
                let decoded = decoder.decode(&block, |field| {
                    has_pseudo |=
                        matches!(field.name, super::super::Name::Status | super::super::Name::Pseudo);
                });
                let scanned = scanner.scan(&block).map(|findings| findings.has_pseudo);
                prop_assert_eq!(scanned, decoded.as_ref().map(|()| has_pseudo).map_err(|_| Undecodable));
                scanner.0.assert_is_sound();
                if decoded.is_err() {
                    break;
                }
            }
        }
    }
}
