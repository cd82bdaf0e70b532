-- The number of the deployment that was the last one to become ready when this one was recorded.
ALTER TABLE deployments ADD COLUMN replaces BIGINT;
