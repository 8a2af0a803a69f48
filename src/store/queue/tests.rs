use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;
use crate::spec::model::{ModelFormat, ModelSummary};
use crate::spec::problem::parse;
use crate::spec::result::{Environment, Measurement};
use crate::store::blobs::digest_file;
use crate::store::jobs::{Cancellation, JobFilter, NewJob, Retry, Submission};
use crate::store::{DEFAULT_PROJECT, PageRequest, Scope, StagingFolder};
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(60);
const ALREADY_OVER: Duration = Duration::ZERO;

async fn open() -> (tempfile::TempDir, Arc<Store>, Uuid) {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(folder.path()).await.unwrap());
    let model = Uuid::now_v7();
    let (_staging, new) = new_model(&store, model, None).await;
    store
        .create_model(DEFAULT_PROJECT, &new, None)
        .await
        .unwrap();
    (folder, store, model)
}

async fn new_model(store: &Store, id: Uuid, job_id: Option<String>) -> (StagingFolder, NewModel) {
    let staging = store.staging_folder().unwrap();
    let path = staging.path().join("model.onnx");
    std::fs::write(&path, id.as_bytes()).unwrap();
    let new = NewModel {
        id: id.to_string(),
        name: "lenet".to_owned(),
        format: ModelFormat::Onnx,
        file: digest_file(&path).await.unwrap(),
        parent_id: None,
        job_id,
        tags: BTreeMap::new(),
        summary: ModelSummary {
            opset: Some(17),
            producer: String::new(),
            parameters: 1,
            nonzero_parameters: 1,
            macs: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
            operators: BTreeMap::new(),
            trainable: true,
            not_trainable_because: None,
            unsupported_operators: Vec::new(),
            tokenizer: None,
            expects: None,
        },
    };
    (staging, new)
}

async fn submit(store: &Store, model: Uuid, extra: serde_json::Value) -> String {
    let mut body = json!({"kind": "prune", "model": model,
        "params": {"target": {"macs_ratio": 0.5}}});
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    let id = Uuid::now_v7().to_string();
    let new = NewJob {
        id: id.clone(),
        project: DEFAULT_PROJECT.to_owned(),
        request: parse(body).unwrap(),
        inputs: BTreeSet::from([model.to_string()]),
        keep: None,
        traceparent: None,
    };
    let submission = store.submit_job(new).await.unwrap();
    assert!(matches!(submission, Submission::Queued(_)));
    id
}

async fn claim(store: &Store, lease_time: Duration) -> Option<Claim> {
    let owner = Uuid::now_v7().to_string();
    store.claim_job(&owner, lease_time).await.unwrap()
}

fn publication(new_model: Option<NewModel>) -> Publication {
    Publication {
        result: JobResult {
            model: None,
            before: Measurement {
                parameters: 1,
                nonzero_parameters: 1,
                macs: None,
                size_bytes: 1,
                compressed_bytes: 1,
                latency_ms: None,
                metrics: BTreeMap::new(),
                quality: None,
            },
            after: None,
            change: None,
            training: None,
            prune: None,
            distill: None,
            search: None,
            steps: Vec::new(),
            warnings: Vec::new(),
            environment: Environment {
                version: "0".to_owned(),
                device: "cpu".to_owned(),
                seed: 0,
                data: None,
                sandbox: None,
            },
        },
        artifacts: new_model
            .iter()
            .map(|model| NewArtifact {
                name: "model.onnx".to_owned(),
                media_type: "application/octet-stream".to_owned(),
                file: model.file.clone(),
            })
            .collect(),
        new_models: new_model.into_iter().collect(),
    }
}

#[tokio::test]
async fn a_higher_priority_goes_first_and_then_the_older_job() {
    let (_folder, store, model) = open().await;
    let old = submit(&store, model, json!({})).await;
    let new = submit(&store, model, json!({})).await;
    let urgent = submit(&store, model, json!({"priority": 5})).await;
    let position = store
        .job(&Scope::All, &new)
        .await
        .unwrap()
        .unwrap()
        .queue_position;
    assert_eq!(position, Some(3));
    for expected in [urgent, old, new] {
        assert_eq!(claim(&store, LONG).await.unwrap().job.id, expected);
    }
    assert_eq!(claim(&store, LONG).await, None);
}

