-- The rollout of a deployment.
CREATE TABLE rollouts (
    service TEXT NOT NULL,
    environment TEXT NOT NULL,
    -- That of the deployment.
    number BIGINT NOT NULL,
    -- Grows with each change of the record.
    version BIGINT NOT NULL,
    is_open BIGINT NOT NULL,
    -- The state and the settings: JSON.
    state TEXT NOT NULL,
    -- What was counted so far, and what it is compared with: JSON, null before the first look.
    evidence TEXT NOT NULL,
    -- What keeps it from reading or acting, if anything does.
    problem TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (service, environment, number),
    FOREIGN KEY (service, environment, number)
        REFERENCES deployments (service, environment, number)
);
CREATE INDEX open_rollouts ON rollouts (is_open) WHERE is_open = 1;
CREATE INDEX rollouts_by_time ON rollouts (created_at);

-- What became of a rollout: its stages and weights, and the orders of people.
CREATE TABLE rollout_steps (
    service TEXT NOT NULL,
    environment TEXT NOT NULL,
    number BIGINT NOT NULL,
    -- Counts the steps, from 1.
    step BIGINT NOT NULL,
    at BIGINT NOT NULL,
    stage TEXT NOT NULL,
    -- In hundredths of a percent.
    weight BIGINT NOT NULL,
    sentence TEXT NOT NULL,
    -- What was ordered, by whom and why; null where it went on by itself.
    ordered TEXT,
    actor TEXT,
    reason TEXT,
    PRIMARY KEY (service, environment, number, step)
);

-- Each look: what was counted and what follows from it.
CREATE TABLE looks (
    service TEXT NOT NULL,
    environment TEXT NOT NULL,
    number BIGINT NOT NULL,
    -- When its window began.
    at BIGINT NOT NULL,
    weight BIGINT NOT NULL,
    -- E-values, bounds, counts, verdict: JSON.
    report TEXT NOT NULL,
    PRIMARY KEY (service, environment, number, at)
);
