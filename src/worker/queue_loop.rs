//! One slot: claims a job, sees it through, claims the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::SpanKind;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::broadcast;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::WorkerHealth;
use super::child::{ChildError, ChildProcess, ChildProgram, out_of_memory};
use super::publish::prepare;
use crate::config::Settings;
use crate::spec::child::{
    Command, JobInputs, Message, Order, StagedFile, StagedModel, TRIALS_ARTIFACT,
};
use crate::spec::job::Params;
use crate::spec::problem::Problem;
use crate::spec::result::JobResult;
use crate::store::events::NewEvent;
use crate::store::jobs::JobStatus;
use crate::store::metrics::NewPoint;
use crate::store::queue::{AttemptEnd, Claim, Report, Reported};
use crate::store::{ChangeKind, JobChange, Scope, Store, StoreError, remove_folder};
use crate::telemetry::Telemetry;
use crate::telemetry::traces::{Attributes, Span, attribute};

/// How often the queue is looked at when nothing is heard.
const POLL: Duration = Duration::from_secs(1);

/// How often what a child says is written down.
const FLUSH: Duration = Duration::from_millis(250);

/// As many rows are written down at once without waiting for the next flush.
const ROWS_AT_ONCE: usize = 500;

/// How often writing down the end of an attempt is tried before it is left to the lease.
const END_TRIES: u32 = 5;

/// One of the jobs that can run at the same time.
#[derive(Debug)]
pub(super) struct Slot {
    pub number: usize,
    pub store: Arc<Store>,
    pub settings: Arc<Settings>,
    pub program: ChildProgram,
    pub telemetry: Arc<Telemetry>,
    pub draining: CancellationToken,
    pub health: WorkerHealth,
}

/// What made the loop over a child's messages stop.
enum Outcome {
    Done {
        result: Box<JobResult>,
        artifacts: Vec<StagedFile>,
        models: Vec<StagedModel>,
    },
    Ended(AttemptEnd),
    /// The lease was lost: another worker has the job.
    LeaseLost,
}

/// What a child is at, as a span that ends when it is at something else.
#[derive(Debug, Default)]
struct Phase {
    name: String,
    span: Span,
}

impl Phase {
    fn follow(&mut self, message: &Message, process: &Span) {
        if let Message::Progress(progress) = message
            && progress.phase != self.name
        {
            self.name.clone_from(&progress.phase);
            let name = format!("phase {}", self.name);
            self.span = process.child(SpanKind::Internal, name, Vec::new());
        }
    }
}

/// What all spans of an attempt say.
fn about(claim: &Claim) -> Attributes {
    vec![
        attribute("sinter.job.id", claim.job.id.clone()),
        attribute("sinter.job.kind", claim.job.kind.as_str()),
        attribute("sinter.job.attempt", i64::from(claim.lease.attempt)),
    ]
}

