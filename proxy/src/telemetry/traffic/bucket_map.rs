//! Sets of buckets, small while they have few.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis_config::snapshot::split::{BUCKETS, Bucket};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The size of a bit map, in octets.
const OCTETS: usize = BUCKETS as usize / 8;
/// The number of buckets from which on a bit map is not larger than a list.
const MANY: usize = OCTETS / 2;

/// A set of buckets.
///
/// As text, it is Base64 (RFC 4648 §4) of 1,250 octets, where bucket n is the bit of value
/// 2^(n mod 8) in octet n div 8; or of fewer octets, which are the numbers of the buckets in
/// ascending order, each as a 16-bit integer in network byte order.
#[derive(Debug, Clone)]
pub struct BucketMap(Form);

#[derive(Debug, Clone)]
enum Form {
    /// In ascending order; fewer than [`MANY`].
    List(Vec<u16>),
    Bits(Box<[u8; OCTETS]>),
}

// === impl BucketMap ===

impl BucketMap {
    /// Adds a bucket.
    pub fn insert(&mut self, bucket: Bucket) {
        let number = bucket.number();
        match &mut self.0 {
            Form::List(list) => {
                let Err(at) = list.binary_search(&number) else { return };
                list.insert(at, number);
                if list.len() >= MANY {
                    let mut bits = Box::new([0; OCTETS]);
                    list.iter().for_each(|number| set(&mut bits, *number));
                    self.0 = Form::Bits(bits);
                }
            }
            Form::Bits(bits) => set(bits, number),
        }
    }

    /// Adds all buckets of another set.
    pub fn add(&mut self, other: &Self) {
        other.iter().for_each(|bucket| self.insert(bucket));
    }

    /// Whether it has the bucket.
    #[must_use]
    pub fn has(&self, bucket: Bucket) -> bool {
        match &self.0 {
            Form::List(list) => list.binary_search(&bucket.number()).is_ok(),
            Form::Bits(bits) => is_set(bits, bucket.number()),
        }
    }

    /// The buckets, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Bucket> {
        let (list, bits) = match &self.0 {
            Form::List(list) => (&list[..], None),
            Form::Bits(bits) => (&[][..], Some(bits)),
        };
        let of_bits =
            bits.into_iter().flat_map(|bits| (0..BUCKETS).filter(|number| is_set(bits, *number)));
        list.iter().copied().chain(of_bits).filter_map(Bucket::new)
    }

    /// The number of buckets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Form::List(list) if list.is_empty())
    }

    /// The memory that it takes, in octets.
    pub(super) fn octets(&self) -> usize {
        match &self.0 {
            Form::List(list) => list.capacity() * size_of::<u16>(),
            Form::Bits(_) => OCTETS,
        }
    }

    fn encode(&self) -> String {
        match &self.0 {
            Form::List(list) => {
                let octets: Vec<u8> = list.iter().flat_map(|number| number.to_be_bytes()).collect();
                STANDARD.encode(octets)
            }
            Form::Bits(bits) => STANDARD.encode(**bits),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let octets = STANDARD.decode(text).ok()?;
        let mut map = Self::default();
        if let Ok(bits) = <&[u8; OCTETS]>::try_from(&*octets) {
            let set = (0..BUCKETS).filter(|number| is_set(bits, *number));
            set.filter_map(Bucket::new).for_each(|bucket| map.insert(bucket));
            return Some(map);
        }
        let (numbers, []) = octets.as_chunks::<2>() else { return None };
        for number in numbers {
            map.insert(Bucket::new(u16::from_be_bytes(*number))?);
        }
        Some(map)
    }
}

fn set(bits: &mut [u8; OCTETS], number: u16) {
    if let Some(octet) = bits.get_mut(usize::from(number / 8)) {
        *octet |= 1 << (number % 8);
    }
}

fn is_set(bits: &[u8; OCTETS], number: u16) -> bool {
    bits.get(usize::from(number / 8)).is_some_and(|octet| octet >> (number % 8) & 1 == 1)
}

impl Default for BucketMap {
    fn default() -> Self {
        Self(Form::List(Vec::new()))
    }
}

impl PartialEq for BucketMap {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl FromIterator<Bucket> for BucketMap {
    fn from_iter<I: IntoIterator<Item = Bucket>>(buckets: I) -> Self {
        let mut map = Self::default();
        buckets.into_iter().for_each(|bucket| map.insert(bucket));
        map
    }
}

impl Serialize for BucketMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.encode())
    }
}

impl<'de> Deserialize<'de> for BucketMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::decode(&text).ok_or_else(|| de::Error::custom("not a set of buckets"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn map(numbers: &BTreeSet<u16>) -> BucketMap {
        numbers.iter().filter_map(|number| Bucket::new(*number)).collect()
    }

    #[test]
    fn few_buckets_are_a_list_and_many_a_bit_map() {
        assert_eq!(map(&BTreeSet::from([1, 258])).encode(), STANDARD.encode([0, 1, 1, 2]));
        let all = map(&(0..BUCKETS).collect());
        assert_eq!(all.encode(), STANDARD.encode([255; OCTETS]));
        assert_eq!((all.len(), all.octets()), (10_000, 1_250));
        for malformed in ["AA==", "//8=", "?"] {
            assert!(BucketMap::decode(malformed).is_none(), "{malformed}");
        }
    }

    proptest! {
        #[test]
        fn a_map_is_a_set_in_every_form(
            one in prop::collection::btree_set(0..BUCKETS, 0..1_300),
            other in prop::collection::btree_set(0..BUCKETS, 0..700),
        ) {
            let mut both = map(&one);
            prop_assert_eq!(both.len(), one.len());
            prop_assert_eq!(both.is_empty(), one.is_empty());
            prop_assert!(both.octets() <= 2 * OCTETS);
            both.add(&map(&other));
            let union: BTreeSet<u16> = one.union(&other).copied().collect();
            prop_assert_eq!(&both, &map(&union));
            let text = serde_json::to_string(&both).unwrap();
            prop_assert_eq!(serde_json::from_str::<BucketMap>(&text).unwrap(), both.clone());
            for number in (0..BUCKETS).step_by(97) {
                prop_assert_eq!(both.has(Bucket::new(number).unwrap()), union.contains(&number));
            }
        }
    }
}
