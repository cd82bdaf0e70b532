//! Who was recognised on this worker lately: whoever comes again with the same words is not looked
//! up again.
//!
//! It stands before what all workers remember together. There somebody is found by a fingerprint
//! and some look-ups, here by comparing what was shown.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use foldhash::quality::RandomState;
use portcullis_identity::authenticator::Authenticated;

use super::identity_headers::{Introduction, Introductions};
use super::presented::{FIELDS, Fields, Shown};

/// The most that are known on one worker.
const PLACES: usize = 1024;
/// Who needs more words than these is not kept, in octets.
const MOST_WORDS: usize = 2048;

/// A bounded table: who comes to a place that is taken, takes it.
pub(crate) struct Recent {
    hasher: RandomState,
    places: RefCell<Box<[Option<Entry>]>>,
    nobody: Rc<Recognised>,
}

/// What a request shows, and who that is.
#[derive(Default)]
pub(crate) struct Recognised {
    pub(crate) shown: Shown,
    pub(crate) found: Authenticated,
    introduction: RefCell<Option<Arc<Introduction>>>,
}

/// By which words, on which host, and until when.
struct Entry {
    host: Box<str>,
    words: Words<Box<[u8]>>,
    /// Of what is known about credentials.
    generation: u64,
    who: Rc<Recognised>,
    /// Since there was last tidied up.
    is_used: Cell<bool>,
}

/// What was in each of the fields that may carry credentials.
type Words<T> = [Option<T>; FIELDS];

// === impl Recent ===

impl Recent {
    pub(crate) fn new() -> Self {
        let places = std::iter::repeat_with(|| None).take(PLACES).collect();
        Self { hasher: RandomState::default(), places: RefCell::new(places), nobody: Rc::default() }
    }

    /// Who shows nothing at all.
    pub(crate) fn nobody(&self) -> Rc<Recognised> {
        Rc::clone(&self.nobody)
    }

    /// Whoever has come to this host with the same words, and is known to be the same still:
    /// `generation` is the present one of what is known about credentials.
    pub(crate) fn find(
        &self,
        fields: &Fields<'_>,
        host: &str,
        generation: u64,
        now: SystemTime,
    ) -> Option<Rc<Recognised>> {
        let words = fields.words()?;
        let places = self.places.borrow();
        let entry = places.get(self.place(host, &words))?.as_ref()?;
        if entry.generation != generation
            || !entry.is_of(host, &words)
            || entry.who.found.has_ended(now)
        {
            return None;
        }
        entry.is_used.set(true);
        Some(Rc::clone(&entry.who))
    }

    /// Keeps whoever was recognised, if all that she shows holds. `generation` was the present one
    /// before she was looked up.
    pub(crate) fn keep(
        &self,
        fields: &Fields<'_>,
        host: &str,
        generation: u64,
        who: &Rc<Recognised>,
    ) {
        let Some(words) = fields.words().filter(|words| {
            words.iter().flatten().map(|word| word.len()).sum::<usize>() <= MOST_WORDS
        }) else {
            return;
        };
        if !who.found.is_somebody() || who.found.rejected.is_some() {
            return;
        }
        if let Some(place) = self.places.borrow_mut().get_mut(self.place(host, &words)) {
            let words = words.map(|word| word.map(Into::into));
            *place = Some(Entry {
                host: host.into(),
                words,
                generation,
                who: Rc::clone(who),
                is_used: Cell::new(true),
            });
        }
    }

    /// Forgets those who have not come since the last time: credentials stay in memory no longer
    /// than they are of use.
    pub(crate) fn tidy_up(&self) {
        for place in self.places.borrow_mut().iter_mut() {
            if place.as_ref().is_some_and(|entry| !entry.is_used.replace(false)) {
                *place = None;
            }
        }
    }

    fn place(&self, host: &str, words: &Words<&[u8]>) -> usize {
        self.hasher.hash_one((host, words)) as usize % PLACES
    }
}

// === impl Recognised ===

impl Recognised {
    pub(crate) fn new(shown: Shown, found: Authenticated) -> Self {
        Self { shown, found, introduction: RefCell::default() }
    }

    /// What a backend of `host` is told of her; `None` where nothing is known.
    pub(crate) fn introduction(
        &self,
        introductions: &Introductions,
        host: &str,
        now: SystemTime,
    ) -> Option<Arc<Introduction>> {
        let mut last = self.introduction.borrow_mut();
        if !last.as_ref().is_some_and(|last| introductions.is_current(last, host, now)) {
            *last = introductions.of(&self.found.caller, host, now);
        }
        last.clone()
    }
}

