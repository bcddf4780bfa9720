DROP TABLE database_set_lease, database_sets;
