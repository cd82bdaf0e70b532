-- The verdict and the log of the check before the first request of a rollout: JSON, null before it.
ALTER TABLE rollouts ADD COLUMN gate TEXT;
