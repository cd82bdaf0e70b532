//! Decodes header blocks, and maintains the dynamic table.

use http::{HeaderName, HeaderValue};

use super::dynamic_table::{DynamicTable, Entry, OVERHEAD};
use super::{Field, Name, Undecodable, huffman, table};

/// Decodes the header blocks of one connection, in order.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    table: DynamicTable<Field>,
    scratch: Vec<u8>,
}

/// The unread part of a header block.
pub(super) struct Rest<'b>(pub(super) &'b [u8]);

// === impl Decoder ===

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
                if has_fields {
                    return Err(Undecodable);
                }
                self.table.resize(limit).ok_or(Undecodable)?;
                continue;
            }
            has_fields = true;
            if first & 0x80 != 0 {
                let index = rest.integer(7)?;
                take(self.entry(index)?);
            } else if first & 0x40 != 0 {
                let field = self.literal(&mut rest, 6)?;
                self.table.insert(field.clone());
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
        let size = name_octets + octets.len() + OVERHEAD;
        Ok(match HeaderValue::from_bytes(octets) {
            Ok(value) => Field { name, value, octets: size },
            Err(_) => {
                Field { name: Name::Malformed, value: HeaderValue::from_static(""), octets: size }
            }
        })
    }

    fn name(&self, index: usize) -> Result<(Name, usize), Undecodable> {
        let field = self.entry(index)?;
        let octets = field.octets.saturating_sub(OVERHEAD + field.value.len());
        Ok((field.name, octets))
    }

    fn entry(&self, index: usize) -> Result<Field, Undecodable> {
        let index = index.checked_sub(1).ok_or(Undecodable)?;
        if let Some((name, length, value)) = table::ENTRIES.get(index) {
            return Ok(Field {
                name: name.clone(),
                value: HeaderValue::from_static(value),
                octets: length + value.len() + OVERHEAD,
            });
        }
        self.table.get(index - table::LENGTH).cloned().ok_or(Undecodable)
    }

    #[cfg(test)]
    pub(super) fn assert_is_sound(&self) {
        self.table.assert_is_sound();
    }
}

impl Entry for Field {
    fn octets(&self) -> usize {
        self.octets
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
    pub(super) fn integer(&mut self, bits: u32) -> Result<usize, Undecodable> {
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
        let (octets, is_coded) = self.raw_string()?;
        if !is_coded {
            return Ok(octets);
        }
        scratch.clear();
        scratch.reserve(huffman::max_decoded(octets.len()));
        huffman::decode(octets, |octet| scratch.push(octet)).ok_or(Undecodable)?;
        Ok(scratch)
    }

    /// Reads a string (RFC 7541 §5.2); returns its octets, and whether they are Huffman-coded.
    pub(super) fn raw_string(&mut self) -> Result<(&'b [u8], bool), Undecodable> {
        let is_coded = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (octets, rest) = self.0.split_at_checked(length).ok_or(Undecodable)?;
        self.0 = rest;
        Ok((octets, is_coded))
    }
}