impl Slot {
    pub async fn run(self) {
        let mut changes = self.store.changes();
        while !self.draining.is_cancelled() {
            self.health.tick(self.number);
            let owner = Uuid::now_v7().to_string();
            match self.store.claim_job(&owner, self.settings.lease()).await {
                Ok(Some(claim)) => self.attempt(claim).await,
                Ok(None) => {
                    tokio::select! {
                        () = self.draining.cancelled() => {}
                        () = sleep(POLL) => {}
                        () = something_queued(&mut changes) => {}
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the queue could not be read");
                    sleep(POLL).await;
                }
            }
        }
    }

    async fn attempt(&self, claim: Claim) {
        let started = Instant::now();
        let job_id = &claim.job.id;
        tracing::info!(job = %job_id, attempt = claim.lease.attempt, "job started");
        // Of the first claim only: a later one keeps the first one's time.
        let first = claim.job.started_at.as_deref().and_then(since);
        if first.is_some_and(|time| time < Duration::from_secs(1))
            && let Some(waited) = since(&claim.job.created_at)
        {
            self.telemetry.job_waited(waited);
            if let Some(since) = SystemTime::now().checked_sub(waited) {
                let parent = claim.job.traceparent.as_deref();
                let traces = &self.telemetry.traces;
                traces.waited(parent, since, "queue", about(&claim));
            }
        }
        let span = self.telemetry.traces.of_job(
            claim.job.traceparent.as_deref(),
            SpanKind::Consumer,
            "attempt",
            about(&claim),
        );
        let outcome = match self.run_child(&claim, &span).await {
            Ok(outcome) => outcome,
            Err(problem) => Outcome::Ended(AttemptEnd::Died(problem)),
        };
        let reported = match outcome {
            Outcome::LeaseLost => Ok(Reported::Refused),
            Outcome::Ended(end) => {
                if let AttemptEnd::Died(problem) | AttemptEnd::Failed(problem) = &end {
                    span.fail(&problem.to_string());
                }
                if matches!(end, AttemptEnd::Died(_)) {
                    self.telemetry.attempt_failed();
                }
                self.end(&claim, end).await
            }
            Outcome::Done {
                result,
                artifacts,
                models,
            } => {
                let _publishing = span.child(SpanKind::Internal, "publish", Vec::new());
                self.publish(&claim, *result, artifacts, models).await
            }
        };
        let status = match reported {
            Ok(Reported::Taken(status)) => status,
            Ok(Reported::Refused) => {
                tracing::warn!(job = %job_id, attempt = claim.lease.attempt,
                    "the lease was lost; what the attempt did does not count");
                return;
            }
            Err(error) => {
                tracing::error!(job = %job_id, %error,
                    "the end of an attempt could not be written down; its lease will run out");
                return;
            }
        };
        span.set(attribute("sinter.job.status", status.as_str()));
        tracing::info!(job = %job_id, status = status.as_str(), "attempt ended");
        if status.has_ended() {
            let kind = claim.job.kind.as_str();
            self.telemetry
                .job_ended(kind, status.as_str(), started.elapsed());
        }
        let removed = match status {
            JobStatus::Succeeded => self.store.remove_job_folder(job_id).await,
            // What a job staged that was canceled while it published; no other attempt has a folder of this name.
            _ => remove_folder(&self.store.job_staging_folder(job_id, &claim.lease.owner)).await,
        };
        if let Err(error) = removed {
            tracing::warn!(job = %job_id, %error, "files of an attempt stay behind");
        }
    }

    /// Writes down that an attempt ended. What no later one can use goes before, while the lease is this attempt's for certain: as
    /// soon as the end is written down, somebody may ask for another attempt.
    async fn end(&self, claim: &Claim, end: AttemptEnd) -> Result<Reported, StoreError> {
        let (store, job_id) = (&self.store, &claim.job.id);
        let (nothing, lease_time) = (Report::default(), self.settings.lease());
        match store.report(&claim.lease, &nothing, lease_time).await {
            Ok(Reported::Refused) => return Ok(Reported::Refused),
            Ok(Reported::Taken(_)) => {
                if let Err(error) = store.keep_checkpoint(job_id).await {
                    tracing::warn!(job = %job_id, %error, "files of an attempt stay behind");
                }
            }
            Err(error) => tracing::warn!(job = %job_id, %error, "can't renew the lease"),
        }
        let mut tries = 1;
        loop {
            match store.end_attempt(&claim.lease, &end).await {
                Err(error) if tries < END_TRIES => {
                    tracing::warn!(job = %job_id, %error, "trying again");
                    tries += 1;
                    sleep(POLL).await;
                }
                reported => return reported,
            }
        }
    }

    async fn order(&self, claim: &Claim) -> Result<Order, Problem> {
        let job = &claim.job;
        let internal = |error: StoreError| {
            tracing::error!(job = %job.id, %error, "a job could not be prepared");
            Problem::new(500, "internal_error", "the job could not be prepared")
        };
        let model = self
            .store
            .model(&Scope::All, &job.request.model.to_string())
            .await
            .map_err(internal)?
            .ok_or_else(|| gone("model"))?;
        let mut models = BTreeMap::new();
        let mut trials = None;
        if let Ok(params) = Params::parse(job.request.kind, job.request.params.clone()) {
            if let Some(id) = params.warm_start() {
                let artifacts = self
                    .store
                    .artifacts(&id.to_string())
                    .await
                    .map_err(internal)?;
                let found = artifacts
                    .into_iter()
                    .find(|file| file.name == TRIALS_ARTIFACT);
                let found = found.ok_or_else(|| gone("search"))?;
                trials = Some(self.store.blobs().path(&found.digest));
            }
            for (_, id) in params.models() {
                let found = self.store.model(&Scope::All, &id.to_string()).await;
                let found = found.map_err(internal)?;
                let found = found.ok_or_else(|| gone("model"))?;
                models.insert(id, self.store.blobs().path(&found.digest));
            }
        }
        let dataset = match job.request.dataset {
            None => None,
            Some(id) => {
                let found = self
                    .store
                    .dataset(&Scope::All, &id.to_string())
                    .await
                    .map_err(internal)?;
                let dataset = found.ok_or_else(|| gone("dataset"))?;
                Some(self.store.dataset_input(&dataset))
            }
        };
        let staging = self.store.job_staging_folder(&job.id, &claim.lease.owner);
        let checkpoint = self.store.checkpoint_folder(&job.id);
        remove_folder(&staging).await.map_err(internal)?;
        for folder in [&staging, &checkpoint] {
            tokio::fs::create_dir_all(folder)
                .await
                .map_err(|error| internal(StoreError::file("make the folder", folder)(error)))?;
        }
        Ok(Order::Run {
            inputs: Box::new(JobInputs {
                job: Uuid::parse_str(&job.id)
                    .map_err(|_| Problem::new(500, "internal_error", "the job has no UUID"))?,
                request: job.request.shown(),
                model: self.store.blobs().path(&model.digest),
                models,
                dataset,
                trials,
            }),
            staging,
            checkpoint,
        })
    }

    /// Runs the child to its end. An `Err` is a death that costs the attempt.
    async fn run_child(&self, claim: &Claim, span: &Span) -> Result<Outcome, Problem> {
        let mut changes = self.store.changes();
        let order = self.order(claim).await?;
        let process = span.child(SpanKind::Internal, "process", Vec::new());
        let mut phase = Phase::default();
        let mut child = self.program.start(&order).await.map_err(died)?;
        let lease_time = self.settings.lease();
        let mut report = Report::default();
        let mut heartbeat = interval(self.settings.heartbeat());
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut flush = interval(FLUSH);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let time_limit = Duration::from_secs(claim.job.request.timeout_seconds);
        let time_out = sleep(time_limit);
        tokio::pin!(time_out);
        let mut drain_deadline = None;
        let mut last_heard = Instant::now();

        let closing = loop {
            let mut look_for_cancel = false;
            let mut write_down = false;
            tokio::select! {
                message = child.next_message() => match message {
                    Ok(Some(message)) if message.is_closing() => break Some(message),
                    Ok(Some(Message::Alive)) => last_heard = Instant::now(),
                    Ok(Some(message)) => {
                        last_heard = Instant::now();
                        phase.follow(&message, &process);
                        note(&mut report, message);
                        write_down = report.events.len() + report.points.len() >= ROWS_AT_ONCE;
                    }
                    Ok(None) => break None,
                    Err(error @ ChildError::Malformed { .. }) => {
                        tracing::error!(job = %claim.job.id, %error, "ending the job");
                        child.kill().await;
                        self.last_report(claim, &report).await;
                        let problem = misspoken("a message of the job's process can't be read");
                        return Ok(Outcome::Ended(AttemptEnd::Failed(problem)));
                    }
                    Err(error) => {
                        child.kill().await;
                        return Err(died(error));
                    }
                },
                _ = flush.tick() => {
                    if let Some(problem) = child.excess() {
                        child.kill().await;
                        self.last_report(claim, &report).await;
                        return Ok(Outcome::Ended(AttemptEnd::Failed(problem)));
                    }
                    write_down = !report.is_empty();
                }
                _ = heartbeat.tick() => {
                    if last_heard.elapsed() > lease_time {
                        child.kill().await;
                        self.last_report(claim, &report).await;
                        return Err(silent(lease_time));
                    }
                    write_down = true;
                }
                () = cancel_requested(&mut changes, &claim.job.id) => look_for_cancel = true,
                () = &mut time_out => {
                    child.kill().await;
                    self.last_report(claim, &report).await;
                    return Ok(Outcome::Ended(AttemptEnd::Failed(timed_out(time_limit))));
                }
                () = self.draining.cancelled(), if drain_deadline.is_none() => {
                    drain_deadline = Some(tokio::time::Instant::now() + self.settings.drain());
                    if let Err(error) = child.ask(Command::Drain).await {
                        tracing::warn!(job = %claim.job.id, %error, "can't ask for a checkpoint");
                    }
                }
                () = until(drain_deadline) => {
                    tracing::warn!(job = %claim.job.id, "no checkpoint in time; killing the job");
                    child.kill().await;
                    self.last_report(claim, &report).await;
                    return Ok(Outcome::Ended(AttemptEnd::Drained));
                }
            }
            if !write_down && !look_for_cancel {
                continue;
            }
            self.health.tick(self.number);
            match self.store.report(&claim.lease, &report, lease_time).await {
                Ok(Reported::Taken(JobStatus::Canceling)) => {
                    child.kill().await;
                    return Ok(Outcome::Ended(AttemptEnd::Canceled));
                }
                Ok(Reported::Taken(_)) => report = Report::default(),
                Ok(Reported::Refused) => {
                    child.kill().await;
                    return Ok(Outcome::LeaseLost);
                }
                // What was to be written down is tried again with the next report.
                Err(error) => tracing::error!(job = %claim.job.id, %error, "can't report"),
            }
        };
        drop((phase, process));
        self.last_report(claim, &report).await;
        if closing.is_none() && self.draining.is_cancelled() {
            // Whoever stops the server may have signaled its children too.
            child.kill().await;
            return Ok(Outcome::Ended(AttemptEnd::Drained));
        }
        self.conclude(child, closing).await
    }

    /// What a closing message, or the end without one, makes of the attempt.
    async fn conclude(
        &self,
        child: ChildProcess,
        closing: Option<Message>,
    ) -> Result<Outcome, Problem> {
        let end = child.ended().await;
        match closing {
            Some(Message::Done {
                result,
                artifacts,
                models,
            }) => Ok(Outcome::Done {
                result,
                artifacts,
                models,
            }),
            Some(Message::Failed { problem }) => Ok(Outcome::Ended(AttemptEnd::Failed(problem))),
            Some(Message::Drained) => Ok(Outcome::Ended(AttemptEnd::Drained)),
            Some(_) => {
                let text = "the job's process answered another question than it was asked";
                Ok(Outcome::Ended(AttemptEnd::Failed(misspoken(text))))
            }
            None => {
                for line in &end.last_log_lines {
                    tracing::warn!(target: "sinter::child", "{line}");
                }
                if end.is_out_of_memory() {
                    let problem = out_of_memory(0);
                    return Ok(Outcome::Ended(AttemptEnd::Failed(problem)));
                }
                Err(Problem::new(500, "worker_died", end.explanation()))
            }
        }
    }

    /// Writes down what was said before the end. The end itself tells whether the lease holds.
    async fn last_report(&self, claim: &Claim, report: &Report) {
        let lease_time = self.settings.lease();
        if let Err(error) = self.store.report(&claim.lease, report, lease_time).await {
            tracing::error!(job = %claim.job.id, %error, "can't report");
        }
    }

    /// Gives signs of life for as long as it is polled.
    async fn stay_alive(&self, claim: &Claim) {
        let mut heartbeat = interval(self.settings.heartbeat());
        loop {
            heartbeat.tick().await;
            self.health.tick(self.number);
            self.last_report(claim, &Report::default()).await;
        }
    }

    /// Publishes what a child has made, with heartbeats while its files are read.
    async fn publish(
        &self,
        claim: &Claim,
        result: JobResult,
        artifacts: Vec<StagedFile>,
        models: Vec<StagedModel>,
    ) -> Result<Reported, StoreError> {
        let preparing = prepare(
            &self.store,
            &claim.job,
            &claim.lease.owner,
            result,
            artifacts,
            models,
        );
        let prepared = tokio::select! {
            prepared = preparing => prepared,
            () = self.stay_alive(claim) => unreachable!("signs of life never end"),
        };
        let publication = match prepared {
            Ok(publication) => publication,
            Err(error) => {
                tracing::error!(job = %claim.job.id, %error, "can't publish");
                let problem = Problem::new(500, "internal_error", "the files can't be published");
                return self.end(claim, AttemptEnd::Died(problem)).await;
            }
        };
        let completing = self.store.complete_job(&claim.lease, &publication);
        let completed = tokio::select! {
            completed = completing => completed,
            () = self.stay_alive(claim) => unreachable!("signs of life never end"),
        };
        match completed {
            Err(error) => {
                tracing::error!(job = %claim.job.id, %error, "can't publish");
                let problem = Problem::new(500, "internal_error", "the files can't be published");
                self.end(claim, AttemptEnd::Died(problem)).await
            }
            reported => reported,
        }
    }
}

fn note(report: &mut Report, message: Message) {
    match message {
        Message::Event {
            level,
            kind,
            text,
            data,
        } => report
            .events
            .push(NewEvent::new(level, &kind, text).with_data(data)),
        Message::Metric { name, step, value } => {
            report.points.push(NewPoint { name, step, value });
        }
        Message::Progress(progress) => report.progress = Some(progress),
        _ => unreachable!("closing messages are never noted"),
    }
}

fn gone(what: &str) -> Problem {
    let code = format!("{what}_not_found");
    Problem::new(422, &code, format!("the {what} of the job was deleted"))
}

/// A defect of Sinter's that another attempt would meet again.
fn misspoken(what: &str) -> Problem {
    let detail = format!("a defect in Sinter: {what}; the server's log has more");
    Problem::new(500, "child_protocol", detail)
}

fn died(error: ChildError) -> Problem {
    tracing::error!(%error, "a child process can't be run");
    Problem::new(500, "worker_died", "the job's process could not be run")
}

/// The process neither works nor ends: it hangs, or was stopped by a signal.
fn silent(limit: Duration) -> Problem {
    let detail = format!(
        "the job's process gave no sign of life for {} s (lease_seconds) and was killed",
        limit.as_secs()
    );
    Problem::new(500, "worker_died", detail)
}

fn timed_out(limit: Duration) -> Problem {
    let detail = format!(
        "the attempt ran for {} s, as long as timeout_seconds allows",
        limit.as_secs()
    );
    let mut problem = Problem::new(422, "timed_out", detail);
    problem.errors = vec![crate::spec::FieldError::new(
        "/timeout_seconds",
        "the job needs more time, or less to do",
    )];
    problem
}

/// Waits until a job is queued.
async fn something_queued(changes: &mut broadcast::Receiver<JobChange>) {
    loop {
        match changes.recv().await {
            Ok(change) if change.kind != ChangeKind::Queued => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
        }
    }
}

/// Waits until someone asks this job to stop, or may have asked unheard.
async fn cancel_requested(changes: &mut broadcast::Receiver<JobChange>, job_id: &str) {
    loop {
        match changes.recv().await {
            Ok(change) => {
                if change.kind == ChangeKind::CancelRequested && change.job_id == job_id {
                    return;
                }
            }
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            Err(broadcast::error::RecvError::Lagged(_)) => return,
        }
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Time since a moment that the database wrote down; `None` for one that the clock has not come to.
fn since(at: &str) -> Option<Duration> {
    let at = OffsetDateTime::parse(at, &Rfc3339).ok()?;
    (OffsetDateTime::now_utc() - at).try_into().ok()
}
