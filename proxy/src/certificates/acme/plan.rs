//! The assignment of names to certificates. It is stable, so that one new name causes one order,
//! not many.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use portcullis_config::model::HostPattern;

/// The names of each certificate, by the certificate's own name.
pub(crate) type Plan = BTreeMap<String, BTreeSet<HostPattern>>;

/// Plans certificates for the `desired` names, given the plan `before`: each name is in one
/// certificate, and at most `most` in each new one.
///
/// A certificate keeps its own name and those of its names that are still desired; one without any
/// is dropped.
pub(crate) fn plan(desired: &BTreeSet<HostPattern>, before: &Plan, most: usize) -> Plan {
    let mut rest = desired.clone();
    let mut plan = Plan::new();
    for (certificate, names) in before {
        let remaining: BTreeSet<HostPattern> =
            names.iter().filter_map(|name| rest.take(name)).collect();
        if !remaining.is_empty() {
            plan.insert(certificate.clone(), remaining);
        }
    }
    let rest: Vec<HostPattern> = rest.into_iter().collect();
    for names in rest.chunks(most.max(1)) {
        add(&mut plan, names.iter().cloned().collect());
    }
    plan
}

/// Splits a certificate: each of the `failed` names gets one of its own, and no longer blocks the
/// others. All get new certificate names, so the existing certificate stays unchanged.
///
/// Returns the names of the certificates of the failed names.
pub(crate) fn split(
    plan: &mut Plan,
    certificate: &str,
    failed: &BTreeSet<HostPattern>,
) -> Vec<String> {
    let Some(names) = plan.remove(certificate) else { return Vec::new() };
    let others: BTreeSet<HostPattern> = names.difference(failed).cloned().collect();
    if !others.is_empty() {
        add(plan, others);
    }
    names.intersection(failed).map(|name| add(plan, BTreeSet::from([name.clone()]))).collect()
}

fn add(plan: &mut Plan, names: BTreeSet<HostPattern>) -> String {
    let name = name(&names);
    plan.insert(name.clone(), names);
    name
}

/// The name of a certificate: its first DNS name as a readable label, and a digest of all.
fn name(names: &BTreeSet<HostPattern>) -> String {
    const READABLE: usize = 40;
    let all: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut name = all
        .first()
        .map(|first| first.replace('*', "wildcard").replace('.', "-"))
        .unwrap_or_default();
    name.truncate(READABLE);
    let digest = digest(&SHA256, all.join(" ").as_bytes());
    let digest = hex::encode(digest.as_ref().get(..4).unwrap_or_default());
    format!("{}-{digest}", name.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(names: &[&str]) -> BTreeSet<HostPattern> {
        names.iter().map(|name| name.parse().expect("a name")).collect()
    }

    #[test]
    fn names_share_certificates_up_to_the_limit() {
        let plan = plan(&names(&["a.test", "b.test", "c.test"]), &Plan::new(), 2);
        assert_eq!(plan.values().map(BTreeSet::len).collect::<Vec<_>>(), [2, 1]);
        assert!(
            plan.keys().all(|name| portcullis_config::model::check_label(name).is_ok()),
            "{plan:?}"
        );
    }

    #[test]
    fn a_new_name_does_not_change_existing_certificates() {
        let before = plan(&names(&["a.test", "c.test"]), &Plan::new(), 100);
        let after = plan(&names(&["a.test", "b.test", "c.test"]), &before, 100);
        assert_eq!(after.len(), 2);
        assert!(before.iter().all(|(name, names)| after.get(name) == Some(names)));
    }

    #[test]
    fn a_failed_name_does_not_block_the_others() {
        let mut split_plan = plan(&names(&["a.test", "b.test", "c.test"]), &Plan::new(), 100);
        let whole = split_plan.keys().next().expect("one").clone();
        let alone = split(&mut split_plan, &whole, &names(&["b.test"]));
        assert_eq!(alone.len(), 1);
        assert_eq!(split_plan[&alone[0]], names(&["b.test"]));
        assert!(split_plan.values().any(|others| *others == names(&["a.test", "c.test"])));
        assert!(
            !split_plan.contains_key(&whole),
            "the existing certificate for all three is not overwritten"
        );
        assert_eq!(
            plan(&names(&["a.test", "b.test", "c.test"]), &split_plan, 100),
            split_plan,
            "the split is permanent"
        );
    }

    #[test]
    fn a_long_name_is_truncated_to_a_label() {
        let long = format!("{}.{}.test", "a".repeat(60), "b".repeat(60));
        let plan = plan(&names(&[&long]), &Plan::new(), 1);
        assert!(plan.keys().all(|name| name.len() < 50));
    }

    proptest! {
        #[test]
        fn every_desired_name_is_in_exactly_one_certificate(
            first in proptest::collection::btree_set("[a-z]{1,3}\\.test", 0..20),
            then in proptest::collection::btree_set("[a-z]{1,3}\\.test", 0..20),
            most in 1_usize..5,
        ) {
            let parse = |set: BTreeSet<String>| -> BTreeSet<HostPattern> { set.iter().map(|name| name.parse().expect("a name")).collect() };
            let (first, then) = (parse(first), parse(then));
            let before = plan(&first, &Plan::new(), most);
            let after = plan(&then, &before, most);
            let all: Vec<&HostPattern> = after.values().flatten().collect();
            prop_assert_eq!(all.len(), then.len());
            prop_assert_eq!(all.into_iter().cloned().collect::<BTreeSet<_>>(), then);
            prop_assert!(after.values().all(|names| names.len() <= most));
        }
    }
}
