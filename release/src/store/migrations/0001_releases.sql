-- One row: who writes. The epoch grows each time a builder opens the store.
CREATE TABLE epoch (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch BIGINT NOT NULL
);
INSERT INTO epoch (id, epoch) VALUES (1, 0);

CREATE TABLE releases (
    service TEXT NOT NULL,
    number BIGINT NOT NULL,
    source_commit TEXT,
    requested TEXT NOT NULL,
    image TEXT NOT NULL,
    template TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    PRIMARY KEY (service, number)
);
CREATE INDEX releases_by_time ON releases (created_at, service, number);

-- A service in an environment.
CREATE TABLE placements (
    service TEXT NOT NULL,
    environment TEXT NOT NULL,
    running BIGINT,
    pinned BIGINT,
    -- All objects that were applied and not pruned yet: JSON.
    inventory TEXT NOT NULL,
    PRIMARY KEY (service, environment)
);

CREATE TABLE deployments (
    service TEXT NOT NULL,
    environment TEXT NOT NULL,
    number BIGINT NOT NULL,
    release BIGINT NOT NULL,
    intent TEXT NOT NULL,
    -- Grows with each change of the state.
    version BIGINT NOT NULL,
    is_open BIGINT NOT NULL,
    state TEXT NOT NULL,
    namespace TEXT,
    requested_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (service, environment, number),
    FOREIGN KEY (service, release) REFERENCES releases (service, number)
);
CREATE INDEX open_deployments ON deployments (is_open) WHERE is_open = 1;

-- Each state that a deployment had.
CREATE TABLE steps (
    service TEXT NOT NULL,
    environment TEXT NOT NULL,
    number BIGINT NOT NULL,
    version BIGINT NOT NULL,
    state TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (service, environment, number, version)
);

CREATE TABLE frozen (
    environment TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    frozen_by TEXT NOT NULL,
    at BIGINT NOT NULL
);

CREATE TABLE audit (
    -- Random, so that it reveals nothing about entries that a caller may not see.
    id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    service TEXT,
    environment TEXT,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL,
    before TEXT,
    after TEXT
);
CREATE INDEX audit_by_time ON audit (at, id);
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append only'); END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append only'); END;

-- What was made for an idempotency key of a caller.
CREATE TABLE idempotency (
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    made TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_by_time ON idempotency (at);
