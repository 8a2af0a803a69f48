-- The W3C trace context of a job's submission, which the spans of its attempts hang on.
ALTER TABLE jobs ADD COLUMN traceparent TEXT;
