//! Who may take one more of a limited number of places.
//!
//! The first half of the places is for whoever comes first. In the second half, one who has some gets
//! another one only while more are free than that: the last one is for somebody who has none.

/// Whether one who has `own` of the `taken` places gets another one of `limit`.
pub(crate) fn has_place(limit: usize, taken: usize, own: usize) -> bool {
    let free = limit.saturating_sub(taken);
    free > limit / 2 || own < free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_all_that_they_get_leaves_half_of_the_rest_to_the_next() {
        let mut taken = 0;
        let mut fill = || {
            let before = taken;
            while has_place(64, taken, taken - before) {
                taken += 1;
            }
            taken - before
        };
        assert_eq!([(); 7].map(|()| fill()), [32, 16, 8, 4, 2, 1, 1]);
        assert_eq!(fill(), 0);
    }
}