#[tokio::test]
async fn two_claimers_never_get_the_same_job() {
    let (_folder, store, model) = open().await;
    for _ in 0..20 {
        submit(&store, model, json!({})).await;
    }
    let claimers: Vec<_> = (0..4)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut claimed = Vec::new();
                while let Some(next) = claim(&store, LONG).await {
                    claimed.push(next.job.id);
                }
                claimed
            })
        })
        .collect();
    let mut all = Vec::new();
    for claimer in claimers {
        all.extend(claimer.await.unwrap());
    }
    assert_eq!(all.len(), 20);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 20);
}

#[tokio::test]
async fn a_late_workers_heartbeat_and_completion_are_refused() {
    let (_folder, store, model) = open().await;
    let id = submit(&store, model, json!({})).await;
    let late = claim(&store, ALREADY_OVER).await.unwrap();
    let current = claim(&store, LONG).await.unwrap();
    assert_eq!(current.job.id, id);
    assert_eq!(current.lease.attempt, 2);
    let late_progress = Report {
        progress: Some(Progress {
            fraction: 0.9,
            ..Progress::default()
        }),
        ..Report::default()
    };
    let heartbeat = store.report(&late.lease, &late_progress, LONG).await;
    assert_eq!(heartbeat.unwrap(), Reported::Refused);
    let (_staging, made) = new_model(&store, Uuid::now_v7(), Some(id.clone())).await;
    let completion = store
        .complete_job(&late.lease, &publication(Some(made.clone())))
        .await;
    assert_eq!(completion.unwrap(), Reported::Refused);
    let end = store.end_attempt(&late.lease, &AttemptEnd::Drained).await;
    assert_eq!(end.unwrap(), Reported::Refused);
    let job = store.job(&Scope::All, &id).await.unwrap().unwrap();
    assert_eq!((job.status, job.progress), (JobStatus::Running, None));
    assert_eq!(store.model(&Scope::All, &made.id).await.unwrap(), None);

    let completion = store.complete_job(&current.lease, &publication(None)).await;
    assert_eq!(completion.unwrap(), Reported::Taken(JobStatus::Succeeded));
}

#[tokio::test]
async fn a_completion_is_accepted_once() {
    let (_folder, store, model) = open().await;
    let id = submit(&store, model, json!({})).await;
    let claimed = claim(&store, LONG).await.unwrap();
    let (_staging, made) = new_model(&store, Uuid::now_v7(), Some(id.clone())).await;
    let first = store
        .complete_job(&claimed.lease, &publication(Some(made.clone())))
        .await;
    assert_eq!(first.unwrap(), Reported::Taken(JobStatus::Succeeded));
    let second = store.complete_job(&claimed.lease, &publication(None)).await;
    assert_eq!(second.unwrap(), Reported::Refused);
    let stored = store.model(&Scope::All, &made.id).await.unwrap().unwrap();
    assert_eq!(stored.job_id, Some(id.clone()));
    assert!(store.blobs().path(&stored.digest).exists());
    let artifacts = store.artifacts(&id).await.unwrap();
    assert_eq!(artifacts[0].digest, stored.digest);
}

#[tokio::test]
async fn a_job_whose_workers_went_silent_fails_when_its_attempts_are_used_up() {
    let (_folder, store, model) = open().await;
    let id = submit(&store, model, json!({"max_attempts": 2})).await;
    assert_eq!(claim(&store, ALREADY_OVER).await.unwrap().lease.attempt, 1);
    assert_eq!(claim(&store, ALREADY_OVER).await.unwrap().lease.attempt, 2);
    assert_eq!(claim(&store, LONG).await, None);
    let job = store.job(&Scope::All, &id).await.unwrap().unwrap();
    assert_eq!(job.status, JobStatus::Failed);
    assert_eq!(job.error.unwrap().code, "worker_died");
}

