-- Projects and their keys, uploads that come in pieces, and how long the queue is.

ALTER TABLE models ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
ALTER TABLE datasets ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
ALTER TABLE jobs ADD COLUMN project TEXT NOT NULL DEFAULT 'default';

CREATE INDEX models_project ON models (project, id);
CREATE INDEX datasets_project ON datasets (project, id);
CREATE INDEX jobs_project ON jobs (project, id);

-- Keys that clients send. Of the secret only a keyed digest is here.
CREATE TABLE keys (
    id         TEXT PRIMARY KEY NOT NULL,
    prefix     TEXT NOT NULL UNIQUE,
    digest     TEXT NOT NULL,
    name       TEXT NOT NULL,
    role       TEXT NOT NULL CHECK (role IN ('read', 'submit', 'admin')),
    project    TEXT NOT NULL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    expires_at TEXT,
    revoked_at TEXT
) STRICT;

-- Uploads that come in pieces; the bytes so far are the file uploads/ID.
CREATE TABLE uploads (
    id         TEXT PRIMARY KEY NOT NULL,
    project    TEXT NOT NULL,
    target     TEXT NOT NULL CHECK (target IN ('models', 'datasets')),
    query      TEXT NOT NULL,
    length     INTEGER,
    touched_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

-- An Idempotency-Key is its project's own.
CREATE TABLE kept_answers (
    project     TEXT NOT NULL,
    key         TEXT NOT NULL,
    route       TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    status      INTEGER NOT NULL,
    location    TEXT NOT NULL,
    body        TEXT NOT NULL,
    created_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (project, key, route)
) STRICT, WITHOUT ROWID;

INSERT INTO kept_answers (project, key, route, fingerprint, status, location, body, created_at)
SELECT 'default', key, route, fingerprint, status, location, body, created_at FROM idempotency;

DROP TABLE idempotency;

CREATE INDEX kept_answers_age ON kept_answers (created_at);

-- How many jobs wait, so that a place in the queue needs no count of all that are ahead.
CREATE TABLE queue_lengths (
    priority INTEGER NOT NULL,
    project  TEXT NOT NULL,
    jobs     INTEGER NOT NULL,
    PRIMARY KEY (priority, project)
) STRICT, WITHOUT ROWID;

INSERT INTO queue_lengths (priority, project, jobs)
SELECT priority, project, COUNT(*) FROM jobs WHERE status = 'queued' GROUP BY priority, project;

CREATE TRIGGER jobs_inserted AFTER INSERT ON jobs WHEN new.status = 'queued' BEGIN
    INSERT INTO queue_lengths (priority, project, jobs) VALUES (new.priority, new.project, 1)
    ON CONFLICT (priority, project) DO UPDATE SET jobs = jobs + 1;
END;

CREATE TRIGGER jobs_queued AFTER UPDATE OF status ON jobs
WHEN new.status = 'queued' AND old.status <> 'queued' BEGIN
    INSERT INTO queue_lengths (priority, project, jobs) VALUES (new.priority, new.project, 1)
    ON CONFLICT (priority, project) DO UPDATE SET jobs = jobs + 1;
END;

CREATE TRIGGER jobs_unqueued AFTER UPDATE OF status ON jobs
WHEN old.status = 'queued' AND new.status <> 'queued' BEGIN
    UPDATE queue_lengths SET jobs = jobs - 1
    WHERE priority = old.priority AND project = old.project;
END;

-- What an unfinished job needs, and may therefore not be deleted: models, a data set, an earlier search.
CREATE TABLE job_inputs (
    job_id   TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    input_id TEXT NOT NULL,
    PRIMARY KEY (job_id, input_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX job_inputs_input ON job_inputs (input_id);

INSERT INTO job_inputs (job_id, input_id)
SELECT DISTINCT jobs.id, found.value FROM jobs, json_tree(jobs.request) AS found
WHERE found.type = 'text' AND length(found.value) = 36 AND found.path NOT LIKE '$.tags%';
