//! The assignment of names to certificates. It is stable, so that one new name causes one order,
//! not many.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use portcullis_config::model::HostPattern;

use super::state::MAX_ERROR;

/// The names of each certificate, by the certificate's own name.
pub(crate) type Plan = BTreeMap<String, BTreeSet<HostPattern>>;

/// Plans certificates for the `desired` names of Namespaces, given the plan `before`: each name is
/// in one certificate, and at most `most` in each new one. Names of different Namespaces share
/// none: one that cannot be validated would delay the others, and its owner would learn of them.
/// Each of the names in `alone` gets one of its own.
///
/// A certificate keeps its own name and those of its names that are still desired, of the first
/// one's Namespace; one without any is dropped.
pub(crate) fn plan(
    desired: &BTreeMap<HostPattern, Arc<str>>,
    before: &Plan,
    alone: &BTreeSet<HostPattern>,
    most: usize,
) -> Plan {
    let mut rest = desired.clone();
    let mut plan = Plan::new();
    for (certificate, names) in before {
        let Some(namespace) = names.iter().find_map(|name| rest.get(name)).cloned() else {
            continue;
        };
        let is_kept = |name: &&HostPattern| rest.get(name).is_some_and(|of| *of == namespace);
        let kept: BTreeSet<HostPattern> = names.iter().filter(is_kept).cloned().collect();
        kept.iter().for_each(|name| drop(rest.remove(name)));
        plan.insert(certificate.clone(), kept);
    }
    let mut new: BTreeMap<Arc<str>, Vec<HostPattern>> = BTreeMap::new();
    for (name, namespace) in rest {
        if alone.contains(&name) {
            add(&mut plan, BTreeSet::from([name]));
        } else {
            new.entry(namespace).or_default().push(name);
        }
    }
    for names in new.values().flat_map(|names| names.chunks(most.max(1))) {
        add(&mut plan, names.iter().cloned().collect());
    }
    plan
}

/// Removes certificates from a plan until its [`cost`] is within `most` octets; returns how many of
/// each Namespace. A tenant may claim more names than the stored state has room for: then those of
/// the Namespace with the most are left out, and of these first the ones that are not `issued` yet.
pub(crate) fn bound(
    plan: &mut Plan,
    desired: &BTreeMap<HostPattern, Arc<str>>,
    issued: &BTreeSet<String>,
    most: usize,
) -> BTreeMap<Arc<str>, usize> {
    let total: usize = plan.values().map(cost).sum();
    if total <= most {
        return BTreeMap::new();
    }
    let namespace = |names: &BTreeSet<HostPattern>| {
        names.first().and_then(|name| desired.get(name)).cloned().unwrap_or_default()
    };
    let mut all: Vec<(bool, &String, &BTreeSet<HostPattern>)> =
        plan.iter().map(|(name, names)| (!issued.contains(name), name, names)).collect();
    all.sort_unstable();
    // Each is ranked by what its Namespace has used before it.
    let mut used: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, bool, &String, Arc<str>)> = Vec::new();
    for (is_new, name, names) in all {
        let namespace = namespace(names);
        let used = used.entry(Arc::clone(&namespace)).or_default();
        ranked.push((*used, is_new, name, namespace));
        *used += cost(names);
    }
    ranked.sort_unstable();
    let (mut sum, mut left_out, mut removed) = (0, BTreeMap::new(), Vec::new());
    for (_, _, name, namespace) in ranked {
        sum += plan.get(name).map_or(0, cost);
        if sum > most {
            *left_out.entry(namespace).or_default() += 1;
            removed.push(name.clone());
        }
    }
    removed.iter().for_each(|name| drop(plan.remove(name)));
    left_out
}

