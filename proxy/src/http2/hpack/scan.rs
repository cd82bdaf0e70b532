//! Finds what h2 does not report about header blocks, without keeping any field but paths that it
//! would cut or reject.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use super::decode::Rest;
use super::dynamic_table::{DynamicTable, Entry, OVERHEAD};
use super::{Undecodable, encode, huffman, table};

/// Octets for paths that an idle connection keeps.
const SCRATCH: usize = 1024;

/// Octets of a block that is remembered.
const LAST: usize = 64;

/// Reads the header blocks of one connection, in order.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    table: DynamicTable<Outline>,
    scratch: Vec<u8>,
    /// The last block that had no odd path and left the table as it was, and whether it has a
    /// pseudo-header. Clients send the same block many times, and it need not be read again.
    last: Option<(SmallVec<[u8; LAST]>, bool)>,
}

/// What a block contains.
#[derive(Debug, PartialEq, Eq, Default)]
pub(crate) struct Findings {
    /// A pseudo-header.
    pub(crate) has_pseudo: bool,
    /// Paths that h2 must not see; a valid request has at most one.
    pub(crate) odd_paths: SmallVec<[OddPath; 1]>,
}

/// A path that h2 must not see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OddPath {
    pub(crate) path: Bytes,
    /// The place in the block of the string that contains it, and another string of the same decoded
    /// size. `None` if the block refers to an entry of the dynamic table, which was replaced before.
    pub(crate) replacement: Option<(Range<usize>, Vec<u8>)>,
}

/// What is kept of a field in the dynamic table.
#[derive(Debug, Clone)]
struct Outline {
    name: Name,
    /// Its value, if it is a path that h2 has another one for. Boxed, because it is rare, and each
    /// connection keeps many outlines.
    odd_path: Option<Box<Bytes>>,
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
        if let Some((last, has_pseudo)) = &self.last
            && **last == *block
        {
            return Ok(Findings { has_pseudo: *has_pseudo, ..Findings::default() });
        }
        let mut rest = Rest(block);
        let mut findings = Findings::default();
        let mut is_table_unchanged = true;
        while let Some(first) = rest.0.first().copied() {
            if first & 0xe0 == 0x20 {
                self.table.resize(rest.integer(5)?).ok_or(Undecodable)?;
                is_table_unchanged = false;
                continue;
            }
            if first & 0x80 != 0 {
                let field = self.entry(rest.integer(7)?)?;
                findings.add(&field, None);
                continue;
            }
            let is_added = first & 0x40 != 0;
            let (field, value) = self.literal(block, &mut rest, if is_added { 6 } else { 4 })?;
            findings.add(&field, Some(value));
            if is_added {
                self.table.insert(field);
                is_table_unchanged = false;
            }
        }
        if !is_table_unchanged {
            self.last = None;
        } else if block.len() <= LAST && findings.odd_paths.is_empty() {
            self.last = Some((SmallVec::from_slice(block), findings.has_pseudo));
        }
        self.scratch.clear();
        self.scratch.shrink_to(SCRATCH);
        Ok(findings)
    }

    /// Reads a literal field; also returns the place of its value.
    fn literal(
        &mut self,
        block: &[u8],
        rest: &mut Rest<'_>,
        bits: u32,
    ) -> Result<(Outline, Range<usize>), Undecodable> {
        let name = match rest.integer(bits)? {
            0 => Name::read(rest)?,
            index => self.entry(index)?.name,
        };
        let is_path = name.kind == Kind::Path;
        let start = block.len() - rest.0.len();
        let (value, is_coded) = rest.raw_string()?;
        let place = start..block.len() - rest.0.len();
        let (scratch, mut octets) = (&mut self.scratch, 0);
        scratch.clear();
        let mut take = |octet| {
            octets += 1;
            if is_path {
                scratch.push(octet);
            }
        };
        if is_coded {
            huffman::decode(value, take).ok_or(Undecodable)?;
        } else if is_path {
            value.iter().copied().for_each(&mut take);
        } else {
            octets = value.len();
        }
        let odd_path =
            (is_path && is_odd(scratch)).then(|| Box::new(Bytes::copy_from_slice(scratch)));
        let octets = Octets::new(name.octets.get() + octets + OVERHEAD);
        Ok((Outline { name, odd_path, octets }, place))
    }

    fn entry(&self, index: usize) -> Result<Outline, Undecodable> {
        let index = index.checked_sub(1).ok_or(Undecodable)?;
        let Some((name, length, value)) = table::ENTRIES.get(index) else {
            return self.table.get(index - table::LENGTH).cloned().ok_or(Undecodable);
        };
        let kind = match name {
            // `:path` (RFC 7541 Appendix A).
            super::Name::Pseudo if matches!(index, 3 | 4) => Kind::Path,
            super::Name::Pseudo | super::Name::Status => Kind::Pseudo,
            super::Name::Field(_) | super::Name::Malformed => Kind::Field,
        };
        let name = Name { kind, octets: Octets::new(*length) };
        let octets = Octets::new(length + value.len() + OVERHEAD);
        Ok(Outline { name, odd_path: None, octets })
    }
}

