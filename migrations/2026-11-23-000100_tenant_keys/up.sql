-- Keys of tenants' own accounts at providers of models, sealed (`vault`).
CREATE TABLE tenant_api_keys (
    id         uuid        PRIMARY KEY,
    tenant_id  uuid        NOT NULL REFERENCES tenants ON DELETE RESTRICT,
    provider   text        NOT NULL CHECK (length(provider) BETWEEN 1 AND 64),
    label      text        NOT NULL CHECK (length(label) <= 100),
    -- The last characters, so that people know which key it is.
    hint       text        NOT NULL CHECK (length(hint) <= 4),
    sealed     jsonb       NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE (tenant_id, provider)
);

-- What a tenant's own keys are used for; everything else is ours to answer and charged.
CREATE TABLE tenant_capability_settings (
    tenant_id  uuid        NOT NULL REFERENCES tenants ON DELETE RESTRICT,
    capability text        NOT NULL CHECK (capability IN ('text-gen', 'embeddings')),
    mode       text        NOT NULL CHECK (mode IN ('hosted', 'byok')),
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, capability)
);

-- Whoever has a caller in memory has these there as well.
CREATE FUNCTION announce_tenant_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(TG_TABLE_SCHEMA || '_gateway',
                      'key:' || CASE TG_OP WHEN 'DELETE' THEN OLD.tenant_id ELSE NEW.tenant_id END);
    RETURN NULL;
END $$;
CREATE TRIGGER tenant_api_keys_announced AFTER INSERT OR UPDATE OR DELETE ON tenant_api_keys
    FOR EACH ROW EXECUTE FUNCTION announce_tenant_keys();
CREATE TRIGGER tenant_capability_settings_announced AFTER INSERT OR UPDATE OR DELETE ON tenant_capability_settings
    FOR EACH ROW EXECUTE FUNCTION announce_tenant_keys();

-- Whether the tenant's own account at the provider paid for the call.
ALTER TABLE gateway_requests ADD COLUMN byok boolean NOT NULL DEFAULT false;
