-- Models, data sets, jobs with their queue, and what jobs leave behind.
-- Ids are UUIDv7 as text, times RFC 3339 UTC text made by the database, leases unix milliseconds
-- of the database's clock, digests lower-case hex SHA-256 of a file under blobs/.

CREATE TABLE jobs (
    id                TEXT PRIMARY KEY NOT NULL,
    kind              TEXT NOT NULL,
    name              TEXT,
    model_id          TEXT NOT NULL,
    dataset_id        TEXT,
    status            TEXT NOT NULL CHECK (status IN
                          ('queued', 'running', 'canceling', 'succeeded', 'failed', 'canceled')),
    priority          INTEGER NOT NULL,
    attempt           INTEGER NOT NULL DEFAULT 0,
    max_attempts      INTEGER NOT NULL,
    lease_owner       TEXT,
    lease_expires_at  INTEGER,
    progress          TEXT,
    request           TEXT NOT NULL,
    result            TEXT,
    error             TEXT,
    created_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    started_at        TEXT,
    finished_at       TEXT,
    last_heartbeat_at TEXT,
    CHECK ((status IN ('running', 'canceling')) = (lease_owner IS NOT NULL))
) STRICT;

CREATE INDEX jobs_queue ON jobs (status, priority DESC, id);
CREATE INDEX jobs_model ON jobs (model_id);
CREATE INDEX jobs_dataset ON jobs (dataset_id);

CREATE TABLE job_tags (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (job_id, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE models (
    id         TEXT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    format     TEXT NOT NULL,
    digest     TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    summary    TEXT NOT NULL,
    tags       TEXT NOT NULL,
    layers     TEXT,
    parent_id  TEXT REFERENCES models (id) ON DELETE SET NULL,
    job_id     TEXT REFERENCES jobs (id) ON DELETE SET NULL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE INDEX models_digest ON models (digest);
CREATE INDEX models_parent ON models (parent_id);
CREATE INDEX models_job ON models (job_id);

CREATE TABLE datasets (
    id         TEXT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    digest     TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    summary    TEXT NOT NULL,
    tags       TEXT NOT NULL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE TABLE dataset_files (
    dataset_id TEXT NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    position   INTEGER NOT NULL,
    name       TEXT NOT NULL,
    digest     TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    PRIMARY KEY (dataset_id, position)
) STRICT, WITHOUT ROWID;

CREATE INDEX dataset_files_digest ON dataset_files (digest);

CREATE TABLE events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    job_id  TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    level   TEXT NOT NULL,
    type    TEXT NOT NULL,
    message TEXT NOT NULL,
    data    TEXT NOT NULL
) STRICT;

CREATE INDEX events_job ON events (job_id, id);

CREATE TABLE metrics (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    name   TEXT NOT NULL,
    step   INTEGER NOT NULL,
    value  REAL NOT NULL,
    at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (job_id, name, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifacts (
    job_id     TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    media_type TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    digest     TEXT NOT NULL,
    PRIMARY KEY (job_id, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX artifacts_digest ON artifacts (digest);

-- First answers to requests with an Idempotency-Key.
CREATE TABLE idempotency (
    key         TEXT NOT NULL,
    route       TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    status      INTEGER NOT NULL,
    location    TEXT NOT NULL,
    body        TEXT NOT NULL,
    created_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (key, route)
) STRICT, WITHOUT ROWID;

-- Written by GET /readyz to see whether the database takes writes.
CREATE TABLE write_probe (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    at TEXT NOT NULL
) STRICT;
