//! How the traffic of a service is split among its variants: which buckets each one has, which
//! bucket an identity is in, and which requests ask for a variant by name.
//!
//! The line of [`BUCKETS`] buckets is divided into ranges. An identity is in one bucket, by a hash
//! that is keyed with the salt of the rollout: the same on every replica, and after a restart. It
//! changes its variant only where the range of that bucket does.

mod counted_errors;
mod ranges;
mod weight;

use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderName;
use serde::{Serialize, Serializer};

pub use self::counted_errors::CountedErrors;
pub use self::ranges::{InvalidRanges, Range, Ranges};
pub use self::weight::{InvalidWeight, Weight, percent};
use super::stable_hash::stable_hasher;
use crate::model::duration;

/// The number of buckets: a weight in hundredths of a percent is a number of buckets.
pub const BUCKETS: u16 = 10_000;
/// The largest number of variants of a service, the stable one included.
pub const MAX_VARIANTS: usize = 16;

/// The split of a rule whose service has variants. Its backends have no filters of their own.
#[derive(Debug, Clone, Serialize)]
pub struct Split {
    generation: Generation,
    salt: Arc<str>,
    #[serde(skip)]
    key: Key,
    ranges: Ranges,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    forced: Vec<Forced>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "duration")]
    latency_threshold: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<CountedErrors>,
}

/// A variant, by the position of its backend in the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct VariantIndex(u8);

/// One of [`BUCKETS`] parts of all identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Bucket(u16);

/// The version of a split, which every replica reports once it has applied it: the counter of
/// whoever writes the ranges, else a hash of ranges and salt. Below 2^53, so that JSON keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Generation(u64);

/// Who a request counts as when it is assigned to a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity<'a> {
    /// The name of a user, without regard to ASCII case.
    User(&'a str),
    /// The random identifier of an anonymous browser.
    Browser(u128),
    /// The client's address.
    Network(IpAddr),
    /// The value of the header that `affinity` names.
    Header(&'a [u8]),
}

/// What callers keep their variant by, if they do not ask for one, and their endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    /// The user, else the cookie of a browser. Other requests are dealt one by one.
    #[default]
    User,
    /// The cookie of a browser, whoever is logged in. Other requests are dealt one by one.
    Cookie,
    /// The client's address.
    SourceIp,
    /// The value of this header. Requests without it are dealt one by one.
    Header(#[serde(serialize_with = "header_name")] HeaderName),
    /// Nothing: every request is dealt by itself.
    None,
}

/// A request that asks for a variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Forced {
    /// Where it asks.
    #[serde(flatten)]
    pub by: ForcedBy,
    /// The value, compared as it is.
    pub value: Arc<str>,
    /// What it gets.
    pub variant: VariantIndex,
}

/// Where a request asks for a variant. Headers are read first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForcedBy {
    /// In the header of this name, which occurs once.
    Header(#[serde(serialize_with = "header_name")] HeaderName),
    /// In the cookie of this name, which occurs once.
    Cookie(Arc<str>),
}

/// The key of the hash, derived from the salt.
#[derive(Clone, Copy)]
struct Key(u64, u64);

fn header_name<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    name.as_str().serialize(serializer)
}

fn duration<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(duration::format).serialize(serializer)
}

// === impl Split ===

impl Split {
    /// Creates a split. Without a `counter` its generation is a hash of salt and ranges.
    #[must_use]
    pub fn new(
        salt: Arc<str>,
        ranges: Ranges,
        mut forced: Vec<Forced>,
        counter: Option<Generation>,
    ) -> Self {
        forced.sort_by_key(|forced| matches!(forced.by, ForcedBy::Cookie(_)));
        let generation = counter.unwrap_or_else(|| Generation::of(&salt, &ranges));
        let (latency_threshold, errors) = (None, None);
        Self { generation, key: Key::of(&salt), salt, ranges, forced, latency_threshold, errors }
    }

    /// Changes from which latency on a request counts as slow in the traffic feed.
    #[must_use]
    pub fn with_latency_threshold(self, latency_threshold: Option<Duration>) -> Self {
        Self { latency_threshold, ..self }
    }

    /// Changes which responses count as errors in the traffic feed; `None` for those of the default.
    #[must_use]
    pub fn with_errors(self, errors: Option<CountedErrors>) -> Self {
        Self { errors, ..self }
    }

    /// Which responses count as errors in the traffic feed; `None` for those of the default.
    #[must_use]
    pub fn errors(&self) -> Option<&CountedErrors> {
        self.errors.as_ref()
    }

    /// From which latency on a request counts as slow in the traffic feed.
    #[must_use]
    pub fn latency_threshold(&self) -> Option<Duration> {
        self.latency_threshold
    }

    /// Its version.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The salt of the rollout.
    #[must_use]
    pub fn salt(&self) -> &Arc<str> {
        &self.salt
    }

