//! Examples that were made once and are wanted again.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Examples that were made are kept where all of them together take no more than so many bytes.
const KEPT_BYTES: usize = 512 << 20;

/// Examples of one split as they were made, by how: `H` says how, `T` is an example.
#[derive(Debug)]
pub(super) struct Keeper<H, T> {
    all: Arc<Mutex<Ways<H, T>>>,
}

type Ways<H, T> = Vec<Arc<Kept<H, T>>>;

/// Those that were made in one way, as far as they have been asked for.
#[derive(Debug)]
pub(super) struct Kept<H, T> {
    how: H,
    examples: Vec<OnceLock<T>>,
}

impl<H, T> Clone for Keeper<H, T> {
    fn clone(&self) -> Self {
        Self {
            all: Arc::clone(&self.all),
        }
    }
}

impl<H, T> Default for Keeper<H, T> {
    fn default() -> Self {
        Self {
            all: Arc::default(),
        }
    }
}

impl<H: Clone + PartialEq, T> Keeper<H, T> {
    /// Where examples made in this way are kept; nowhere where `count` of them of `bytes` each would take too much
    /// memory.
    pub fn of(&self, how: &H, count: usize, bytes: usize) -> Option<Arc<Kept<H, T>>> {
        if count.saturating_mul(bytes) > KEPT_BYTES {
            return None;
        }
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = all.iter().find(|kept| kept.how == *how) {
            return Some(Arc::clone(kept));
        }
        let fresh = Arc::new(Kept {
            how: how.clone(),
            examples: (0..count).map(|_| OnceLock::new()).collect(),
        });
        all.push(Arc::clone(&fresh));
        Some(fresh)
    }
}

impl<H, T> Kept<H, T> {
    /// The example, made now if it has not been before.
    pub fn example(&self, index: usize, make: impl FnOnce() -> T) -> &T {
        self.examples[index].get_or_init(make)
    }
}
