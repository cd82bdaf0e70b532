use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::oneshot;

use super::*;

/// A number, and the receiver of its result.
struct Item(u32, oneshot::Sender<u32>);

impl Queued for Item {
    fn is_abandoned(&self) -> bool {
        self.1.is_closed()
    }
}

impl Queued for u32 {
    fn is_abandoned(&self) -> bool {
        *self == 0
    }
}

const LIMITS: Limits = Limits { waiting: 8, concurrent: 4, rate: None };

fn client(last: u8) -> ClientNetwork {
    IpAddr::from([192, 0, 2, last]).into()
}

fn ask(
    queue: &FairQueue<Item>,
    class: Class,
    last: u8,
    number: u32,
) -> Result<oneshot::Receiver<u32>, Full> {
    let (sender, receiver) = oneshot::channel();
    queue.push(class, client(last), Item(number, sender)).map(|()| receiver)
}

fn state() -> State<u32> {
    State::new(None, Instant::now())
}

/// Starts all eligible items, and finishes each at once.
fn drained(state: &mut State<u32>) -> Vec<u32> {
    let mut begun = Vec::new();
    while let Next::Begin(item, class, client) = state.next(Instant::now(), 4) {
        begun.push(item);
        state.finish(class, client);
    }
    begun
}

#[test]
fn a_flood_of_one_client_leaves_room_for_others() {
    let mut state = state();
    for item in 1..=8 {
        assert!(state.push(Class::Anonymous, client(1), item, 8).0);
    }
    assert_eq!(state.push(Class::Anonymous, client(1), 9, 8), (false, vec![9]));
    assert_eq!(state.push(Class::Anonymous, client(2), 20, 8), (true, vec![8]));
    assert_eq!(state.push(Class::Anonymous, client(3), 30, 8), (true, vec![7]));
    for item in 21..=22 {
        assert!(state.push(Class::Anonymous, client(2), item, 8).0);
    }
    // 4 of one client, 3 of another: displacing one would not be fairer.
    assert_eq!(state.push(Class::Anonymous, client(2), 23, 8), (false, vec![23]));
    assert_eq!(drained(&mut state), [1, 20, 30, 2, 21, 3, 22, 4]);
}

#[test]
fn known_items_displace_anonymous_ones_and_never_the_other_way_round() {
    let mut state = state();
    for item in 1..=8 {
        assert!(state.push(Class::Anonymous, client(item as u8), item, 8).0);
    }
    for item in 11..=18 {
        assert!(state.push(Class::Known, client(1), item, 8).0);
    }
    assert_eq!(state.push(Class::Anonymous, client(9), 9, 8), (false, vec![9]));
    assert_eq!(state.push(Class::Known, client(1), 19, 8), (false, vec![19]));
    assert_eq!(state.push(Class::Known, client(2), 20, 8), (true, vec![18]));
}

#[test]
fn known_items_come_first_except_for_a_share() {
    let mut state = state();
    for item in 1..=20 {
        assert!(state.push(Class::Known, client(1), item, 99).0);
    }
    for item in 101..=103 {
        assert!(state.push(Class::Anonymous, client(2), item, 99).0);
    }
    let begun = drained(&mut state);
    let positions: Vec<_> = (0..begun.len()).filter(|position| begun[*position] > 100).collect();
    assert_eq!(positions, [7, 15, 22]);
}

#[test]
fn abandoned_items_are_dropped_first() {
    let mut state = state();
    for item in [1, 0, 2, 0] {
        assert!(state.push(Class::Anonymous, client(1), item, 4).0);
    }
    assert_eq!(state.push(Class::Anonymous, client(1), 3, 4), (true, vec![0, 0]));
    assert_eq!(drained(&mut state), [1, 2, 3]);
}

