//! Which certificates are in use after a change: the new ones as far as they are good, else the
//! last good ones.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_config::model::{HostPattern, Origin};
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::snapshot::certificate::Certificate;

use super::check::{Checked, Unusable, check, check_undated};

/// What there is after a change.
#[derive(Debug, Default)]
pub(super) struct Found<'a> {
    /// What people have brought.
    pub(super) brought: &'a [Certificate],
    /// What was ordered, and checked before it was kept.
    pub(super) ordered: &'a [Certificate],
    /// What was ordered, and nobody needs any more.
    pub(super) left: &'a [Certificate],
}

/// The certificates in use, and what is wrong with certificates.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) in_use: Vec<Arc<Checked>>,
    /// Where those of them are kept that nobody needs any more: they may go.
    left: Vec<Origin>,
    pub(super) problems: Vec<Problem>,
}

// === impl Found ===

impl Found<'_> {
    fn all(&self) -> impl Iterator<Item = &Certificate> {
        self.brought.iter().chain(self.ordered).chain(self.left)
    }
}

// === impl Selection ===

impl Selection {
    /// What is in use once `found` is what there is.
    ///
    /// A certificate that is no longer found, or no longer good, stays in use as it was: one that
    /// works is never taken away by a mistake, and a client judges an expired one by itself.
    /// Those that were left behind, because nobody needs them any more, are of use until they
    /// end, and no longer.
    pub(super) fn next(&self, found: &Found<'_>, now: SystemTime) -> Self {
        let left = found.left.iter().map(|certificate| certificate.origin.clone()).collect();
        let mut next = Self { left, ..Self::default() };
        let before: HashMap<Place<'_>, &Arc<Checked>> =
            self.in_use.iter().rev().map(|checked| (place(&checked.origin), checked)).collect();
        let before_of =
            |certificate: &Certificate| before.get(&place(&certificate.origin)).copied();
        for certificate in found.brought {
            next.take(certificate, before_of(certificate), now);
        }
        let mut unserved = Vec::new();
        for certificate in found.ordered {
            unserved.extend(
                next.take(certificate, before_of(certificate), now)
                    .map(|unusable| (certificate, unusable)),
            );
        }
        for certificate in found.left {
            let same = before_of(certificate).filter(|before| before.source == *certificate);
            let checked = same.map_or_else(
                || check(certificate, now).ok().map(Arc::new),
                |same| Some(Arc::clone(same)),
            );
            next.in_use.extend(checked.filter(|checked| !checked.ends_soon(now)));
        }
        let there: HashSet<Place<'_>> =
            found.all().map(|certificate| place(&certificate.origin)).collect();
        let left_before: HashSet<Place<'_>> = self.left.iter().map(place).collect();
        let is_lost = |place: Place<'_>| !there.contains(&place) && !left_before.contains(&place);
        for lost in self.in_use.iter().filter(|lost| is_lost(place(&lost.origin))) {
            next.problems.push(gone(lost));
            next.in_use.push(Arc::clone(lost));
        }
        next.take_undated(&unserved);
        for certificate in &next.in_use {
            if certificate.ends_soon(now) && !certificate.remaining(now).is_zero() {
                next.problems.push(expires_soon(certificate));
            }
        }
        next
    }

    /// Takes one as far as it is good; else returns why nothing is served in its place.
    fn take(
        &mut self,
        certificate: &Certificate,
        before: Option<&Arc<Checked>>,
        now: SystemTime,
    ) -> Option<Unusable> {
        if let Some(before) = before
            && before.source == *certificate
            && (before.not_before..=before.not_after).contains(&now)
        {
            self.in_use.push(Arc::clone(before));
            return None;
        }
        let unusable = match check(certificate, now) {
            Ok(checked) => {
                self.in_use.push(Arc::new(checked));
                return None;
            }
            Err(unusable) => unusable,
        };
        let instead =
            if before.is_some() { "the one before stays in use" } else { "it is not served" };
        self.problems.push(unusable.problem(certificate.origin.clone(), instead));
        self.in_use.extend(before.map(Arc::clone));
        before.is_none().then_some(unusable)
    }

