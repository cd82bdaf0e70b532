-- Values of settings: of an environment, or of a service in it.
CREATE TABLE settings (
    environment TEXT NOT NULL,
    -- Empty: of the environment.
    service TEXT NOT NULL,
    name TEXT NOT NULL,
    -- JSON.
    value TEXT NOT NULL,
    PRIMARY KEY (environment, service, name)
);

-- The settings that the newest release of each service declares.
CREATE TABLE declared_settings (
    service TEXT NOT NULL,
    name TEXT NOT NULL,
    -- JSON.
    declaration TEXT NOT NULL,
    PRIMARY KEY (service, name)
);
CREATE INDEX declared_settings_by_name ON declared_settings (name);

-- The values that a deployment was made with: JSON.
ALTER TABLE deployments ADD COLUMN settings TEXT NOT NULL DEFAULT '[]';
