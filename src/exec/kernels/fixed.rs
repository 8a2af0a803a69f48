//! Weights that do not change, as products read them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::flex::FlexTensor;

use super::plain;
use super::product::{Factor, Matrices};
use crate::exec::value::Value;

thread_local! {
    static AT_HAND: RefCell<Option<Arc<Fixed>>> = const { RefCell::new(None) };
}

/// Tensors whose elements stay as they are, and the factors that were made of them.
#[derive(Debug)]
pub(in crate::exec) struct Fixed {
    /// By the place of the elements in memory, which is theirs as long as the tensor is held here.
    tensors: HashMap<usize, Held>,
}

#[derive(Debug)]
struct Held {
    _tensor: FlexTensor,
    factors: Mutex<Vec<Arc<Factor>>>,
}

impl Fixed {
    /// Those of the values that are on the processor and not recorded.
    pub fn of<'a>(values: impl Iterator<Item = &'a Value>) -> Self {
        let tensors = values.filter_map(plain).map(|tensor| {
            let held = Held {
                _tensor: tensor.clone(),
                factors: Mutex::default(),
            };
            (tensor.storage::<f32>().as_ptr().addr(), held)
        });
        Self {
            tensors: tensors.collect(),
        }
    }

    /// Runs `work`, in which products on this thread keep the factors that they make of these tensors.
    pub fn during<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> R {
        struct Before(Option<Arc<Fixed>>);
        impl Drop for Before {
            fn drop(&mut self) {
                AT_HAND.set(self.0.take());
            }
        }
        let _before = Before(AT_HAND.replace(Some(self.clone())));
        work()
    }
}

/// The factor for `rows` rows that was kept, or is now, of a tensor that does not change.
pub(super) fn factor(b: &Matrices, rows: usize) -> Option<Arc<Factor>> {
    let fixed = AT_HAND.with_borrow(Clone::clone)?;
    let held = fixed.tensors.get(&b.elements().as_ptr().addr())?;
    let mut factors = held.factors.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = factors.iter().find(|known| known.is_of(b, rows)) {
        return Some(known.clone());
    }
    let made = Arc::new(Factor::new(b, rows));
    factors.push(made.clone());
    Some(made)
}
