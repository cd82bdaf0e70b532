-- The schema of SQLite's migrations up to 0010, where the columns are described. Text is ordered by its bytes, as there:
-- positions of pages must not depend on the locale of the database.
CREATE TABLE epoch (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    epoch BIGINT NOT NULL
);
INSERT INTO epoch (id, epoch) VALUES (1, 0);

CREATE TABLE releases (
    service TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    source_commit TEXT COLLATE "C",
    requested TEXT COLLATE "C" NOT NULL,
    image TEXT COLLATE "C" NOT NULL,
    template TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    irreversible TEXT COLLATE "C",
    PRIMARY KEY (service, number)
);
CREATE INDEX releases_by_time ON releases (created_at, service, number);

CREATE TABLE placements (
    service TEXT COLLATE "C" NOT NULL,
    environment TEXT COLLATE "C" NOT NULL,
    running BIGINT,
    pinned BIGINT,
    inventory TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (service, environment)
);

CREATE TABLE deployments (
    service TEXT COLLATE "C" NOT NULL,
    environment TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    release BIGINT NOT NULL,
    intent TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    is_open BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    namespace TEXT COLLATE "C",
    requested_by TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    settings TEXT COLLATE "C" NOT NULL DEFAULT '[]',
    replaces BIGINT,
    PRIMARY KEY (service, environment, number),
    FOREIGN KEY (service, release) REFERENCES releases (service, number)
);
CREATE INDEX open_deployments ON deployments (is_open) WHERE is_open = 1;

CREATE TABLE steps (
    service TEXT COLLATE "C" NOT NULL,
    environment TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    version BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (service, environment, number, version)
);

CREATE TABLE frozen (
    environment TEXT COLLATE "C" PRIMARY KEY,
    reason TEXT COLLATE "C" NOT NULL,
    frozen_by TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL
);

CREATE TABLE audit (
    id TEXT COLLATE "C" PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    action TEXT COLLATE "C" NOT NULL,
    service TEXT COLLATE "C",
    environment TEXT COLLATE "C",
    subject TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    before TEXT COLLATE "C",
    after TEXT COLLATE "C"
);
CREATE INDEX audit_by_time ON audit (at, id);
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the audit log is append only'; END $$;
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

CREATE TABLE idempotency (
    caller TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    fingerprint TEXT COLLATE "C" NOT NULL,
    made TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_by_time ON idempotency (at);

CREATE TABLE pruned (
    service TEXT COLLATE "C" NOT NULL,
    environment TEXT COLLATE "C" NOT NULL,
    namespace TEXT COLLATE "C" NOT NULL,
    object TEXT COLLATE "C" NOT NULL,
    watched_until BIGINT NOT NULL,
    PRIMARY KEY (service, environment, namespace, object)
);

CREATE TABLE settings (
    environment TEXT COLLATE "C" NOT NULL,
    service TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (environment, service, name)
);

CREATE TABLE declared_settings (
    service TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    declaration TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (service, name)
);
CREATE INDEX declared_settings_by_name ON declared_settings (name);

CREATE TABLE key_uses (
    key TEXT COLLATE "C" PRIMARY KEY,
    at BIGINT NOT NULL
);

CREATE TABLE tagged (
    service TEXT COLLATE "C" NOT NULL,
    environment TEXT COLLATE "C" NOT NULL,
    image TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (service, environment)
);

CREATE TABLE rollouts (
    service TEXT COLLATE "C" NOT NULL,
    environment TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    version BIGINT NOT NULL,
    is_open BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    evidence TEXT COLLATE "C" NOT NULL,
    problem TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    gate TEXT COLLATE "C",
    PRIMARY KEY (service, environment, number),
    FOREIGN KEY (service, environment, number)
        REFERENCES deployments (service, environment, number)
);
CREATE INDEX open_rollouts ON rollouts (is_open) WHERE is_open = 1;
CREATE INDEX rollouts_by_time ON rollouts (created_at);

CREATE TABLE rollout_steps (
    service TEXT COLLATE "C" NOT NULL,
    environment TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    step BIGINT NOT NULL,
    at BIGINT NOT NULL,
    stage TEXT COLLATE "C" NOT NULL,
    weight BIGINT NOT NULL,
    sentence TEXT COLLATE "C" NOT NULL,
    ordered TEXT COLLATE "C",
    actor TEXT COLLATE "C",
    reason TEXT COLLATE "C",
    PRIMARY KEY (service, environment, number, step)
);

CREATE TABLE looks (
    service TEXT COLLATE "C" NOT NULL,
    environment TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    at BIGINT NOT NULL,
    weight BIGINT NOT NULL,
    report TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (service, environment, number, at)
);

CREATE TABLE schedules (
    repository TEXT COLLATE "C" PRIMARY KEY,
    schedule TEXT COLLATE "C" NOT NULL
);

CREATE TABLE builds (
    repository TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    source_commit TEXT COLLATE "C" NOT NULL,
    is_requested BIGINT NOT NULL,
    version BIGINT NOT NULL,
    is_open BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C",
    attempts BIGINT NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (repository, number)
);
CREATE INDEX open_builds ON builds (repository, is_open) WHERE is_open = 1;

CREATE TABLE build_targets (
    repository TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    service TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    manifests TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    image TEXT COLLATE "C",
    release BIGINT,
    unchanged_since BIGINT,
    problem TEXT COLLATE "C",
    autopush TEXT COLLATE "C",
    autopushed TEXT COLLATE "C",
    PRIMARY KEY (repository, number, service),
    FOREIGN KEY (repository, number) REFERENCES builds (repository, number)
);
CREATE INDEX build_targets_by_key ON build_targets (repository, service, number);
CREATE INDEX open_autopushes ON build_targets (autopush) WHERE autopush IS NOT NULL;

-- SQLite's functions of JSON, as far as the queries use them: for lists of texts and objects, and for the fields of an
-- object, such as `$.services`.
CREATE FUNCTION json_extract(document TEXT, path TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE
AS $$ SELECT document::json ->> substr(path, 3) $$;
CREATE FUNCTION json_each(list TEXT) RETURNS TABLE (value TEXT) LANGUAGE sql IMMUTABLE
AS $$ SELECT item COLLATE "C" FROM json_array_elements_text(list::json) AS item $$;
CREATE FUNCTION json_each(document TEXT, path TEXT) RETURNS TABLE (value TEXT) LANGUAGE sql IMMUTABLE
AS $$ SELECT item COLLATE "C" FROM json_array_elements_text(
    CASE json_typeof(document::json -> substr(path, 3))
        WHEN 'array' THEN document::json -> substr(path, 3) ELSE '[]'
    END) AS item $$;
