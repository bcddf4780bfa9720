DROP TABLE gpu_reboots;
DROP TABLE gpu_services;
DROP TABLE gpu_progress;
DROP TABLE gpu_nodes;
DROP FUNCTION gpu_nodes_refuse_illegal_changes();
DROP FUNCTION gpu_stage_rank(text);
