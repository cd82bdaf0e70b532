//! Tasks for the streams of HTTP/2, each used for one stream after the other.
//!
//! The task of a request has several kilobytes. To allocate and free one for each stream costs some
//! thousand instructions: allocators keep few blocks of that size at hand.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::task::spawn_local;

/// How many tasks wait for a stream at most: what many connections at once have left behind.
const MAX_WAITING: usize = 256;

/// The tasks of one listener of one worker that wait for a stream.
pub(crate) struct StreamTasks<J> {
    waiting: RefCell<Vec<Rc<Seat<J>>>>,
}

/// Where a task gets its next job.
struct Seat<J> {
    job: Cell<Option<J>>,
    waker: Cell<Option<Waker>>,
}

// === impl StreamTasks ===

impl<J: 'static> StreamTasks<J> {
    /// Does a job in a task that waits, else in a new one. Must be called on a local runtime.
    ///
    /// `work` is what all jobs of these tasks have in common.
    pub(super) fn start<F>(self: &Rc<Self>, job: J, work: fn(J) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let waiting = self.waiting.borrow_mut().pop();
        match waiting {
            Some(seat) => seat.assign(job),
            None => {
                let seat = Rc::new(Seat { job: Cell::new(Some(job)), waker: Cell::new(None) });
                spawn_local(Rc::clone(self).run(seat, work));
            }
        }
    }

    async fn run<F: Future<Output = ()>>(self: Rc<Self>, seat: Rc<Seat<J>>, work: fn(J) -> F) {
        loop {
            let job = poll_fn(|cx| seat.poll_job(cx)).await;
            work(job).await;
            let mut waiting = self.waiting.borrow_mut();
            if waiting.len() == MAX_WAITING {
                return;
            }
            waiting.push(Rc::clone(&seat));
        }
    }
}

impl<J> Default for StreamTasks<J> {
    fn default() -> Self {
        Self { waiting: RefCell::default() }
    }
}

// === impl Seat ===

impl<J> Seat<J> {
    fn assign(&self, job: J) {
        self.job.set(Some(job));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll_job(&self, cx: &mut Context<'_>) -> Poll<J> {
        if let Some(job) = self.job.take() {
            return Poll::Ready(job);
        }
        self.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, yield_now};

    use super::*;

    /// A job: where it is counted, and whether it panics.
    type Job = (Rc<Cell<usize>>, bool);

    async fn work((done, panics): Job) {
        yield_now().await;
        assert!(!panics, "asked for");
        done.set(done.get() + 1);
    }

    /// Gives each task a turn, and another one: a set polls some dozens of tasks at a time.
    async fn settle() {
        for _ in 0..MAX_WAITING {
            yield_now().await;
        }
    }

    /// Runs a test with tasks, and the number of jobs that are done.
    async fn with_tasks(test: impl AsyncFnOnce(&Rc<StreamTasks<Job>>, &Rc<Cell<usize>>)) {
        LocalSet::new().run_until(test(&Rc::default(), &Rc::default())).await;
    }

    #[tokio::test]
    async fn a_task_is_used_again() {
        with_tasks(async |tasks, done| {
            for turn in 1..=3 {
                for _ in 0..5 {
                    tasks.start((Rc::clone(done), false), work);
                }
                settle().await;
                assert_eq!(done.get(), 5 * turn);
                assert_eq!(tasks.waiting.borrow().len(), 5);
            }
        })
        .await;
    }

    #[tokio::test]
    async fn as_many_wait_as_may() {
        with_tasks(async |tasks, done| {
            for _ in 0..2 * MAX_WAITING {
                tasks.start((Rc::clone(done), false), work);
            }
            settle().await;
            assert_eq!(done.get(), 2 * MAX_WAITING);
            assert_eq!(tasks.waiting.borrow().len(), MAX_WAITING);
        })
        .await;
    }

    #[tokio::test]
    async fn a_task_that_panicked_gets_no_further_job() {
        with_tasks(async |tasks, done| {
            tasks.start((Rc::clone(done), true), work);
            settle().await;
            assert!(tasks.waiting.borrow().is_empty());
            tasks.start((Rc::clone(done), false), work);
            settle().await;
            assert_eq!(done.get(), 1);
        })
        .await;
    }
}
