//! Which certificates are in use after a change: the new ones as far as they are good, else the last good ones.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_config::problem::{Origin, Problem, Severity};
use portcullis_config::snapshot::certificate::Certificate;
use portcullis_config::snapshot::host::HostPattern;

use super::check::{Checked, check};

/// The certificates in use, and what is wrong with certificates.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) in_use: Vec<Arc<Checked>>,
    /// Where those of them are kept that nobody needs any more: they may go.
    left: Vec<Origin>,
    pub(super) problems: Vec<Problem>,
}

// === impl Selection ===

impl Selection {
    /// What is in use once `found` is what there is.
    ///
    /// A certificate that is no longer found, or no longer good, stays in use as it was: one that works is never
    /// taken away by a mistake, and a client judges an expired one by itself. Those that were `left` behind, because nobody needs them any
    /// more, are of use until they end, and no longer.
    pub(super) fn next(&self, found: &[Certificate], left: &[Certificate], now: SystemTime) -> Self {
        let left_there = left.iter().map(|certificate| certificate.origin.clone()).collect();
        let mut next = Self { left: left_there, ..Self::default() };
        let before: HashMap<Place<'_>, &Arc<Checked>> = self.in_use.iter().rev().map(|checked| (place(&checked.origin), checked)).collect();
        for certificate in found {
            next.take(certificate, before.get(&place(&certificate.origin)).copied(), now);
        }
        for certificate in left {
            let same = before.get(&place(&certificate.origin)).filter(|before| before.source == *certificate);
            let checked = same.map_or_else(|| check(certificate, now).ok().map(Arc::new), |same| Some(Arc::clone(same)));
            next.in_use.extend(checked.filter(|checked| !checked.ends_soon(now)));
        }
        let there: HashSet<Place<'_>> = found.iter().chain(left).map(|certificate| place(&certificate.origin)).collect();
        let left_before: HashSet<Place<'_>> = self.left.iter().map(place).collect();
        let is_lost = |place: Place<'_>| !there.contains(&place) && !left_before.contains(&place);
        for lost in self.in_use.iter().filter(|lost| is_lost(place(&lost.origin))) {
            next.problems.push(gone(lost));
            next.in_use.push(Arc::clone(lost));
        }
        for certificate in &next.in_use {
            if certificate.ends_soon(now) && !certificate.remaining(now).is_zero() {
                next.problems.push(expires_soon(certificate));
            }
        }
        next
    }

    fn take(&mut self, certificate: &Certificate, before: Option<&Arc<Checked>>, now: SystemTime) {
        if let Some(before) = before
            && before.source == *certificate
            && now <= before.not_after
        {
            return self.in_use.push(Arc::clone(before));
        }
        match check(certificate, now) {
            Ok(checked) => self.in_use.push(Arc::new(checked)),
            Err(unusable) => {
                self.problems.push(unusable.problem(certificate.origin.clone(), before.is_some()));
                self.in_use.extend(before.map(Arc::clone));
            }
        }
    }

    /// Whether clients get the same from both.
    pub(super) fn serves_the_same(&self, other: &Self) -> bool {
        self.in_use.len() == other.in_use.len() && self.in_use.iter().zip(&other.in_use).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// Those in use that `other` has not.
    pub(super) fn beside<'a>(&'a self, other: &Self) -> impl Iterator<Item = &'a Arc<Checked>> {
        let known: HashSet<*const Checked> = other.in_use.iter().map(Arc::as_ptr).collect();
        self.in_use.iter().filter(move |checked| !known.contains(&Arc::as_ptr(checked)))
    }

    /// The names of those in use that are of the same places as `certificates`.
    pub(super) fn names_of(&self, certificates: &[Certificate]) -> Vec<HostPattern> {
        let places: HashSet<Place<'_>> = certificates.iter().map(|certificate| place(&certificate.origin)).collect();
        let in_use = self.in_use.iter().filter(|checked| places.contains(&place(&checked.origin)));
        in_use.flat_map(|checked| checked.names.clone()).collect()
    }
}

/// A Secret or a file: kind, namespace, name, file.
type Place<'a> = (&'static str, &'a str, &'a str, Option<&'a OsStr>);

/// Where a certificate is; its line in the file may change.
fn place(origin: &Origin) -> Place<'_> {
    (origin.kind, &origin.namespace, &origin.name, origin.place.as_ref().map(|place| place.file.as_os_str()))
}

