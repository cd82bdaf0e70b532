//! Which grants of a snapshot a caller satisfies, evaluated once for all of them.
//!
//! A caller's names are looked up in one index of all grants, before the host is known. For a host
//! there remains a test of one bit for each of its lists. So neither the size of a host's lists nor
//! whether it exists affects how long a denial takes.

mod name_index;
mod prefixes;

pub use self::name_index::Name;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;

use self::name_index::{NameIndex, NameIndexBuilder};
use super::access::{Access, Subjects};
use crate::model::NamePattern;

/// The grants of all routes of a host table.
#[derive(Debug, Clone, Default)]
pub struct GrantIndex {
    /// Unique among all indexes of the process; 0 is the empty one.
    id: u64,
    applications: NameIndex,
    users: NameIndex,
    groups: NameIndex,
    /// How many lists of applications, and of subjects, there are.
    lists: (usize, usize),
}

/// The lists of an [`Access`], by their numbers in the index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteGrants {
    applications: Box<[u32]>,
    users: Box<[u32]>,
}

/// The lists that a caller is on. The default is that of an anonymous caller.
#[derive(Debug, Clone, Default)]
pub struct Granted {
    index: u64,
    applications: Bits,
    users: Bits,
}

/// One bit for each list.
#[derive(Debug, Clone, Default)]
struct Bits {
    /// Of the first lists, which are all that most installations have.
    first: u64,
    rest: Vec<u64>,
}

/// Collects the grants of a host table.
#[derive(Default)]
pub(super) struct GrantIndexBuilder {
    applications: Numbers<[NamePattern]>,
    subjects: Numbers<Subjects>,
    application_names: NameIndexBuilder,
    user_names: NameIndexBuilder,
    group_names: NameIndexBuilder,
}

/// Numbers lists: equal ones have one number.
struct Numbers<T: ?Sized> {
    by_content: HashMap<Arc<T>, u32, RandomState>,
    /// Routes share lists: most are found without comparing them.
    by_address: HashMap<usize, u32, RandomState>,
    /// All that have an address, so that none is reused.
    kept: Vec<Arc<T>>,
}

// === impl GrantIndexBuilder ===

impl GrantIndexBuilder {
    /// Adds the grants of a route.
    pub(super) fn add(&mut self, access: &Access) -> RouteGrants {
        let Self { applications, subjects, application_names, user_names, group_names } = self;
        let application = |list: &Arc<[NamePattern]>| {
            applications.number(list, |list, number| application_names.add(list, number))
        };
        let user = |list: &Arc<Subjects>| {
            subjects.number(list, |list, number| {
                user_names.add(&list.users, number);
                group_names.add(&list.groups, number);
            })
        };
        RouteGrants {
            applications: access.applications.iter().map(application).collect(),
            users: access.users.iter().map(user).collect(),
        }
    }

    pub(super) fn build(self) -> GrantIndex {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        GrantIndex {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            lists: (self.applications.by_content.len(), self.subjects.by_content.len()),
            applications: self.application_names.build(),
            users: self.user_names.build(),
            groups: self.group_names.build(),
        }
    }
}

// === impl Numbers ===

impl<T: ?Sized> Default for Numbers<T> {
    fn default() -> Self {
        Self { by_content: HashMap::default(), by_address: HashMap::default(), kept: Vec::new() }
    }
}

impl<T: ?Sized + Eq + std::hash::Hash> Numbers<T> {
    /// The number of a list; `is_new` is called with a list that has none yet.
    fn number(&mut self, list: &Arc<T>, is_new: impl FnOnce(&T, u32)) -> u32 {
        let address = Arc::as_ptr(list).addr();
        if let Some(number) = self.by_address.get(&address) {
            return *number;
        }
        let next = u32::try_from(self.by_content.len()).unwrap_or(u32::MAX);
        let number = *self.by_content.entry(Arc::clone(list)).or_insert_with(|| {
            is_new(list, next);
            next
        });
        self.by_address.insert(address, number);
        self.kept.push(Arc::clone(list));
        number
    }
}

// === impl GrantIndex ===

impl GrantIndex {
    /// Evaluates all grants for a caller: an application, a user, or both.
    #[must_use]
    pub fn evaluate<'n>(
        &self,
        application: Option<Name<'n>>,
        user: Option<Name<'n>>,
        groups: impl Iterator<Item = Name<'n>>,
    ) -> Granted {
        let mut applications = Bits::new(self.lists.0);
        application
            .into_iter()
            .for_each(|name| self.applications.find(name, |list| applications.set(list)));
        let mut users = Bits::new(self.lists.1);
        user.into_iter().for_each(|name| self.users.find(name, |list| users.set(list)));
        self.groups.find_any(groups, |list| users.set(list));
        Granted { index: self.id, applications, users }
    }
}

// === impl RouteGrants ===

impl RouteGrants {
    /// Those of no route: as many lists to test as those of a typical one, without any caller.
    #[must_use]
    pub fn of_no_route() -> Self {
        Self { applications: [u32::MAX].into(), users: [u32::MAX].into() }
    }

    /// Whether all lists of applications have the caller's; `false` without a list.
    #[must_use]
    pub fn has_application(&self, granted: &Granted) -> bool {
        granted.applications.has_all(&self.applications)
    }

    /// Whether all lists of users have the caller's user; `false` without a list.
    #[must_use]
    pub fn has_user(&self, granted: &Granted) -> bool {
        granted.users.has_all(&self.users)
    }
}

// === impl Granted ===

impl Granted {
    /// Whether it was evaluated by this index.
    #[must_use]
    pub fn is_by(&self, index: &GrantIndex) -> bool {
        self.index == index.id
    }
}

// === impl Bits ===

impl Bits {
    fn new(lists: usize) -> Self {
        Self { first: 0, rest: vec![0; lists.div_ceil(64).saturating_sub(1)] }
    }

    fn set(&mut self, list: u32) {
        let word = match list as usize / 64 {
            0 => Some(&mut self.first),
            word => self.rest.get_mut(word - 1),
        };
        if let Some(word) = word {
            *word |= 1 << (list % 64);
        }
    }

    fn has(&self, list: u32) -> bool {
        let word = match list as usize / 64 {
            0 => Some(&self.first),
            word => self.rest.get(word - 1),
        };
        word.is_some_and(|word| word & 1 << (list % 64) != 0)
    }

    fn has_all(&self, lists: &[u32]) -> bool {
        // All are tested: the time must not show which of them lacks the caller.
        !lists.is_empty() & lists.iter().fold(true, |all, list| all & self.has(*list))
    }
}

#[cfg(test)]
mod tests;