/// Whether the `http` crate rejects a path for characters that [`normalize`](crate::normalize)
/// decides about, or drops a part of it.
fn is_odd(path: &[u8]) -> bool {
    let is_odd = |octet: &u8| matches!(octet, b'"' | b'<' | b'>' | b'`' | b'#');
    path.first() == Some(&b'/') && path.iter().any(is_odd)
}

/// Returns a string that decodes to `length` octets, which the `http` crate accepts as a path and
/// nothing else does: if it were taken for one, the request would be rejected.
fn substitute(length: usize) -> Vec<u8> {
    let mut value = vec![b'x'; length];
    if let Some(first) = value.first_mut() {
        *first = b'?';
    }
    let mut string = Vec::with_capacity(length + 4);
    encode::string(&value, &mut string);
    string
}

// === impl Findings ===

impl Findings {
    /// Adds a field; `value` is the place of its value if it is a literal.
    fn add(&mut self, field: &Outline, value: Option<Range<usize>>) {
        self.has_pseudo |= field.name.kind != Kind::Field;
        if let Some(path) = &field.odd_path {
            let replacement = value.map(|place| (place, substitute(path.len())));
            self.odd_paths.push(OddPath { path: (**path).clone(), replacement });
        }
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

    /// Whether there is a pseudo-header, and the odd path.
    type Summary = (bool, Option<&'static str>);

    const PSEUDO: Summary = (true, None);
    const NOTHING: Summary = (false, None);

    const fn odd(path: &'static str) -> Summary {
        (true, Some(path))
    }

    fn assert_finds(scanner: &mut Scanner, block: &[u8], (has_pseudo, path): Summary) {
        let findings = scanner.scan(block).unwrap();
        let paths: Vec<_> = findings.odd_paths.iter().map(|odd| &*odd.path).collect();
        let expected: Vec<_> = path.iter().map(|path| path.as_bytes()).collect();
        assert_eq!((findings.has_pseudo, paths), (has_pseudo, expected), "{block:02x?}");
    }

    /// The block as h2 gets it.
    fn replaced(findings: &Findings, block: &[u8]) -> Vec<u8> {
        let mut replaced = block.to_vec();
        for odd in findings.odd_paths.iter().rev() {
            if let Some((place, string)) = odd.replacement.clone() {
                replaced.splice(place, string);
            }
        }
        replaced
    }

    #[test]
    fn fields_are_recognized_in_every_representation() {
        let mut scanner = Scanner::default();
        // `:method: GET` of the static table; three fields for the dynamic table.
        let request = [&b"\x82"[..], b"\x44\x04/a#b", b"\x44\x02/a", b"\x40\x01x\x01#"].concat();
        assert_finds(&mut scanner, &request, odd("/a#b"));
        for (block, expected) in [
            (&b"\xbe"[..], NOTHING),
            (b"\xbf", PSEUDO),
            (b"\xc0", odd("/a#b")),
            (b"\x82", PSEUDO),
            (b"\x84", PSEUDO),
            (b"\x04\x02/a", PSEUDO),
            (b"\x14\x02/#", odd("/#")),
            (b"\x01\x02a#", PSEUDO),
            (b"\x0f\x2f\x01#", NOTHING),
            (b"\x0f\x30\x01y", PSEUDO),
            (b"\x0f\x31\x02/<", odd("/<")),
            (b"\x0f\x31\x01#", PSEUDO),
            (b"\x00\x01x\x01#", NOTHING),
            (b"\x00\x05:path\x02/`", odd("/`")),
            (b"\x00\x05:path\x02?<", PSEUDO),
            (b"\x00\x06:paths\x01#", PSEUDO),
            (b"\x00\x04:pat\x01#", PSEUDO),
            (b"\x00\x01x\x01y\x10\x05:path\x01/", PSEUDO),
            // `:path` and `/#` with Huffman codes.
            (b"\x00\x84\xb9\x58\xd3\x3f\x01/", PSEUDO),
            (b"\x04\x83\x63\xfe\xbf", odd("/#")),
            (b"\x04\x06/a?b=\"", odd("/a?b=\"")),
            (b"\x04\x0a/|{}'[]\\^~", PSEUDO),
            (b"\x8f", NOTHING),
            (b"", NOTHING),
        ] {
            assert_finds(&mut scanner, block, expected);
        }
    }

    #[test]
    fn odd_paths_are_replaced_by_strings_of_the_same_size() {
        for (block, expected) in [
            (&b"\x82\x04\x04/a#b\x87"[..], &b"\x82\x04\x04?xxx\x87"[..]),
            (b"\x44\x03/<>", b"\x44\x03?xx"),
            (b"\x00\x05:path\x02/#", b"\x00\x05:path\x02?x"),
            (b"\x04\x83\x63\xfe\xbf\x84", b"\x04\x02?x\x84"),
            (b"\x04\x02/a", b"\x04\x02/a"),
        ] {
            let findings = Scanner::default().scan(block).unwrap();
            assert_eq!(replaced(&findings, block), expected, "{block:02x?}");
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
            Just(b"\x44\x83\x63\xfe\xbf".to_vec()),
            "/[a<#]{1,9}"
                .prop_map(|path| { [&[0x45, path.len() as u8], path.as_bytes()].concat() }),
            added,
        ]
    }

    proptest! {
        #[test]
        fn the_decoder_finds_the_same(
            blocks in prop::collection::vec(prop::collection::vec(field(), 0..20), 0..40),
        ) {
            let (mut decoder, mut scanner) = (Decoder::default(), Scanner::default());
            let mut h2 = Decoder::default();
            for block in blocks.into_iter().map(|fields| fields.concat()) {
                let (mut has_pseudo, mut sizes) = (false, Vec::new());
                let decoded = decoder.decode(&block, |field| {
                    has_pseudo |=
                        matches!(field.name, super::super::Name::Status | super::super::Name::Pseudo);
                    sizes.push(field.octets);
                });
                let scanned = scanner.scan(&block);
                prop_assert_eq!(
                    scanned.as_ref().map(|findings| findings.has_pseudo),
                    decoded.as_ref().map(|()| has_pseudo)
                );
                scanner.table.assert_is_sound();
                let Ok(findings) = scanned else { break };
                // What h2 gets has the same sizes, so that all tables stay in step.
                let mut same = Vec::new();
                h2.decode(&replaced(&findings, &block), |field| same.push(field.octets)).unwrap();
                prop_assert_eq!(sizes, same);
            }
        }
    }
}
