DROP TABLE backup_leases, restores, snapshots;