    /// Takes of those that were ordered, and that are not served yet, such as are good but for
    /// their dates, where there is no other for a name. They were good when they were kept, so
    /// that this machine's clock may be what is wrong; and clients judge by their own.
    fn take_undated(&mut self, unserved: &[(&Certificate, Unusable)]) {
        if unserved.is_empty() {
            return;
        }
        let mut served: HashSet<HostPattern> =
            self.in_use.iter().flat_map(|checked| checked.names.iter().cloned()).collect();
        let mut told = Vec::new();
        for (certificate, unusable) in unserved {
            let Ok(checked) = check_undated(certificate) else { continue };
            if checked.names.iter().all(|name| served.contains(name)) {
                continue;
            }
            served.extend(checked.names.iter().cloned());
            told.push(unusable.problem(
                certificate.origin.clone(),
                "it is served all the same, as there is no other",
            ));
            self.in_use.push(Arc::new(checked));
        }
        let taken: HashSet<Place<'_>> = told.iter().map(|problem| place(&problem.origin)).collect();
        self.problems.retain(|problem| !taken.contains(&place(&problem.origin)));
        drop(taken);
        self.problems.extend(told);
    }

    /// Whether clients get the same from both.
    pub(super) fn serves_the_same(&self, other: &Self) -> bool {
        self.in_use.len() == other.in_use.len()
            && self.in_use.iter().zip(&other.in_use).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// Those in use that `other` has not.
    pub(super) fn beside<'a>(&'a self, other: &Self) -> impl Iterator<Item = &'a Arc<Checked>> {
        let known: HashSet<*const Checked> = other.in_use.iter().map(Arc::as_ptr).collect();
        self.in_use.iter().filter(move |checked| !known.contains(&Arc::as_ptr(checked)))
    }

    /// The names of those in use that are of the same places as `certificates`.
    pub(super) fn names_of(&self, certificates: &[Certificate]) -> Vec<HostPattern> {
        let places: HashSet<Place<'_>> =
            certificates.iter().map(|certificate| place(&certificate.origin)).collect();
        let in_use = self.in_use.iter().filter(|checked| places.contains(&place(&checked.origin)));
        in_use.flat_map(|checked| checked.names.clone()).collect()
    }
}

/// A Secret or a file: kind, namespace, name, file.
type Place<'a> = (&'static str, &'a str, &'a str, Option<&'a OsStr>);

