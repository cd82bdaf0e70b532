//! Where workers leave questions for the control runtime: a bounded queue, and as many answered at
//! a time as may be.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

/// What those who ask know of it.
pub(crate) struct Desk<Question, Answer>(mpsc::Sender<Left<Question, Answer>>);

/// The questions that were left, in their order.
pub(crate) struct Queue<Question, Answer>(mpsc::Receiver<Left<Question, Answer>>);

struct Left<Question, Answer> {
    question: Question,
    answer: oneshot::Sender<Answer>,
}

/// The queue is full, or nobody answers any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Busy;

/// A desk at which at most `waiting` questions wait to be begun.
pub(crate) fn open<Question, Answer>(
    waiting: usize,
) -> (Desk<Question, Answer>, Queue<Question, Answer>) {
    let (sender, receiver) = mpsc::channel(waiting);
    (Desk(sender), Queue(receiver))
}

// === impl Desk ===

impl<Question, Answer> Desk<Question, Answer> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// Too many wait already.
    pub(crate) async fn ask(&self, question: Question) -> Result<Answer, Busy> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(Left { question, answer }).map_err(|_| Busy)?;
        answered.await.map_err(|_| Busy)
    }
}

impl<Question, Answer> Clone for Desk<Question, Answer> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

// === impl Queue ===

impl<Question: Send + 'static, Answer: Send + 'static> Queue<Question, Answer> {
    /// Answers, `at_a_time` at a time, until nobody can ask any more: a task of the control plane.
    pub(crate) async fn serve<F>(mut self, at_a_time: usize, answer: impl Fn(Question) -> F)
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let slots = Arc::new(Semaphore::new(at_a_time));
        let mut answering = JoinSet::new();
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let Some(left) = self.0.recv().await else { return };
            let answered = answer(left.question);
            answering.spawn(async move {
                // Whoever asked may be gone.
                let _ = left.answer.send(answered.await);
                drop(slot);
            });
            while answering.try_join_next().is_some() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn as_many_are_answered_at_a_time_as_may_be_and_no_more_wait_than_may() {
        let (desk, queue) = open::<u32, u32>(4);
        let (working, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (release, _) = tokio::sync::watch::channel(false);
        let serving = tokio::spawn({
            let (working, most, release) =
                (Arc::clone(&working), Arc::clone(&most), release.clone());
            queue.serve(2, move |question| {
                let (working, most, mut released) =
                    (Arc::clone(&working), Arc::clone(&most), release.subscribe());
                async move {
                    most.fetch_max(working.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    released.wait_for(|released| *released).await.unwrap();
                    working.fetch_sub(1, Ordering::SeqCst);
                    question + 1
                }
            })
        });
        let mut begun: Vec<_> = (0..2).map(|question| Box::pin(desk.ask(question))).collect();
        while working.load(Ordering::SeqCst) < 2 {
            for asked in &mut begun {
                assert!(futures::poll!(asked).is_pending());
            }
            tokio::task::yield_now().await;
        }
        let mut waiting: Vec<_> = (2..6).map(|question| Box::pin(desk.ask(question))).collect();
        for asked in &mut waiting {
            assert!(futures::poll!(asked).is_pending());
        }
        assert_eq!(desk.ask(6).await, Err(Busy));
        release.send_replace(true);
        let answers = futures::future::join_all(begun.into_iter().chain(waiting)).await;
        assert_eq!(answers, (1..7).map(Ok).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 2);
        drop(desk);
        serving.await.unwrap();
    }
}