fn gone(lost: &Checked) -> Problem {
    Problem {
        severity: Severity::Error,
        reason: "CertificateGone",
        origin: lost.origin.clone(),
        message: "the certificate is not there any more; the one before stays in use".to_owned(),
        help: "put it back, or restart the gateway without it".to_owned(),
    }
}

fn expires_soon(certificate: &Checked) -> Problem {
    Problem {
        severity: Severity::Warning,
        reason: "CertificateExpiresSoon",
        origin: certificate.origin.clone(),
        message: "the certificate expires soon".to_owned(),
        help: "renew the certificate".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::certificates::testing::{certificate, now, with_key_of};

    fn reasons(selection: &Selection) -> Vec<&'static str> {
        selection.problems.iter().map(|problem| problem.reason).collect()
    }

    #[test]
    fn a_bad_certificate_leaves_the_last_good_one_in_use_and_is_told() {
        let good = certificate("one", &["a.example.com"]);
        let first = Selection::default().next(std::slice::from_ref(&good), &[], now());
        let bad = with_key_of(&good, &certificate("one", &["a.example.com"]));
        let second = first.next(&[bad], &[], now());
        assert!(second.serves_the_same(&first));
        assert_eq!(reasons(&second), ["CertificateKeyMismatch"]);
        let third = second.next(&[good], &[], now());
        assert!(third.serves_the_same(&first));
        assert_eq!(reasons(&third), [""; 0]);
    }

    #[test]
    fn a_good_certificate_takes_the_place_of_the_one_before() {
        let first = Selection::default().next(&[certificate("one", &["a.example.com"])], &[], now());
        let second = first.next(&[certificate("one", &["b.example.com"])], &[], now());
        assert_eq!(second.in_use.len(), 1);
        assert!(!second.serves_the_same(&first));
    }

    #[test]
    fn what_is_new_in_use_is_told_apart() {
        let (old, new) = (certificate("one", &["a.example.com"]), certificate("two", &["b.example.com"]));
        let first = Selection::default().next(std::slice::from_ref(&old), &[], now());
        let second = first.next(&[old, new], &[], now());
        assert_eq!(second.beside(&first).map(|checked| checked.origin.name.to_string()).collect::<Vec<_>>(), ["two"]);
        assert_eq!(first.beside(&second).count(), 0);
    }

    #[test]
    fn a_certificate_is_known_by_its_place_wherever_it_stands_in_its_file() {
        let at = |line| {
            let mut certificate = certificate("one", &["a.example.com"]);
            certificate.origin.place = Some(portcullis_config::problem::Place { file: Arc::new("tls.yaml".into()), line, column: 1 });
            certificate
        };
        let (before, moved, other) = (at(1), at(9), certificate("two", &["b.example.com"]));
        let selection = Selection::default().next(&[before, other], &[], now());
        assert_eq!(selection.names_of(&[moved]), ["a.example.com".parse::<HostPattern>().unwrap()]);
    }

    #[test]
    fn a_certificate_that_is_gone_stays_in_use_and_is_told() {
        let first = Selection::default().next(&[certificate("one", &["a.example.com"])], &[], now());
        let second = first.next(&[], &[], now());
        assert!(second.serves_the_same(&first));
        assert_eq!(reasons(&second), ["CertificateGone"]);
    }

    #[test]
    fn what_was_left_behind_is_served_until_its_end_comes_near_and_nobody_is_told() {
        let left = [certificate("one", &["a.example.com"])];
        let first = Selection::default().next(&[], &left, now());
        assert_eq!((first.in_use.len(), reasons(&first).len()), (1, 0));
        assert!(first.next(&[], &left, now()).serves_the_same(&first));
        let gone = first.next(&[], &[], now());
        assert_eq!((gone.in_use.len(), reasons(&gone).len()), (0, 0), "it was removed");
        let late = first.in_use[0].not_after - Duration::from_secs(3600);
        let then = first.next(&[], &left, late);
        assert_eq!((then.in_use.len(), reasons(&then).len()), (0, 0));
    }

    #[test]
    fn the_owner_is_told_before_and_after_the_end() {
        let soon = [certificate("one", &["a.example.com"])];
        let first = Selection::default().next(&soon, &[], now());
        let end = first.in_use[0].not_after;
        assert_eq!(reasons(&first.next(&soon, &[], end - Duration::from_secs(3600))), ["CertificateExpiresSoon"]);
        let after = first.next(&soon, &[], end + Duration::from_secs(1));
        assert_eq!(reasons(&after), ["CertificateExpired"]);
        assert!(after.serves_the_same(&first));
    }
}
