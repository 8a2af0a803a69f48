//! Places for so many at once, given to projects in turn: one that asks a hundred times keeps nobody else waiting for long.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Places, and who waits for one.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Mutex<Waiting>>);

#[derive(Debug)]
struct Waiting {
    free: usize,
    /// Projects in the order of their next turn, each with those that wait.
    projects: VecDeque<(String, VecDeque<oneshot::Sender<Turn>>)>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    /// `None` for one that was given on.
    turns: Option<Turns>,
}

impl Turns {
    pub fn new(places: usize) -> Self {
        Self(Arc::new(Mutex::new(Waiting {
            free: places,
            projects: VecDeque::new(),
        })))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> Turn {
        Turn {
            turns: Some(self.clone()),
        }
    }

    /// Waits for a place.
    pub async fn take(&self, project: &str) -> Turn {
        let turn = {
            let mut waiting = self.waiting();
            if waiting.free > 0 {
                waiting.free -= 1;
                return self.turn();
            }
            let (sender, turn) = oneshot::channel();
            match waiting.projects.iter_mut().find(|each| each.0 == project) {
                Some((_, others)) => others.push_back(sender),
                None => waiting
                    .projects
                    .push_back((project.to_owned(), VecDeque::from([sender]))),
            }
            turn
        };
        turn.await
            .expect("whoever waits is given a place in the end")
    }

    /// Gives a place to the next one that still waits.
    fn give(&self) {
        let mut waiting = self.waiting();
        while let Some((project, mut senders)) = waiting.projects.pop_front() {
            let next = senders.pop_front();
            if !senders.is_empty() {
                waiting.projects.push_back((project, senders));
            }
            match next.map(|sender| sender.send(self.turn())) {
                Some(Ok(())) => return,
                // It went away; the place is still here.
                Some(Err(mut turn)) => turn.turns = None,
                None => {}
            }
        }
        waiting.free += 1;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.give();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn a_project_that_asks_often_waits_for_those_that_ask_once() {
        let turns = Turns::new(1);
        let first = turns.take("a").await;
        let mut own: Vec<_> = (0..3).map(|_| Box::pin(turns.take("a"))).collect();
        for waiting in &mut own {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        let mut other = Box::pin(turns.take("b"));
        assert!(other.as_mut().now_or_never().is_none());
        drop(first);
        let second = own
            .remove(0)
            .now_or_never()
            .expect("the longest wait first");
        drop(second);
        let third = other
            .as_mut()
            .now_or_never()
            .expect("then the other project");
        // One that went away takes no place with it, whether it was given one or not.
        drop(own.remove(0));
        drop(third);
        drop(own);
        let last = turns.take("c").now_or_never();
        assert!(last.is_some());
    }
}
