//! What can happen to a job: every change of its status, as functions that know no database.
//!
//! The store reads a [`JobState`], applies one of these to it and writes the state back in the same transaction;
//! `proof.rs` explores the same functions exhaustively.

use crate::store::jobs::JobStatus;

/// What the queue knows of a job. `Owner` tells claims apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JobState<Owner = String> {
    pub status: JobStatus,
    /// Attempts used, a running one included.
    pub attempt: u32,
    pub max_attempts: u32,
    pub lease: Option<Term<Owner>>,
}

/// Who runs a job, and until when without another sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Term<Owner> {
    pub owner: Owner,
    /// Milliseconds of the store's clock.
    pub expires_at: i64,
}

/// How an attempt came to an end other than success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// Another attempt would fail too.
    Failed,
    /// It may be tried again while attempts are left.
    Died,
    /// It was stopped because someone asked for it.
    Canceled,
    /// The server stops; the attempt does not count.
    Drained,
}

impl<Owner: Clone + PartialEq> JobState<Owner> {
    /// Queued, and never run.
    pub fn new(max_attempts: u32) -> Self {
        Self {
            status: JobStatus::Queued,
            attempt: 0,
            max_attempts,
            lease: None,
        }
    }

    /// Begins an attempt of a queued job.
    pub fn claimed(&self, owner: Owner, expires_at: i64) -> Option<Self> {
        (self.status == JobStatus::Queued).then(|| Self {
            status: JobStatus::Running,
            attempt: self.attempt + 1,
            lease: Some(Term { owner, expires_at }),
            ..self.clone()
        })
    }

    /// Whether this claim is the one that runs the job now. Everything that an attempt says is refused otherwise: the
    /// owner is the fencing token.
    pub fn is_held(&self, attempt: u32, owner: &Owner) -> bool {
        let held = self.lease.as_ref();
        self.attempt == attempt && held.is_some_and(|term| term.owner == *owner)
    }

    /// After a sign of life.
    pub fn renewed(&self, attempt: u32, owner: &Owner, expires_at: i64) -> Option<Self> {
        self.is_held(attempt, owner).then(|| Self {
            lease: Some(Term {
                owner: owner.clone(),
                expires_at,
            }),
            ..self.clone()
        })
    }

    /// After a success, unless the job was canceled meanwhile: nothing is published then.
    pub fn completed(&self, attempt: u32, owner: &Owner) -> Option<Self> {
        (self.status == JobStatus::Running && self.is_held(attempt, owner))
            .then(|| self.let_go(JobStatus::Succeeded, self.attempt))
    }

    /// After an attempt that did not succeed.
    pub fn ended(&self, attempt: u32, owner: &Owner, end: End) -> Option<Self> {
        if !self.is_held(attempt, owner) {
            return None;
        }
        let canceling = self.status == JobStatus::Canceling;
        let (status, used) = match end {
            _ if canceling => (JobStatus::Canceled, self.attempt),
            End::Canceled => (JobStatus::Canceled, self.attempt),
            End::Failed => (JobStatus::Failed, self.attempt),
            End::Died => (self.after_death(), self.attempt),
            End::Drained => (JobStatus::Queued, self.attempt - 1),
        };
        Some(self.let_go(status, used))
    }

    /// After a silence longer than the lease.
    pub fn expired(&self, now: i64) -> Option<Self> {
        let term = self.lease.as_ref()?;
        (term.expires_at <= now).then(|| match self.status {
            JobStatus::Canceling => self.let_go(JobStatus::Canceled, self.attempt),
            _ => self.let_go(self.after_death(), self.attempt),
        })
    }

    /// After the end of the server that ran it, which costs no attempt.
    pub fn released(&self) -> Option<Self> {
        match self.status {
            JobStatus::Canceling => Some(self.let_go(JobStatus::Canceled, self.attempt)),
            JobStatus::Running => {
                Some(self.let_go(JobStatus::Queued, self.attempt.saturating_sub(1)))
            }
            _ => None,
        }
    }

    /// After someone asked for its end.
    pub fn cancel_requested(&self) -> Option<Self> {
        match self.status {
            JobStatus::Queued => Some(self.let_go(JobStatus::Canceled, self.attempt)),
            JobStatus::Running => Some(Self {
                status: JobStatus::Canceling,
                ..self.clone()
            }),
            _ => None,
        }
    }

    /// After someone asked to run it once more, with all its attempts.
    pub fn retried(&self) -> Option<Self> {
        matches!(self.status, JobStatus::Failed | JobStatus::Canceled)
            .then(|| self.let_go(JobStatus::Queued, 0))
    }

    fn after_death(&self) -> JobStatus {
        if self.attempt < self.max_attempts {
            JobStatus::Queued
        } else {
            JobStatus::Failed
        }
    }

    fn let_go(&self, status: JobStatus, attempt: u32) -> Self {
        Self {
            status,
            attempt,
            max_attempts: self.max_attempts,
            lease: None,
        }
    }
}

/// The first rule that a change of a job breaks; `None` as it should be. Debug builds check it at every write, the proof
/// at every step, `sinter check` (for what can be seen of one state) at every row.
pub fn broken_rule<Owner: Clone + PartialEq>(
    before: Option<&JobState<Owner>>,
    after: &JobState<Owner>,
) -> Option<&'static str> {
    let runs = matches!(after.status, JobStatus::Running | JobStatus::Canceling);
    if runs != after.lease.is_some() {
        return Some("a job has a lease exactly while it runs");
    }
    if after.attempt > after.max_attempts {
        return Some("a job has no more attempts than it may");
    }
    if runs && after.attempt == 0 {
        return Some("a job that runs is in an attempt");
    }
    let before = before?;
    if before.status.has_ended() && before != after {
        let again = before.status != JobStatus::Succeeded
            && (after.status, after.attempt) == (JobStatus::Queued, 0);
        if !again {
            return Some("an ended job changes only by being queued again");
        }
    }
    if after.attempt > before.attempt
        && (before.status, after.status) != (JobStatus::Queued, JobStatus::Running)
    {
        return Some("an attempt begins only with a claim");
    }
    let succeeded = after.status == JobStatus::Succeeded;
    if succeeded && !matches!(before.status, JobStatus::Running | JobStatus::Succeeded) {
        return Some("a job succeeds only out of running");
    }
    if before.status == JobStatus::Canceling
        && !matches!(after.status, JobStatus::Canceling | JobStatus::Canceled)
    {
        return Some("a job that was asked to stop is canceled");
    }
    None
}
