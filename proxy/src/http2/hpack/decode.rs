//! Decodes header blocks, and maintains the dynamic table.

use std::collections::VecDeque;

use http::{HeaderName, HeaderValue};

use super::{Field, Name, Undecodable, huffman, table};

/// Maximum size of the dynamic table in octets: the default (RFC 9113 §6.5.2).
const TABLE: usize = 4096;
/// Overhead of each entry in octets (RFC 7541 §4.1).
const ENTRY: usize = 32;

/// Decodes the header blocks of one connection, in order.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Newest first.
    entries: VecDeque<Field>,
    /// Size of all entries in octets, and its current limit.
    size: usize,
    limit: usize,
    scratch: Vec<u8>,
}

/// The unread part of a header block.
struct Rest<'b>(&'b [u8]);

// === impl Decoder ===

impl Default for Decoder {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, limit: TABLE, scratch: Vec::new() }
    }
}

impl Decoder {
    /// Decodes a header block and calls `take` for each field.
    ///
    /// # Errors
    /// It cannot be decoded; `take` was called for the fields before the error.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        mut take: impl FnMut(Field),
    ) -> Result<(), Undecodable> {
        let mut rest = Rest(block);
        let mut has_fields = false;
        while let Some(first) = rest.0.first().copied() {
            if first & 0xe0 == 0x20 {
                // RFC 7541 §4.2: only before the first field.
                let limit = rest.integer(5)?;
                if has_fields || limit > TABLE {
                    return Err(Undecodable);
                }
                self.limit = limit;
                self.evict(0);
                continue;
            }
            has_fields = true;
            if first & 0x80 != 0 {
                let index = rest.integer(7)?;
                take(self.entry(index)?);
            } else if first & 0x40 != 0 {
                let field = self.literal(&mut rest, 6)?;
                self.insert(field.clone());
                take(field);
            } else {
                take(self.literal(&mut rest, 4)?);
            }
        }
        Ok(())
    }

    fn literal(&mut self, rest: &mut Rest<'_>, bits: u32) -> Result<Field, Undecodable> {
        let (name, name_octets) = match rest.integer(bits)? {
            0 => {
                let octets = rest.string(&mut self.scratch)?;
                (name(octets), octets.len())
            }
            index => self.name(index)?,
        };
        let octets = rest.string(&mut self.scratch)?;
        let size = name_octets + octets.len() + ENTRY;
        Ok(match HeaderValue::from_bytes(octets) {
            Ok(value) => Field { name, value, octets: size },
            Err(_) => {
                Field { name: Name::Malformed, value: HeaderValue::from_static(""), octets: size }
            }
        })
    }

    fn name(&self, index: usize) -> Result<(Name, usize), Undecodable> {
        let field = self.entry(index)?;
        let octets = field.octets.saturating_sub(ENTRY + field.value.len());
        Ok((field.name, octets))
    }

    fn entry(&self, index: usize) -> Result<Field, Undecodable> {
        let index = index.checked_sub(1).ok_or(Undecodable)?;
        if let Some((name, length, value)) = table::ENTRIES.get(index) {
            return Ok(Field {
                name: name.clone(),
                value: HeaderValue::from_static(value),
                octets: length + value.len() + ENTRY,
            });
        }
        self.entries.get(index - table::LENGTH).cloned().ok_or(Undecodable)
    }

    fn insert(&mut self, field: Field) {
        self.evict(field.octets);
        // An entry larger than the table empties it, which is not an error (RFC 7541 §4.4).
        if field.octets <= self.limit {
            self.size += field.octets;
            self.entries.push_front(field);
        }
    }

    #[cfg(test)]
    pub(super) fn assert_is_sound(&self) {
        assert_eq!(self.size, self.entries.iter().map(|field| field.octets).sum::<usize>());
        assert!(self.size <= self.limit && self.limit <= TABLE);
    }

    /// Evicts entries until there is room for `octets`.
    fn evict(&mut self, octets: usize) {
        while self.size + octets > self.limit
            && let Some(field) = self.entries.pop_back()
        {
            self.size -= field.octets;
        }
    }
}

fn name(octets: &[u8]) -> Name {
    match octets.first() {
        Some(b':') if octets == b":status" => Name::Status,
        Some(b':') => Name::Pseudo,
        _ => HeaderName::from_lowercase(octets).map_or(Name::Malformed, Name::Field),
    }
}

// === impl Rest ===

impl<'b> Rest<'b> {
    fn octet(&mut self) -> Result<u8, Undecodable> {
        let (first, rest) = self.0.split_first().ok_or(Undecodable)?;
        self.0 = rest;
        Ok(*first)
    }

    /// Reads an integer with a prefix of `bits` bits (RFC 7541 §5.1). No valid value exceeds 28
    /// bits beyond the prefix.
    fn integer(&mut self, bits: u32) -> Result<usize, Undecodable> {
        let most = (1_u8 << bits) - 1;
        let mut value = usize::from(self.octet()? & most);
        if value < usize::from(most) {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let octet = self.octet()?;
            value += usize::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Undecodable)
    }

    fn string<'s>(&mut self, scratch: &'s mut Vec<u8>) -> Result<&'s [u8], Undecodable>
    where
        'b: 's,
    {
        let is_coded = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (octets, rest) = self.0.split_at_checked(length).ok_or(Undecodable)?;
        self.0 = rest;
        if !is_coded {
            return Ok(octets);
        }
        scratch.clear();
        huffman::decode(octets, scratch).ok_or(Undecodable)?;
        Ok(scratch)
    }
}
