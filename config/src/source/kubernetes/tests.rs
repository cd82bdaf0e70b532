use std::time::Duration;

use super::*;

#[test]
fn joined_watches_are_synced_when_all_are_and_as_old_as_the_oldest() {
    let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let update =
        |synced, seconds| Update { synced, as_of: Some(time(seconds)), ..Update::default() };
    let mut joined = Joined::new(2);
    let first = joined.take(0, update(true, 100));
    assert!(!first.synced && first.as_of.is_none());
    let second = joined.take(1, update(true, 110));
    assert!(second.synced);
    assert_eq!(second.as_of, Some(time(100)));
    assert_eq!(joined.take(0, update(false, 120)).as_of, Some(time(110)));
}