#[test]
fn slots_are_reserved_for_known_items_and_other_clients() {
    let mut state = state();
    let now = Instant::now();
    for item in 1..=4 {
        assert!(state.push(Class::Anonymous, client(1), item, 99).0);
        assert!(state.push(Class::Anonymous, client(2), 10 + item, 99).0);
        assert!(state.push(Class::Anonymous, client(3), 20 + item, 99).0);
        assert!(state.push(Class::Anonymous, client(4), 30 + item, 99).0);
    }
    let mut begun = Vec::new();
    while let Next::Begin(item, ..) = state.next(now, 4) {
        begun.push(item);
    }
    assert_eq!(begun, [1, 11, 21], "one of each client, and one slot stays free");
    assert!(state.push(Class::Known, client(1), 100, 99).0);
    assert!(matches!(state.next(now, 4), Next::Begin(100, ..)));
    assert!(matches!(state.next(now, 4), Next::Wait(None)));
    state.finish(Class::Anonymous, client(2));
    assert!(matches!(state.next(now, 4), Next::Begin(31, ..)), "the next client's turn");
}

#[tokio::test(start_paused = true)]
async fn the_concurrency_limit_holds_and_a_full_queue_rejects() {
    let queue = FairQueue::new("test", LIMITS);
    let most = Arc::new(AtomicUsize::new(0));
    let serving = tokio::spawn({
        let (queue, working, most) = (queue.clone(), Arc::default(), Arc::clone(&most));
        async move {
            queue
                .serve(move |Item(number, answer)| {
                    let (working, most): (Arc<AtomicUsize>, _) =
                        (Arc::clone(&working), Arc::clone(&most));
                    async move {
                        most.fetch_max(
                            working.fetch_add(1, Ordering::SeqCst) + 1,
                            Ordering::SeqCst,
                        );
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        working.fetch_sub(1, Ordering::SeqCst);
                        let _ = answer.send(number + 1);
                    }
                })
                .await;
        }
    });
    let first: Vec<_> = (0..4).map(|n| ask(&queue, Class::Known, 1, n).unwrap()).collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(queue.counts().waiting(), 0);
    let then: Vec<_> = (4..12).map(|n| ask(&queue, Class::Known, 1, n).unwrap()).collect();
    assert_eq!(ask(&queue, Class::Known, 1, 12).unwrap_err(), Full);
    assert_eq!((queue.counts().waiting(), queue.counts().rejected()), (8, 1));
    let answers = futures::future::join_all(first.into_iter().chain(then)).await;
    assert_eq!(answers, (1..13).map(Ok).collect::<Vec<_>>());
    assert_eq!(most.load(Ordering::SeqCst), 4);
    assert_eq!(queue.counts().waiting(), 0);
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn displaced_and_failed_items_free_their_slots() {
    let queue = FairQueue::new("test", Limits { waiting: 1, concurrent: 1, rate: None });
    let first = ask(&queue, Class::Anonymous, 1, 1).unwrap();
    let known = ask(&queue, Class::Known, 2, 2).unwrap();
    assert!(first.await.is_err(), "it was displaced");
    let serving = tokio::spawn({
        let queue = queue.clone();
        async move { queue.serve(|Item(_, _answer)| async { panic!("as the test wants") }).await }
    });
    assert!(known.await.is_err());
    let next = ask(&queue, Class::Anonymous, 1, 3).unwrap();
    assert!(next.await.is_err(), "it was started, too");
    assert_eq!(queue.counts().rejected(), 1);
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn the_rate_limit_holds() {
    let rate = NonZeroU32::new(10);
    let queue = FairQueue::new("test", Limits { waiting: 1000, concurrent: 100, rate });
    let serving = tokio::spawn({
        let queue = queue.clone();
        async move {
            queue
                .serve(|Item(number, answer)| async move {
                    let _ = answer.send(number);
                })
                .await;
        }
    });
    let start = Instant::now();
    let crowd: Vec<_> = (0..100).map(|n| ask(&queue, Class::Anonymous, 1, n).unwrap()).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let known = ask(&queue, Class::Known, 2, 1).unwrap();
    let asked = Instant::now();
    known.await.unwrap();
    assert!(asked.elapsed() < Duration::from_millis(10), "known callers have a reserve");
    futures::future::join_all(crowd).await;
    assert!(start.elapsed() >= Duration::from_secs(9), "{:?}", start.elapsed());
    serving.abort();
}
