//! The notices that wait to be written as Events: bounded, and fair between Namespaces, so that the
//! notices of one tenant neither delay those of others nor displace them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Notice;

/// The most notices in the queue.
pub const MAX_WAITING: usize = 256;

/// A queue of notices. Cheap to clone: all clones are one queue.
#[derive(Debug, Clone, Default)]
pub struct NoticeQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    added: Notify,
}

/// Namespaces are served round robin. When the queue is full, the last notice of the Namespace with
/// the most is dropped.
#[derive(Debug, Default)]
struct Waiting {
    /// Namespaces in the order of their turns, each once, without those that have no notice.
    order: VecDeque<Arc<str>>,
    notices: BTreeMap<Arc<str>, VecDeque<Notice>>,
    len: usize,
}

// === impl NoticeQueue ===

impl NoticeQueue {
    /// Adds a notice. If that is one too many, a notice is dropped.
    pub fn push(&self, notice: Notice) {
        self.waiting().push(notice);
        self.0.added.notify_one();
    }

    /// Takes the next notice; waits while there is none.
    pub async fn pop(&self) -> Notice {
        loop {
            if let Some(notice) = self.try_pop() {
                return notice;
            }
            self.0.added.notified().await;
        }
    }

    /// Takes the next notice, if there is one.
    #[must_use]
    pub fn try_pop(&self) -> Option<Notice> {
        self.waiting().pop()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Waiting ===

impl Waiting {
    fn push(&mut self, notice: Notice) {
        let namespace = Arc::clone(notice.origin.owner());
        let notices = self.notices.entry(Arc::clone(&namespace)).or_default();
        if notices.is_empty() {
            self.order.push_back(namespace);
        }
        notices.push_back(notice);
        self.len += 1;
        if self.len > MAX_WAITING {
            self.drop_one();
        }
    }

    fn pop(&mut self) -> Option<Notice> {
        let namespace = self.order.pop_front()?;
        let notices = self.notices.get_mut(&namespace)?;
        let notice = notices.pop_front()?;
        self.len -= 1;
        if notices.is_empty() {
            self.notices.remove(&namespace);
        } else {
            self.order.push_back(namespace);
        }
        Some(notice)
    }

    /// Drops the last notice of the Namespace with the most.
    fn drop_one(&mut self) {
        let Some((namespace, notices)) =
            self.notices.iter_mut().max_by_key(|(_, notices)| notices.len())
        else {
            return;
        };
        notices.pop_back();
        self.len -= 1;
        if notices.is_empty() {
            let namespace = Arc::clone(namespace);
            self.notices.remove(&namespace);
            self.order.retain(|other| *other != namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Origin;

    fn notice(namespace: &str, number: usize) -> Notice {
        let origin = Origin {
            kind: "Service",
            namespace: namespace.into(),
            name: "web".into(),
            place: None,
        };
        let note = number.to_string();
        Notice { warns: true, reason: "Broken", action: "Route", origin, note }
    }

    #[test]
    fn the_notices_of_one_namespace_neither_delay_nor_displace_those_of_others() {
        let queue = NoticeQueue::default();
        (0..10 * MAX_WAITING).for_each(|number| queue.push(notice("evil", number)));
        (0..3).for_each(|number| queue.push(notice("shop", number)));
        let taken: Vec<Notice> = std::iter::from_fn(|| queue.try_pop()).collect();
        assert_eq!(taken.len(), MAX_WAITING);
        let of_shop = taken.iter().take(6).filter(|notice| &*notice.origin.namespace == "shop");
        let notes: Vec<&str> = of_shop.map(|notice| &*notice.note).collect();
        assert_eq!(notes, ["0", "1", "2"], "in order, by turns with the others");
    }

    #[tokio::test]
    async fn a_notice_that_is_added_later_is_waited_for() {
        let queue = NoticeQueue::default();
        let (taken, ()) = tokio::join!(queue.pop(), async { queue.push(notice("shop", 1)) });
        assert_eq!(taken, notice("shop", 1));
        assert_eq!(queue.try_pop(), None);
    }
}
