//! The certificates in use after a change: the new ones if they are usable, else the last usable
//! ones.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_config::model::{HostPattern, Origin};
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::snapshot::certificate::Certificate;
use portcullis_config::store::StoredCertificate;

use super::check::{Checked, Unusable, check, check_undated};
use super::scope::Scopes;

/// The certificates that exist after a change.
#[derive(Debug, Default)]
pub(super) struct Available<'a> {
    /// Those that operators provide.
    pub(super) provided: &'a [Certificate],
    /// Those that the gateway ordered, and checked before it stored them, by name.
    pub(super) ordered: BTreeMap<&'a str, &'a Certificate>,
    /// The names of the ordered ones that are needed; `None` if that is unknown, when all count as
    /// needed.
    pub(super) needed: Option<BTreeSet<String>>,
}

/// The certificates in use, and the problems of certificates.
#[derive(Debug, Default)]
pub(super) struct ActiveSet {
    pub(super) in_use: Vec<Arc<Checked>>,
    /// The origins of the ordered certificates, by name.
    ordered: BTreeMap<String, Origin>,
    pub(super) problems: Vec<Problem>,
}

// === impl Available ===

impl<'a> Available<'a> {
    /// Those that operators provide, and those of the store of ordered ones.
    pub(super) fn new(
        provided: &'a [Certificate],
        ordered: &'a BTreeMap<String, StoredCertificate>,
        needed: Option<BTreeSet<String>>,
    ) -> Self {
        let ordered = ordered.iter().map(|(name, stored)| (name.as_str(), &stored.certificate));
        Self { provided, ordered: ordered.collect(), needed }
    }

    fn is_needed(&self, name: &str) -> bool {
        self.needed.as_ref().is_none_or(|needed| needed.contains(name))
    }

    /// The ordered certificates that are needed, or those that are not.
    fn ordered(&self, is_needed: bool) -> impl Iterator<Item = &'a Certificate> {
        let ordered = self.ordered.iter();
        ordered.filter(move |(name, _)| self.is_needed(name) == is_needed).map(|(_, one)| *one)
    }

    fn all(&self) -> impl Iterator<Item = &Certificate> {
        self.provided.iter().chain(self.ordered.values().copied())
    }
}

// === impl ActiveSet ===

impl ActiveSet {
    /// The set that follows this one once `available` are the existing certificates.
    ///
    /// A certificate that has disappeared, or is no longer usable, stays in use unchanged: a
    /// mistake never removes one that works, and clients judge an expired one themselves. Ordered
    /// ones that are not needed may disappear, and are used until shortly before they expire.
    pub(super) fn next(&self, available: &Available<'_>, now: SystemTime) -> Self {
        let ordered = available.ordered.iter();
        let ordered = ordered.map(|(name, one)| ((*name).to_owned(), one.origin.clone()));
        let mut next = Self { ordered: ordered.collect(), ..Self::default() };
        let before: HashMap<Source<'_>, &Arc<Checked>> =
            self.in_use.iter().rev().map(|checked| (source(&checked.origin), checked)).collect();
        let before_of =
            |certificate: &Certificate| before.get(&source(&certificate.origin)).copied();
        for certificate in available.provided {
            next.add(certificate, before_of(certificate), now);
        }
        let mut unserved = Vec::new();
        for certificate in available.ordered(true) {
            unserved.extend(
                next.add(certificate, before_of(certificate), now)
                    .map(|unusable| (certificate, unusable)),
            );
        }
        for certificate in available.ordered(false) {
            let same = before_of(certificate).filter(|before| before.source == *certificate);
            let checked = same.map_or_else(
                || check(certificate, now).ok().map(Arc::new),
                |same| Some(Arc::clone(same)),
            );
            next.in_use.extend(checked.filter(|checked| !checked.expires_soon(now)));
        }
        let existing: HashSet<Source<'_>> =
            available.all().map(|certificate| source(&certificate.origin)).collect();
        // By what is needed now: a certificate may become unneeded and be removed between two looks.
        let unneeded = self.ordered.iter().filter(|(name, _)| !available.is_needed(name));
        let unneeded: HashSet<Source<'_>> = unneeded.map(|(_, origin)| source(origin)).collect();
        let is_lost =
            |source: Source<'_>| !existing.contains(&source) && !unneeded.contains(&source);
        for lost in self.in_use.iter().filter(|lost| is_lost(source(&lost.origin))) {
            next.problems.push(missing(lost));
            next.in_use.push(Arc::clone(lost));
        }
        next.add_undated(&unserved);
        for certificate in &next.in_use {
            if certificate.expires_soon(now) && !certificate.remaining(now).is_zero() {
                next.problems.push(expiry_warning(certificate));
            }
        }
        next
    }

    /// Adds a certificate if it is usable, else the one before it; returns why neither was.
    fn add(
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
            if before.is_some() { "the previous one stays in use" } else { "it is not served" };
        self.problems.push(unusable.problem(certificate.origin.clone(), instead));
        self.in_use.extend(before.map(Arc::clone));
        before.is_none().then_some(unusable)
    }

