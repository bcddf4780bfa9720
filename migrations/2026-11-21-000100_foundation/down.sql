DROP TABLE mail_outbox;
DROP TABLE audit_log;
DROP FUNCTION refuse_change;
DROP TABLE tenants;
