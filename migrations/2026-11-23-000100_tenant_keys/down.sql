ALTER TABLE gateway_requests DROP COLUMN byok;
DROP TABLE tenant_capability_settings, tenant_api_keys;
DROP FUNCTION announce_tenant_keys();
