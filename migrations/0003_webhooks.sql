-- What jobs tell others: webhooks, MLflow, and what is on its way to them.

-- What deliveries to a URL are signed with.
CREATE TABLE webhooks (
    id         TEXT PRIMARY KEY NOT NULL,
    project    TEXT NOT NULL,
    url        TEXT NOT NULL,
    secret     TEXT NOT NULL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    UNIQUE (project, url)
) STRICT;

-- The outbox. Each row is committed with the change of the job that it tells of, and sent until it is taken or its tries are
-- over. Rows for MLflow have no body: all of the job is sent.
CREATE TABLE deliveries (
    id              TEXT PRIMARY KEY NOT NULL,
    job_id          TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    project         TEXT NOT NULL,
    target          TEXT NOT NULL CHECK (target IN ('webhook', 'mlflow')),
    url             TEXT NOT NULL,
    event           TEXT NOT NULL,
    body            TEXT NOT NULL,
    status          TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'sending', 'delivered', 'failed')),
    attempts        INTEGER NOT NULL DEFAULT 0,
    -- Unix milliseconds of the server's clock.
    next_attempt_at INTEGER NOT NULL DEFAULT 0,
    response_status INTEGER,
    last_error      TEXT,
    created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    delivered_at    TEXT
) STRICT;

CREATE INDEX deliveries_due ON deliveries (target, status, next_attempt_at);
CREATE INDEX deliveries_job ON deliveries (job_id, created_at);

CREATE TRIGGER jobs_webhook AFTER UPDATE OF status ON jobs
WHEN new.status <> old.status AND json_extract(new.request, '$.webhook.url') IS NOT NULL BEGIN
    INSERT INTO deliveries (id, job_id, project, target, url, event, body)
    SELECT 'msg_' || lower(hex(randomblob(16))), new.id, new.project, 'webhook', json_extract(new.request, '$.webhook.url'),
           wanted.value,
           json_object(
               'type', wanted.value,
               'timestamp', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
               'data', json_object(
                   'id', new.id, 'kind', new.kind, 'name', new.name, 'project', new.project, 'status', new.status,
                   'attempt', new.attempt, 'model', json_extract(new.result, '$.model'), 'error', json(new.error),
                   'tags', json_extract(new.request, '$.tags'), 'url', '/v1/jobs/' || new.id))
    FROM json_each(new.request, '$.webhook.events') AS wanted
    WHERE wanted.value = 'job.' || CASE new.status WHEN 'running' THEN 'started' ELSE new.status END
       OR (wanted.value = 'job.finished' AND new.status IN ('succeeded', 'failed', 'canceled'));
END;

CREATE TRIGGER jobs_mlflow AFTER UPDATE OF status ON jobs
WHEN new.status <> old.status AND new.status IN ('succeeded', 'failed', 'canceled') BEGIN
    INSERT INTO deliveries (id, job_id, project, target, url, event, body)
    VALUES ('msg_' || lower(hex(randomblob(16))), new.id, new.project, 'mlflow', '', 'job.finished', '');
END;
