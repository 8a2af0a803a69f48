//! Every order in which claims, signs of life, ends, cancellations, retries, restarts and jumps of the clock can come,
//! tried at small size over the functions that the store itself runs.

use stateright::{Checker as _, Model, Property};

use super::transition::{End, JobState, broken_rule};
use crate::store::jobs::JobStatus;

const WORKERS: usize = 2;
const MAX_ATTEMPTS: u32 = 2;
const MOST_CLAIMS: u8 = 4;
const MOST_RETRIES: u8 = 1;
/// Hours of the clock; it jumps from any to any.
const HOURS: i64 = 3;
const LEASE: i64 = 1;

/// One job, and what two workers believe about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    job: JobState<u8>,
    now: i64,
    /// Attempt and owner of the claim that each worker thinks it has.
    beliefs: [Option<(u32, u8)>; WORKERS],
    claims: u8,
    retries: u8,
    completions: u8,
    late_refused: bool,
    wrongly_taken: bool,
    broken: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Claim(usize),
    Renew(usize),
    Complete(usize),
    End(usize, End),
    Cancel,
    Retry,
    /// The server ends with all its workers and starts again.
    Restart,
    Jump(i64),
}

struct Queue;

impl World {
    /// Takes a change of the job, if there is one.
    fn change(&mut self, after: Option<JobState<u8>>) -> bool {
        let Some(after) = after else {
            return false;
        };
        self.broken = self.broken.or(broken_rule(Some(&self.job), &after));
        self.job = after;
        true
    }
}

impl Model for Queue {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            job: JobState::new(MAX_ATTEMPTS),
            now: 0,
            beliefs: [None; WORKERS],
            claims: 0,
            retries: 0,
            completions: 0,
            late_refused: false,
            wrongly_taken: false,
            broken: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (worker, belief) in world.beliefs.iter().enumerate() {
            if belief.is_some() {
                actions.extend([Action::Renew(worker), Action::Complete(worker)]);
                let ends = [End::Failed, End::Died, End::Canceled, End::Drained];
                actions.extend(ends.map(|end| Action::End(worker, end)));
            } else if world.claims < MOST_CLAIMS {
                actions.push(Action::Claim(worker));
            }
        }
        actions.extend([Action::Cancel, Action::Retry, Action::Restart]);
        actions.extend((0..HOURS).map(Action::Jump));
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        match action {
            // As the store does it: what has expired is dealt with first.
            Action::Claim(worker) => {
                next.change(world.job.expired(world.now));
                let owner = world.claims + 1;
                if next.change(next.job.claimed(owner, world.now + LEASE)) {
                    next.claims = owner;
                    next.beliefs[worker] = Some((next.job.attempt, owner));
                }
            }
            Action::Renew(worker) => {
                let (attempt, owner) = world.beliefs[worker]?;
                if !next.change(world.job.renewed(attempt, &owner, world.now + LEASE)) {
                    next.beliefs[worker] = None;
                }
            }
            Action::Complete(worker) => {
                let (attempt, owner) = world.beliefs[worker]?;
                next.beliefs[worker] = None;
                if next.change(world.job.completed(attempt, &owner)) {
                    next.completions += 1;
                    next.wrongly_taken |= owner != world.claims;
                } else if !next.change(world.job.ended(attempt, &owner, End::Canceled)) {
                    next.late_refused = true;
                }
            }
            Action::End(worker, end) => {
                let (attempt, owner) = world.beliefs[worker]?;
                next.beliefs[worker] = None;
                if next.change(world.job.ended(attempt, &owner, end)) {
                    next.wrongly_taken |= owner != world.claims;
                }
            }
            Action::Cancel => {
                next.change(world.job.cancel_requested());
            }
            Action::Retry => {
                if world.retries < MOST_RETRIES && next.change(world.job.retried()) {
                    next.retries += 1;
                }
            }
            Action::Restart => {
                next.beliefs = [None; WORKERS];
                next.change(world.job.released());
            }
            Action::Jump(now) => next.now = now,
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no rule is broken", |_, world: &World| {
                world.broken.is_none()
            }),
            Property::always(
                "one completion is taken for each run",
                |_, world: &World| world.completions <= 1,
            ),
            Property::always("only the last claim is heard", |_, world: &World| {
                !world.wrongly_taken
            }),
            Property::always(
                "a job runs only under a claim that was made",
                |_, world: &World| match &world.job.lease {
                    Some(term) => term.owner == world.claims,
                    None => true,
                },
            ),
            Property::sometimes(
                "a job succeeds at its second attempt",
                |_, world: &World| {
                    world.job.status == JobStatus::Succeeded && world.job.attempt == 2
                },
            ),
            Property::sometimes("a job fails for good", |_, world: &World| {
                world.job.status == JobStatus::Failed && world.job.attempt == MAX_ATTEMPTS
            }),
            Property::sometimes("a job is canceled while it runs", |_, world: &World| {
                world.job.status == JobStatus::Canceled && world.job.attempt > 0
            }),
            Property::sometimes("a late completion is refused", |_, world: &World| {
                world.late_refused
            }),
        ]
    }
}

#[test]
fn no_order_of_events_breaks_a_promise_of_the_queue() {
    let checker = Queue.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    assert!(
        checker.unique_state_count() > 3_000,
        "only {} states were reached",
        checker.unique_state_count()
    );
}
