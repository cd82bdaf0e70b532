-- The image that the tag of an environment was moved to last.
CREATE TABLE tagged (
    service TEXT NOT NULL,
    environment TEXT NOT NULL,
    image TEXT NOT NULL,
    PRIMARY KEY (service, environment)
);
