//! One HTTP/1.1 connection: its transport with both halves, shared by the handles of one task.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;

use super::inbound::Inbound;
use super::outbound::Outbound;

/// A transport with what is read from it and written to it.
#[derive(Debug)]
pub(crate) struct Connection<T> {
    pub(crate) io: T,
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
}

/// A handle to a connection. The source and the sink of an exchange have one each, and are polled
/// by one task.
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

    /// The connection, for the length of one poll: never held over an `await`.
    pub(crate) fn borrow(&self) -> RefMut<'_, Connection<T>> {
        self.0.borrow_mut()
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}
