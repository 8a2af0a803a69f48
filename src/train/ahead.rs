//! Work that is made ready while the work before it is done.

use std::ops::Range;
use std::sync::mpsc::sync_channel;

/// Calls `work` with what `make` makes of each index, in their order, until it fails. One thread of its own makes what
/// comes next, one or two pieces ahead.
pub(super) fn ahead<T: Send, E>(
    indices: Range<usize>,
    make: impl Fn(usize) -> T + Sync,
    mut work: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    std::thread::scope(|scope| {
        let (send, made) = sync_channel(1);
        let count = indices.len();
        let make = &make;
        let maker = scope.spawn(move || {
            // Nobody listens any more once `work` has failed.
            indices
                .map(make)
                .try_for_each(|piece| send.send(piece))
                .ok()
        });
        let mut done = 0;
        for piece in made {
            work(piece)?;
            done += 1;
        }
        if done < count
            && let Err(panic) = maker.join()
        {
            std::panic::resume_unwind(panic);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_their_order_until_one_fails() {
        let mut seen = Vec::new();
        let found: Result<(), usize> = ahead(
            3..100,
            |index| index * 2,
            |piece| {
                seen.push(piece);
                match piece {
                    12 => Err(piece),
                    _ => Ok(()),
                }
            },
        );
        assert_eq!((found, seen), (Err(12), vec![6, 8, 10, 12]));
    }

    #[test]
    fn a_panic_keeps_its_words() {
        let make = |index: usize| assert_ne!(index, 2, "the disk is gone");
        let found = std::panic::catch_unwind(|| ahead(0..4, make, |()| Ok::<(), ()>(())));
        let words = found.unwrap_err().downcast::<String>().unwrap();
        assert!(words.contains("the disk is gone"), "{words}");
    }
}
