-- What was copied stays, under a name that is known then.
UPDATE snapshots SET kind = 'pre-restore' WHERE kind = 'pre-update';
ALTER TABLE snapshots
    DROP CONSTRAINT snapshots_kind_check,
    ADD CONSTRAINT snapshots_kind_check CHECK (kind IN ('nightly', 'hot', 'on-demand', 'pre-restore'));