#[tokio::test]
async fn draining_does_not_cost_an_attempt() {
    let (_folder, store, model) = open().await;
    submit(&store, model, json!({"max_attempts": 1})).await;
    let first = claim(&store, LONG).await.unwrap();
    let end = store.end_attempt(&first.lease, &AttemptEnd::Drained).await;
    assert_eq!(end.unwrap(), Reported::Taken(JobStatus::Queued));
    let second = claim(&store, LONG).await.unwrap();
    assert_eq!(second.lease.attempt, 1);
    let refused = store.report(&first.lease, &Report::default(), LONG).await;
    assert_eq!(refused.unwrap(), Reported::Refused);
}

#[tokio::test]
async fn the_end_of_a_server_costs_its_running_jobs_no_attempt_and_no_wait() {
    let (folder, store, model) = open().await;
    let running = submit(&store, model, json!({"max_attempts": 1})).await;
    let canceling = submit(&store, model, json!({})).await;
    let waiting = submit(&store, model, json!({})).await;
    let lost = claim(&store, LONG).await.unwrap();
    let stopped = claim(&store, LONG).await.unwrap();
    assert_eq!((&lost.job.id, &stopped.job.id), (&running, &canceling));
    let cancel = store.cancel_job(&Scope::All, &canceling).await.unwrap();
    assert_eq!(cancel, Cancellation::Accepted);
    drop(store);

    let store = Store::open(folder.path()).await.unwrap();
    let job = store.job(&Scope::All, &running).await.unwrap().unwrap();
    assert_eq!((job.status, job.attempt), (JobStatus::Queued, 0));
    let job = store.job(&Scope::All, &canceling).await.unwrap().unwrap();
    assert_eq!((job.status, job.attempt), (JobStatus::Canceled, 1));
    assert!(job.finished_at.is_some());
    let again = claim(&store, LONG).await.unwrap();
    assert_eq!((&again.job.id, again.lease.attempt), (&running, 1));
    let late = store.report(&lost.lease, &Report::default(), LONG).await;
    assert_eq!(late.unwrap(), Reported::Refused);
    assert_eq!(claim(&store, LONG).await.unwrap().job.id, waiting);
    assert_eq!(claim(&store, LONG).await, None);
}

#[tokio::test]
async fn a_canceled_job_never_succeeds_and_can_be_retried() {
    let (_folder, store, model) = open().await;
    let id = submit(&store, model, json!({})).await;
    let claimed = claim(&store, LONG).await.unwrap();
    let cancel = store.cancel_job(&Scope::All, &id).await.unwrap();
    assert_eq!(cancel, Cancellation::Accepted);
    let completion = store.complete_job(&claimed.lease, &publication(None)).await;
    assert_eq!(completion.unwrap(), Reported::Taken(JobStatus::Canceled));
    assert_eq!(
        store.cancel_job(&Scope::All, &id).await.unwrap(),
        Cancellation::Accepted
    );
    assert_eq!(
        store.retry_job(&Scope::All, &id).await.unwrap(),
        Retry::Queued
    );
    assert_eq!(claim(&store, LONG).await.unwrap().lease.attempt, 1);
}

#[tokio::test]
async fn jobs_are_found_by_tag_key_and_by_key_and_value() {
    let (_folder, store, model) = open().await;
    let id = submit(&store, model, json!({"tags": {"team": "vision"}})).await;
    submit(&store, model, json!({"tags": {"team": "speech"}})).await;
    let page = PageRequest {
        limit: 10,
        after: None,
    };
    for (tag, count) in [("team", 2), ("team:vision", 1), ("vision", 0)] {
        let filter = JobFilter {
            tag: Some(tag.to_owned()),
            ..JobFilter::default()
        };
        let found = store.jobs(&Scope::All, &filter, &page).await.unwrap().rows;
        assert_eq!(found.len(), count, "{tag}");
        if count == 1 {
            assert_eq!(found[0].id, id);
        }
    }
}
