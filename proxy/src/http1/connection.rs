//! One HTTP/1.1 connection: its transport and both halves, shared by the handles of one task.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;

use super::inbound::Inbound;
use super::outbound::Outbound;

/// A transport with its read and write state.
#[derive(Debug)]
pub(crate) struct Connection<T> {
    pub(crate) io: T,
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
}

/// A handle to a connection. The source and the sink of an exchange have one each; the same task
/// polls both.
#[derive(Debug)]
pub(crate) struct Shared<T>(Rc<RefCell<Connection<T>>>);

// === impl Shared ===

impl<T> Shared<T> {
    pub(crate) fn new(io: T) -> Self {
        Self(Rc::new(RefCell::new(Connection {
            io,
            inbound: Inbound::new(),
            outbound: Outbound::new(),
        })))
    }

    /// Borrows the connection for one poll; must not be held across an `await`.
    pub(crate) fn borrow(&self) -> RefMut<'_, Connection<T>> {
        self.0.borrow_mut()
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}