impl fmt::Debug for Recognised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recognised").field("found", &self.found).finish_non_exhaustive()
    }
}

// === impl Entry ===

impl Entry {
    fn is_of(&self, host: &str, words: &Words<&[u8]>) -> bool {
        *self.host == *host
            && self.words.iter().zip(words).all(|(own, word)| match (own, word) {
                (Some(own), Some(word)) => verify_slices_are_equal(own, word).is_ok(),
                (own, word) => own.is_none() && word.is_none(),
            })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::{HeaderMap, HeaderValue, header};
    use portcullis_identity::caller::{Caller, ann};
    use portcullis_identity::rejected::Rejected;

    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn showing(name: header::HeaderName, value: &str) -> HeaderMap {
        [(name, HeaderValue::from_str(value).unwrap())].into_iter().collect()
    }

    fn somebody(headers: &HeaderMap, found: Authenticated) -> Rc<Recognised> {
        Rc::new(Recognised::new(Shown::read(&Fields::of(headers), None), found))
    }

    fn held(until: Option<SystemTime>) -> Authenticated {
        Authenticated { caller: Caller { until, ..ann() }, ..Authenticated::default() }
    }

    #[test]
    fn she_is_known_by_all_her_words_on_the_same_host() {
        let recent = Recent::new();
        let headers = showing(header::AUTHORIZATION, "Bearer a");
        let who = somebody(&headers, held(None));
        assert!(recent.find(&Fields::of(&headers), "a", 1, NOW).is_none());
        recent.keep(&Fields::of(&headers), "a", 1, &who);
        assert!(Rc::ptr_eq(&recent.find(&Fields::of(&headers), "a", 1, NOW).unwrap(), &who));
        assert!(recent.find(&Fields::of(&headers), "b", 1, NOW).is_none());
        let mut more = headers.clone();
        more.insert(header::COOKIE, HeaderValue::from_static("a=b"));
        for other in [
            showing(header::AUTHORIZATION, "Bearer b"),
            showing(header::COOKIE, "Bearer a"),
            more,
            HeaderMap::new(),
        ] {
            assert!(recent.find(&Fields::of(&other), "a", 1, NOW).is_none(), "{other:?}");
        }
        let mut twice = headers;
        twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        assert!(recent.find(&Fields::of(&twice), "a", 1, NOW).is_none());
    }

    #[test]
    fn she_is_known_until_something_changes_or_ends() {
        let recent = Recent::new();
        let headers = showing(header::AUTHORIZATION, "Bearer a");
        let until = NOW + Duration::from_secs(10);
        recent.keep(&Fields::of(&headers), "a", 1, &somebody(&headers, held(Some(until))));
        assert!(
            recent.find(&Fields::of(&headers), "a", 1, until - Duration::from_secs(1)).is_some()
        );
        assert!(recent.find(&Fields::of(&headers), "a", 1, until).is_none());
        assert!(recent.find(&Fields::of(&headers), "a", 2, NOW).is_none());
    }

    #[test]
    fn who_is_not_let_in_by_all_that_she_shows_is_not_kept() {
        let recent = Recent::new();
        let headers = showing(header::AUTHORIZATION, "Bearer a");
        let refused = Authenticated { rejected: Some(Rejected::Signature), ..held(None) };
        for found in [Authenticated::default(), refused] {
            recent.keep(&Fields::of(&headers), "a", 1, &somebody(&headers, found));
            assert!(recent.find(&Fields::of(&headers), "a", 1, NOW).is_none());
        }
        let long = showing(header::AUTHORIZATION, &format!("Bearer {}", "a".repeat(MOST_WORDS)));
        recent.keep(&Fields::of(&long), "a", 1, &somebody(&long, held(None)));
        assert!(recent.find(&Fields::of(&long), "a", 1, NOW).is_none());
    }

    #[test]
    fn who_does_not_come_is_forgotten() {
        let recent = Recent::new();
        let headers = showing(header::AUTHORIZATION, "Bearer a");
        recent.keep(&Fields::of(&headers), "a", 1, &somebody(&headers, held(None)));
        for _ in 0..3 {
            recent.tidy_up();
            assert!(recent.find(&Fields::of(&headers), "a", 1, NOW).is_some());
        }
        recent.tidy_up();
        recent.tidy_up();
        assert!(recent.find(&Fields::of(&headers), "a", 1, NOW).is_none());
    }
}
