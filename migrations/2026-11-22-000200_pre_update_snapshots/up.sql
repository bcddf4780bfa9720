-- A bot is copied before it is given another image, too.
ALTER TABLE snapshots
    DROP CONSTRAINT snapshots_kind_check,
    ADD CONSTRAINT snapshots_kind_check CHECK (kind IN ('nightly', 'hot', 'on-demand', 'pre-restore', 'pre-update'));