    /// A hash of its salt, which tells splits apart.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.key.0
    }

    /// The ranges of all variants but the stable one.
    #[must_use]
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// The number of buckets of the variant at a position among the backends.
    #[must_use]
    pub fn weight(&self, position: usize) -> u32 {
        VariantIndex::new(position).map_or(0, |index| self.ranges.share(index).into())
    }

    /// The requests that ask for a variant, those that do by a header first.
    #[must_use]
    pub fn forced(&self) -> &[Forced] {
        &self.forced
    }

    /// The bucket of an identity.
    #[must_use]
    pub fn bucket(&self, identity: Identity<'_>) -> Bucket {
        Bucket::at(identity.hash(self.key))
    }

    /// The variant that has a bucket.
    #[must_use]
    pub fn variant(&self, bucket: Bucket) -> VariantIndex {
        self.ranges.variant(bucket)
    }
}

/// Names are written to the hash in pieces, so that none is copied to the heap.
fn write_lower_case(hasher: &mut impl Hasher, name: &[u8]) {
    let mut piece = [0; 64];
    for chunk in name.chunks(piece.len()) {
        if let Some(piece) = piece.get_mut(..chunk.len()) {
            piece.copy_from_slice(chunk);
            piece.make_ascii_lowercase();
            hasher.write(piece);
        }
    }
}

// === impl Identity ===

impl Identity<'_> {
    /// A hash by which it keeps its endpoint. It depends on nothing else: the identity stays at an
    /// endpoint whatever the variants and their salts are.
    #[must_use]
    pub fn endpoint_hash(self) -> u64 {
        // The fractions of the square roots of 2 and 3: that they are known does no harm.
        self.hash(Key(0x6a09_e667_f3bc_c908, 0xbb67_ae85_84ca_a73b))
    }

    fn hash(self, key: Key) -> u64 {
        let mut hasher = key.hasher();
        match self {
            Self::User(name) => {
                hasher.write(b"u");
                write_lower_case(&mut hasher, name.as_bytes());
            }
            Self::Browser(id) => {
                hasher.write(b"b");
                hasher.write(&id.to_be_bytes());
            }
            Self::Network(IpAddr::V4(address)) => {
                hasher.write(b"4");
                hasher.write(&address.octets());
            }
            Self::Network(IpAddr::V6(address)) => {
                hasher.write(b"6");
                hasher.write(&address.octets());
            }
            Self::Header(value) => {
                hasher.write(b"h");
                hasher.write(value);
            }
        }
        hasher.finish()
    }
}

// === impl VariantIndex ===

impl VariantIndex {
    /// The stable variant, which gets what no other one does.
    pub const STABLE: Self = Self(0);

    /// The variant at a position among the backends; `None` from [`MAX_VARIANTS`] on.
    #[must_use]
    pub fn new(position: usize) -> Option<Self> {
        u8::try_from(position).ok().filter(|_| position < MAX_VARIANTS).map(Self)
    }

    /// The position of its backend.
    #[must_use]
    pub fn position(self) -> usize {
        self.0.into()
    }
}

// === impl Bucket ===

impl Bucket {
    /// The bucket of a point of the line, which is a uniform `u64`.
    #[must_use]
    pub fn at(point: u64) -> Self {
        // Multiply-shift, without the bias of a remainder.
        Self(((u128::from(point) * u128::from(BUCKETS)) >> 64) as u16)
    }

    /// The bucket of that number; `None` from [`BUCKETS`] on.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (number < BUCKETS).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

// === impl Generation ===

impl Generation {
    /// The largest one: JSON numbers are exact up to it (RFC 8259 §6).
    pub const MAX: u64 = (1 << 53) - 1;

    /// A counter; `None` above [`Generation::MAX`].
    #[must_use]
    pub fn new(counter: u64) -> Option<Self> {
        (counter <= Self::MAX).then_some(Self(counter))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    fn of(salt: &str, ranges: &Ranges) -> Self {
        let mut hasher = Key::of(salt).hasher();
        hasher.write(b"generation");
        for range in ranges.iter() {
            hasher.write(&range.first().number().to_be_bytes());
            hasher.write(&range.last().number().to_be_bytes());
            hasher.write(&[range.variant().0]);
        }
        Self(hasher.finish() & Self::MAX)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Key ===

impl Key {
    fn of(salt: &str) -> Self {
        let digest = digest(&SHA256, &[b"portcullis split 1 ", salt.as_bytes()].concat());
        let half = |from: usize| {
            let octets = digest.as_ref().get(from..).and_then(|octets| octets.first_chunk());
            octets.map_or(0, |octets| u64::from_be_bytes(*octets))
        };
        Self(half(0), half(8))
    }

    fn hasher(self) -> impl Hasher {
        stable_hasher((self.0, self.1))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

#[cfg(test)]
mod tests;
