DROP TABLE base_backups;
