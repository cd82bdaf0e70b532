-- When keys of callers were used last: at most once a minute.
CREATE TABLE key_uses (
    -- The beginning of the key's hash.
    key TEXT PRIMARY KEY,
    at BIGINT NOT NULL
);
