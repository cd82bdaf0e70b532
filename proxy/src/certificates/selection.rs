//! Which certificates are in use after a change: the new ones as far as they are good, else the last good ones.

use std::sync::Arc;
use std::time::SystemTime;

use portcullis_config::problem::{Origin, Problem, Severity};
use portcullis_config::snapshot::certificate::Certificate;

use super::check::{Checked, check};

/// The certificates in use, and what is wrong with certificates.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) in_use: Vec<Arc<Checked>>,
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
        let mut next = Self::default();
        for certificate in found {
            let before = self.in_use.iter().find(|checked| same_place(&checked.origin, &certificate.origin));
            next.take(certificate, before, now);
        }
        for certificate in left {
            next.in_use.extend(check(certificate, now).ok().filter(|checked| !checked.ends_soon(now)).map(Arc::new));
        }
        for lost in &self.in_use {
            if !found.iter().chain(left).any(|certificate| same_place(&lost.origin, &certificate.origin)) {
                next.problems.push(gone(lost));
                next.in_use.push(Arc::clone(lost));
            }
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
}

/// The same Secret or file; the line in the file may have changed.
fn same_place(one: &Origin, other: &Origin) -> bool {
    let file = |origin: &Origin| origin.place.as_ref().map(|place| Arc::clone(&place.file));
    (one.kind, &one.namespace, &one.name, file(one)) == (other.kind, &other.namespace, &other.name, file(other))
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