    /// Adds ordered certificates with invalid dates, for names that have no other certificate. They
    /// were valid when they were stored, so this machine's clock may be wrong; and clients check
    /// dates by their own.
    fn add_undated(&mut self, unserved: &[(&Certificate, Unusable)]) {
        if unserved.is_empty() {
            return;
        }
        let mut served: HashSet<HostPattern> =
            self.in_use.iter().flat_map(|checked| checked.names.iter().cloned()).collect();
        let mut added = Vec::new();
        for (certificate, unusable) in unserved {
            let Ok(checked) = check_undated(certificate) else { continue };
            if checked.names.iter().all(|name| served.contains(name)) {
                continue;
            }
            served.extend(checked.names.iter().cloned());
            added.push(unusable.problem(
                certificate.origin.clone(),
                "it is served nevertheless, as there is no other",
            ));
            self.in_use.push(Arc::new(checked));
        }
        let sources: HashSet<Source<'_>> =
            added.iter().map(|problem| source(&problem.origin)).collect();
        self.problems.retain(|problem| !sources.contains(&source(&problem.origin)));
        drop(sources);
        self.problems.extend(added);
    }

    /// Whether clients get the same certificates from both.
    pub(super) fn serves_the_same(&self, other: &Self) -> bool {
        self.in_use.len() == other.in_use.len()
            && self.in_use.iter().zip(&other.in_use).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// The certificates in use here that are not in `earlier`.
    pub(super) fn added_since<'a>(
        &'a self,
        earlier: &Self,
    ) -> impl Iterator<Item = &'a Arc<Checked>> {
        let before: HashSet<*const Checked> = earlier.in_use.iter().map(Arc::as_ptr).collect();
        self.in_use.iter().filter(move |checked| !before.contains(&Arc::as_ptr(checked)))
    }

    /// The names that those in use from the same sources as `certificates` are used for.
    pub(super) fn names_of(
        &self,
        certificates: &[Certificate],
        scopes: &Scopes<'_>,
    ) -> Vec<HostPattern> {
        let sources: HashSet<Source<'_>> =
            certificates.iter().map(|certificate| source(&certificate.origin)).collect();
        let in_use =
            self.in_use.iter().filter(|checked| sources.contains(&source(&checked.origin)));
        in_use.flat_map(|checked| scopes.names(checked)).collect()
    }
}

/// A Secret or a file: kind, namespace, name, file.
type Source<'a> = (&'static str, &'a str, &'a str, Option<&'a OsStr>);

/// The source of a certificate; its line in a file may change.
fn source(origin: &Origin) -> Source<'_> {
    (
        origin.kind,
        &origin.namespace,
        &origin.name,
        origin.place.as_ref().map(|place| place.file.as_os_str()),
    )
}

fn missing(lost: &Checked) -> Problem {
    Problem {
        severity: Severity::Error,
        reason: "CertificateGone",
        origin: lost.origin.clone(),
        message: "the certificate has been removed; the previous one stays in use".to_owned(),
        help: "restore it, or restart the gateway without it".to_owned(),
    }
}

