-- Why a release cannot be undone, if it cannot.
ALTER TABLE releases ADD COLUMN irreversible TEXT;
