-- What waits and runs of a repository, as the builder keeps it: JSON.
CREATE TABLE schedules (
    repository TEXT PRIMARY KEY,
    schedule TEXT NOT NULL
);

CREATE TABLE builds (
    repository TEXT NOT NULL,
    number BIGINT NOT NULL,
    source_commit TEXT NOT NULL,
    -- Whether it was requested, rather than pushed.
    is_requested BIGINT NOT NULL,
    -- Grows with each change of the state.
    version BIGINT NOT NULL,
    is_open BIGINT NOT NULL,
    -- With the commit that supersedes it, if one does: JSON.
    state TEXT NOT NULL,
    -- Why it failed, is not built, or waits once more.
    reason TEXT,
    -- How often it was started; each start continues the same log.
    attempts BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (repository, number)
);
CREATE INDEX open_builds ON builds (repository, is_open) WHERE is_open = 1;

-- The images of a build, and what became of them.
CREATE TABLE build_targets (
    repository TEXT NOT NULL,
    number BIGINT NOT NULL,
    service TEXT NOT NULL,
    -- The hash of what the image depends on, and of the manifests.
    key TEXT NOT NULL,
    manifests TEXT NOT NULL,
    state TEXT NOT NULL,
    -- By digest, once the registry has it.
    image TEXT,
    -- The number of the release.
    release BIGINT,
    -- The number of the release whose image was taken over, if one was.
    unchanged_since BIGINT,
    problem TEXT,
    -- Where the release is still to be deployed; null when it was, or is not to be.
    autopush TEXT,
    -- What became of that.
    autopushed TEXT,
    PRIMARY KEY (repository, number, service),
    FOREIGN KEY (repository, number) REFERENCES builds (repository, number)
);
CREATE INDEX build_targets_by_key ON build_targets (repository, service, number);
CREATE INDEX open_autopushes ON build_targets (autopush) WHERE autopush IS NOT NULL;