/// The octets of a planned certificate in the stored state, with the error of a failed order.
fn cost(names: &BTreeSet<HostPattern>) -> usize {
    const RECORD: usize = 400 + MAX_ERROR;
    let length = |name: &HostPattern| {
        let (HostPattern::Exact(name) | HostPattern::Wildcard(name)) = name;
        name.as_str().len() + 5
    };
    RECORD + names.iter().map(length).sum::<usize>()
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

    /// Names of one Namespace.
    fn names(names: &[&str]) -> BTreeMap<HostPattern, Arc<str>> {
        set(names).into_iter().map(|name| (name, "shop".into())).collect()
    }

    fn set(names: &[&str]) -> BTreeSet<HostPattern> {
        names.iter().map(|name| name.parse().expect("a name")).collect()
    }

    #[test]
    fn names_share_certificates_up_to_the_limit() {
        let plan = plan(&names(&["a.test", "b.test", "c.test"]), &Plan::new(), &set(&[]), 2);
        assert_eq!(plan.values().map(BTreeSet::len).collect::<Vec<_>>(), [2, 1]);
        assert!(
            plan.keys().all(|name| portcullis_config::model::check_label(name).is_ok()),
            "{plan:?}"
        );
    }

    #[test]
    fn a_new_name_does_not_change_existing_certificates() {
        let before = plan(&names(&["a.test", "c.test"]), &Plan::new(), &set(&[]), 100);
        let after = plan(&names(&["a.test", "b.test", "c.test"]), &before, &set(&[]), 100);
        assert_eq!(after.len(), 2);
        assert!(before.iter().all(|(name, names)| after.get(name) == Some(names)));
    }

    #[test]
    fn a_failed_name_does_not_block_the_others() {
        let mut split_plan =
            plan(&names(&["a.test", "b.test", "c.test"]), &Plan::new(), &set(&[]), 100);
        let whole = split_plan.keys().next().expect("one").clone();
        let alone = split(&mut split_plan, &whole, &set(&["b.test"]));
        assert_eq!(alone.len(), 1);
        assert_eq!(split_plan[&alone[0]], set(&["b.test"]));
        assert!(split_plan.values().any(|others| *others == set(&["a.test", "c.test"])));
        assert!(
            !split_plan.contains_key(&whole),
            "the existing certificate for all three is not overwritten"
        );
        assert_eq!(
            plan(&names(&["a.test", "b.test", "c.test"]), &split_plan, &set(&[]), 100),
            split_plan,
            "the split is permanent"
        );
    }

    #[test]
    fn names_of_different_namespaces_share_no_certificate() {
        let mut desired = names(&["a.test", "c.test"]);
        desired.insert("b.test".parse().expect("a name"), "bank".into());
        let fresh = plan(&desired, &Plan::new(), &set(&[]), 100);
        let groups: Vec<_> = fresh.into_values().collect();
        assert_eq!(groups, [set(&["a.test", "c.test"]), set(&["b.test"])]);
        let mixed = Plan::from([("old".to_owned(), set(&["a.test", "b.test", "c.test"]))]);
        let parted = plan(&desired, &mixed, &set(&[]), 100);
        assert_eq!(parted["old"], set(&["a.test", "c.test"]), "it keeps its name");
        assert_eq!(parted.len(), 2);
    }

    #[test]
    fn a_name_that_failed_before_shares_no_certificate() {
        let desired = names(&["a.test", "b.test", "c.test"]);
        let plan = plan(&desired, &Plan::new(), &set(&["b.test"]), 100);
        assert!(plan.values().any(|names| *names == set(&["b.test"])), "{plan:?}");
        assert_eq!(plan.len(), 2);
    }

    #[test]
    fn what_does_not_fit_is_of_the_namespace_with_the_most() {
        let mut desired: BTreeMap<HostPattern, Arc<str>> = (0..1000)
            .map(|number| (format!("a{number:03}.test").parse().expect("a name"), "evil".into()))
            .collect();
        desired.extend(names(&["x.test", "y.test", "z.test"]));
        let mut plan = plan(&desired, &Plan::new(), &set(&[]), 1);
        let last = plan.keys().filter(|name| name.starts_with("a999")).cloned();
        let issued: BTreeSet<String> = last.collect();
        let most = 100 * cost(&set(&["a000.test"]));
        let left_out = bound(&mut plan, &desired, &issued, most);
        assert_eq!(left_out.into_iter().collect::<Vec<_>>(), [("evil".into(), 903)]);
        assert!(plan.values().map(cost).sum::<usize>() <= most);
        for name in ["x.test", "y.test", "z.test", "a999.test"] {
            assert!(plan.values().any(|names| *names == set(&[name])), "{name}");
        }
        assert!(bound(&mut plan, &desired, &issued, most).is_empty());
    }

    #[test]
    fn a_long_name_is_truncated_to_a_label() {
        let long = format!("{}.{}.test", "a".repeat(60), "b".repeat(60));
        let plan = plan(&names(&[&long]), &Plan::new(), &set(&[]), 1);
        assert!(plan.keys().all(|name| name.len() < 50));
    }

    proptest! {
        #[test]
        fn every_desired_name_is_in_exactly_one_certificate(
            first in proptest::collection::btree_set("[a-z]{1,3}\\.test", 0..20),
            then in proptest::collection::btree_set("[a-z]{1,3}\\.test", 0..20),
            most in 1_usize..5,
        ) {
            let namespace = |name: &str| -> Arc<str> { if name < "n" { "one" } else { "two" }.into() };
            let parse = |set: BTreeSet<String>| -> BTreeMap<HostPattern, Arc<str>> {
                set.iter().map(|name| (name.parse().expect("a name"), namespace(name))).collect()
            };
            let (first, then) = (parse(first), parse(then));
            let before = plan(&first, &Plan::new(), &set(&[]), most);
            let after = plan(&then, &before, &set(&[]), most);
            let all: Vec<&HostPattern> = after.values().flatten().collect();
            prop_assert_eq!(all.len(), then.len());
            prop_assert_eq!(after.values().flatten().collect::<BTreeSet<_>>(), then.keys().collect());
            for names in after.values() {
                let namespaces: BTreeSet<_> = names.iter().map(|name| &then[name]).collect();
                prop_assert_eq!(namespaces.len(), 1, "names of one Namespace");
            }
            prop_assert!(after.values().all(|names| names.len() <= most));
        }
    }
}