fn expiry_warning(certificate: &Checked) -> Problem {
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
    use crate::certificates::testing::{certificate, expired_certificate, now, with_key_of};

    fn provided(certificates: &[Certificate]) -> Available<'_> {
        Available { provided: certificates, ..Available::default() }
    }

    /// Ordered certificates, by name, and the names of those that are needed.
    fn ordered<'a>(certificates: &[(&'a str, &'a Certificate)], needed: &[&str]) -> Available<'a> {
        Available {
            provided: &[],
            ordered: certificates.iter().copied().collect(),
            needed: Some(needed.iter().map(|name| (*name).to_owned()).collect()),
        }
    }

    fn reasons(active: &ActiveSet) -> Vec<&'static str> {
        active.problems.iter().map(|problem| problem.reason).collect()
    }

    #[test]
    fn an_unusable_certificate_is_reported_and_the_last_usable_one_stays_in_use() {
        let good = certificate("one", &["a.example.com"]);
        let first = ActiveSet::default().next(&provided(std::slice::from_ref(&good)), now());
        let bad = with_key_of(&good, &certificate("one", &["a.example.com"]));
        let second = first.next(&provided(&[bad]), now());
        assert!(second.serves_the_same(&first));
        assert_eq!(reasons(&second), ["CertificateKeyMismatch"]);
        let third = second.next(&provided(&[good]), now());
        assert!(third.serves_the_same(&first));
        assert_eq!(reasons(&third), [""; 0]);
    }

    #[test]
    fn a_usable_certificate_replaces_the_previous_one() {
        let first =
            ActiveSet::default().next(&provided(&[certificate("one", &["a.example.com"])]), now());
        let second = first.next(&provided(&[certificate("one", &["b.example.com"])]), now());
        assert_eq!(second.in_use.len(), 1);
        assert!(!second.serves_the_same(&first));
    }

    #[test]
    fn newly_used_certificates_are_identified() {
        let (old, new) =
            (certificate("one", &["a.example.com"]), certificate("two", &["b.example.com"]));
        let first = ActiveSet::default().next(&provided(std::slice::from_ref(&old)), now());
        let second = first.next(&provided(&[old, new]), now());
        assert_eq!(
            second
                .added_since(&first)
                .map(|checked| checked.origin.name.to_string())
                .collect::<Vec<_>>(),
            ["two"]
        );
        assert_eq!(first.added_since(&second).count(), 0);
    }

    #[test]
    fn a_certificate_may_move_within_its_file() {
        let at = |line| {
            let mut certificate = certificate("one", &["a.example.com"]);
            certificate.origin.place = Some(portcullis_config::model::SourceLocation {
                file: Arc::new("tls.yaml".into()),
                line,
                column: 1,
            });
            certificate
        };
        let (before, moved, other) = (at(1), at(9), certificate("two", &["b.example.com"]));
        let active = ActiveSet::default().next(&provided(&[before, other]), now());
        assert_eq!(
            active.names_of(&[moved], &Scopes::default()),
            ["a.example.com".parse::<HostPattern>().unwrap()]
        );
    }

    #[test]
    fn a_removed_certificate_stays_in_use_and_is_reported() {
        let first =
            ActiveSet::default().next(&provided(&[certificate("one", &["a.example.com"])]), now());
        let second = first.next(&Available::default(), now());
        assert!(second.serves_the_same(&first));
        assert_eq!(reasons(&second), ["CertificateGone"]);
    }

    #[test]
    fn an_unneeded_certificate_is_used_until_shortly_before_its_expiry_without_a_report() {
        let certificate = certificate("one", &["a.example.com"]);
        let unneeded = ordered(&[("a", &certificate)], &[]);
        let first = ActiveSet::default().next(&unneeded, now());
        assert_eq!((first.in_use.len(), reasons(&first).len()), (1, 0));
        assert!(first.next(&unneeded, now()).serves_the_same(&first));
        let removed = first.next(&ordered(&[], &[]), now());
        assert_eq!((removed.in_use.len(), reasons(&removed).len()), (0, 0), "it was removed");
        let late = first.in_use[0].not_after - Duration::from_secs(3600);
        let then = first.next(&unneeded, late);
        assert_eq!((then.in_use.len(), reasons(&then).len()), (0, 0));
    }

    #[test]
    fn an_ordered_certificate_that_disappears_is_lost_only_if_it_is_needed() {
        let certificate = certificate("one", &["a.example.com"]);
        let first = ActiveSet::default().next(&ordered(&[("a", &certificate)], &["a"]), now());
        let unneeded = first.next(&ordered(&[], &[]), now());
        assert_eq!((unneeded.in_use.len(), reasons(&unneeded).len()), (0, 0));
        for needed in [Some(BTreeSet::from(["a".to_owned()])), None] {
            let lost = first.next(&Available { needed, ..Available::default() }, now());
            assert!(lost.serves_the_same(&first));
            assert_eq!(reasons(&lost), ["CertificateGone"]);
        }
    }

    #[test]
    fn expiry_is_reported_before_and_after_it() {
        let soon = [certificate("one", &["a.example.com"])];
        let first = ActiveSet::default().next(&provided(&soon), now());
        let end = first.in_use[0].not_after;
        assert_eq!(
            reasons(&first.next(&provided(&soon), end - Duration::from_secs(3600))),
            ["CertificateExpiresSoon"]
        );
        let after = first.next(&provided(&soon), end + Duration::from_secs(1));
        assert_eq!(reasons(&after), ["CertificateExpired"]);
        assert!(after.serves_the_same(&first));
    }

    #[test]
    fn an_ordered_certificate_is_served_despite_its_dates_if_there_is_no_other() {
        let stored = certificate("one", &["a.example.com"]);
        let needed = ordered(&[("a", &stored)], &["a"]);
        let quarter = Duration::from_secs(91 * 24 * 3600);
        for (time, reason) in
            [(now() + quarter, "CertificateExpired"), (now() - quarter, "CertificateNotYetValid")]
        {
            let first = ActiveSet::default().next(&needed, time);
            assert_eq!((first.in_use.len(), reasons(&first)), (1, vec![reason]));
            let second = first.next(&needed, time);
            assert!(second.serves_the_same(&first), "it is not added twice");
            assert_eq!(reasons(&second), [reason]);
            assert_eq!(reasons(&second.next(&needed, now())), [""; 0]);
            let of_operators =
                ActiveSet::default().next(&provided(std::slice::from_ref(&stored)), time);
            assert_eq!(
                of_operators.in_use.len(),
                0,
                "a provided certificate may never have been valid"
            );
        }
        let other = [certificate("other", &["a.example.com", "b.example.com"])];
        let expired = expired_certificate("one", &["a.example.com"]);
        let available = Available { provided: &other, ..ordered(&[("one", &expired)], &["one"]) };
        assert_eq!(
            ActiveSet::default().next(&available, now()).in_use.len(),
            1,
            "a valid one is preferred"
        );
    }
}
