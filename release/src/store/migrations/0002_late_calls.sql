-- Objects that were pruned. A call that is late can create them again, so they are looked for.
CREATE TABLE pruned (
    service TEXT NOT NULL,
    environment TEXT NOT NULL,
    namespace TEXT NOT NULL,
    -- The reference to it: JSON.
    object TEXT NOT NULL,
    watched_until BIGINT NOT NULL,
    PRIMARY KEY (service, environment, namespace, object)
);