/// Where a certificate is; its line in the file may change.
fn place(origin: &Origin) -> Place<'_> {
    (
        origin.kind,
        &origin.namespace,
        &origin.name,
        origin.place.as_ref().map(|place| place.file.as_os_str()),
    )
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
    use crate::certificates::testing::{certificate, ended_certificate, now, with_key_of};

    fn brought(certificates: &[Certificate]) -> Found<'_> {
        Found { brought: certificates, ..Found::default() }
    }

    fn reasons(selection: &Selection) -> Vec<&'static str> {
        selection.problems.iter().map(|problem| problem.reason).collect()
    }

    #[test]
    fn a_bad_certificate_leaves_the_last_good_one_in_use_and_is_told() {
        let good = certificate("one", &["a.example.com"]);
        let first = Selection::default().next(&brought(std::slice::from_ref(&good)), now());
        let bad = with_key_of(&good, &certificate("one", &["a.example.com"]));
        let second = first.next(&brought(&[bad]), now());
        assert!(second.serves_the_same(&first));
        assert_eq!(reasons(&second), ["CertificateKeyMismatch"]);
        let third = second.next(&brought(&[good]), now());
        assert!(third.serves_the_same(&first));
        assert_eq!(reasons(&third), [""; 0]);
    }

    #[test]
    fn a_good_certificate_takes_the_place_of_the_one_before() {
        let first =
            Selection::default().next(&brought(&[certificate("one", &["a.example.com"])]), now());
        let second = first.next(&brought(&[certificate("one", &["b.example.com"])]), now());
        assert_eq!(second.in_use.len(), 1);
        assert!(!second.serves_the_same(&first));
    }

    #[test]
    fn what_is_new_in_use_is_told_apart() {
        let (old, new) =
            (certificate("one", &["a.example.com"]), certificate("two", &["b.example.com"]));
        let first = Selection::default().next(&brought(std::slice::from_ref(&old)), now());
        let second = first.next(&brought(&[old, new]), now());
        assert_eq!(
            second
                .beside(&first)
                .map(|checked| checked.origin.name.to_string())
                .collect::<Vec<_>>(),
            ["two"]
        );
        assert_eq!(first.beside(&second).count(), 0);
    }

    #[test]
    fn a_certificate_is_known_by_its_place_wherever_it_stands_in_its_file() {
        let at = |line| {
            let mut certificate = certificate("one", &["a.example.com"]);
            certificate.origin.place = Some(portcullis_config::model::Place {
                file: Arc::new("tls.yaml".into()),
                line,
                column: 1,
            });
            certificate
        };
        let (before, moved, other) = (at(1), at(9), certificate("two", &["b.example.com"]));
        let selection = Selection::default().next(&brought(&[before, other]), now());
        assert_eq!(selection.names_of(&[moved]), ["a.example.com".parse::<HostPattern>().unwrap()]);
    }

    #[test]
    fn a_certificate_that_is_gone_stays_in_use_and_is_told() {
        let first =
            Selection::default().next(&brought(&[certificate("one", &["a.example.com"])]), now());
        let second = first.next(&Found::default(), now());
        assert!(second.serves_the_same(&first));
        assert_eq!(reasons(&second), ["CertificateGone"]);
    }

    #[test]
    fn what_was_left_behind_is_served_until_its_end_comes_near_and_nobody_is_told() {
        let left = [certificate("one", &["a.example.com"])];
        let first = Selection::default().next(&Found { left: &left, ..Found::default() }, now());
        assert_eq!((first.in_use.len(), reasons(&first).len()), (1, 0));
        assert!(
            first.next(&Found { left: &left, ..Found::default() }, now()).serves_the_same(&first)
        );
        let gone = first.next(&Found::default(), now());
        assert_eq!((gone.in_use.len(), reasons(&gone).len()), (0, 0), "it was removed");
        let late = first.in_use[0].not_after - Duration::from_secs(3600);
        let then = first.next(&Found { left: &left, ..Found::default() }, late);
        assert_eq!((then.in_use.len(), reasons(&then).len()), (0, 0));
    }

    #[test]
    fn the_owner_is_told_before_and_after_the_end() {
        let soon = [certificate("one", &["a.example.com"])];
        let first = Selection::default().next(&brought(&soon), now());
        let end = first.in_use[0].not_after;
        assert_eq!(
            reasons(&first.next(&brought(&soon), end - Duration::from_secs(3600))),
            ["CertificateExpiresSoon"]
        );
        let after = first.next(&brought(&soon), end + Duration::from_secs(1));
        assert_eq!(reasons(&after), ["CertificateExpired"]);
        assert!(after.serves_the_same(&first));
    }

    #[test]
    fn what_was_ordered_is_served_whatever_the_clock_says_where_there_is_no_other() {
        let kept = [certificate("one", &["a.example.com"])];
        let ordered = Found { ordered: &kept, ..Found::default() };
        let quarter = Duration::from_secs(91 * 24 * 3600);
        for (time, reason) in
            [(now() + quarter, "CertificateExpired"), (now() - quarter, "CertificateNotYetValid")]
        {
            let first = Selection::default().next(&ordered, time);
            assert_eq!((first.in_use.len(), reasons(&first)), (1, vec![reason]));
            let second = first.next(&ordered, time);
            assert!(second.serves_the_same(&first), "it is not taken twice");
            assert_eq!(reasons(&second), [reason]);
            assert_eq!(reasons(&second.next(&ordered, now())), [""; 0]);
            let of_people = Selection::default().next(&brought(&kept), time);
            assert_eq!(
                of_people.in_use.len(),
                0,
                "of what people bring nobody knows that it was ever good"
            );
        }
        let other = [certificate("other", &["a.example.com", "b.example.com"])];
        let found = Found {
            brought: &other,
            ordered: &[ended_certificate("one", &["a.example.com"])],
            left: &[],
        };
        assert_eq!(
            Selection::default().next(&found, now()).in_use.len(),
            1,
            "a good one is better"
        );
    }
}
