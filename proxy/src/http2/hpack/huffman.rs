//! The Huffman decoder of HPACK (RFC 7541 §5.2). The gateway never encodes with it.

/// Code lengths in bits of each octet and of the end of string (RFC 7541 Appendix B).
///
/// The code is canonical: ordered by length, then by octet. So the lengths define it.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
const LONGEST: usize = 30;
/// Codes up to this length are found with one lookup: nearly all that occur in header fields.
const QUICK: u32 = 8;
/// Octets read at once.
const READ: usize = 4;

static CODE: Code = Code::new();

struct Code {
    /// By the next eight bits: an octet, and the length of its code; 0 for longer codes.
    quick: [(u8, u8); 1 << QUICK],
    /// By length: the first longer code, left-aligned in 32 bits.
    ends: [u64; LONGEST + 1],
    /// By length: the difference between a code and its index in `octets`.
    offsets: [u64; LONGEST + 1],
    /// In the order of their codes; 256 is the end of string.
    octets: [u16; 257],
}

/// The maximum number of octets that `coded` octets decode to: the shortest code has five bits.
pub(super) fn max_decoded(coded: usize) -> usize {
    coded.saturating_mul(8) / 5
}

/// Decodes `from`, and calls `take` for each octet.
///
/// Returns `None` for a truncated code, invalid padding, or an end of string within it.
pub(super) fn decode(mut from: &[u8], mut take: impl FnMut(u8)) -> Option<()> {
    let (mut window, mut bits) = (0_u64, 0_u32);
    // As long as there are octets, several codes are decoded after one read, each of them complete.
    while let Some((octets, rest)) = from.split_first_chunk::<READ>() {
        window |= u64::from(u32::from_be_bytes(*octets)) << (32 - bits);
        bits += 8 * READ as u32;
        from = rest;
        while bits > 32 {
            let (octet, length) = CODE.find((window >> 32) as u32)?;
            take(u8::try_from(octet).ok()?);
            window <<= length;
            bits -= length;
        }
    }
    for octet in from {
        window |= u64::from(*octet) << (56 - bits);
        bits += 8;
    }
    loop {
        let (octet, length) = CODE.find((window >> 32) as u32)?;
        if length > bits {
            // The padding must be a prefix of the end of string, which is all ones, and shorter
            // than an octet.
            let is_padding = bits < 8 && window.leading_ones() >= bits;
            return is_padding.then_some(());
        }
        take(u8::try_from(octet).ok()?);
        window <<= length;
        bits -= length;
    }
}

// === impl Code ===

impl Code {
    #[expect(clippy::indexing_slicing, reason = "the compiler evaluates it")]
    const fn new() -> Self {
        let mut code = Self {
            quick: [(0, 0); 1 << QUICK],
            ends: [0; LONGEST + 1],
            offsets: [0; LONGEST + 1],
            octets: [0; 257],
        };
        let (mut next, mut index, mut length) = (0_u64, 0_usize, 1_usize);
        while length <= LONGEST {
            code.offsets[length] = (index as u64).wrapping_sub(next);
            let mut octet = 0;
            while octet < LENGTHS.len() {
                if LENGTHS[octet] as usize == length {
                    code.octets[index] = octet as u16;
                    if length <= QUICK as usize {
                        let unused = QUICK as usize - length;
                        let mut rest = 0;
                        while rest < 1 << unused {
                            code.quick[((next as usize) << unused) + rest] =
                                (octet as u8, length as u8);
                            rest += 1;
                        }
                    }
                    index += 1;
                    next += 1;
                }
                octet += 1;
            }
            code.ends[length] = next << (32 - length);
            next <<= 1;
            length += 1;
        }
        code
    }

    /// Returns the octet whose code starts at the highest bit, and the code's length.
    fn find(&self, bits: u32) -> Option<(u16, u32)> {
        let (octet, length) = self.quick.get((bits >> (32 - QUICK)) as usize).copied()?;
        if length > 0 {
            return Some((u16::from(octet), u32::from(length)));
        }
        let bits = u64::from(bits);
        let longer = self.ends.iter().enumerate().skip(QUICK as usize + 1);
        let (length, _) = longer.into_iter().find(|(_, end)| bits < **end)?;
        let code = bits >> (32 - length);
        let octet = self
            .octets
            .get(usize::try_from(code.wrapping_add(*self.offsets.get(length)?)).ok()?)?;
        Some((*octet, u32::try_from(length).ok()?))
    }
}
