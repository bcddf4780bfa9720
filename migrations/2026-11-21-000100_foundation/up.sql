-- Who pays and owns. A personal tenant carries the id of its user.
CREATE TABLE tenants (
    id          uuid        PRIMARY KEY,
    kind        text        NOT NULL CHECK (kind IN ('personal', 'organisation')),
    name        text        NOT NULL CHECK (length(name) BETWEEN 1 AND 256),
    created_at  timestamptz NOT NULL
);

-- Refuses every change of rows that are history.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TABLE audit_log (
    id             uuid        PRIMARY KEY,
    at             timestamptz NOT NULL,
    tenant_id      uuid        REFERENCES tenants ON DELETE RESTRICT,
    actor_kind     text        NOT NULL CHECK (actor_kind IN ('user', 'api_key', 'operator', 'system', 'webhook')),
    actor          text        NOT NULL,
    action         text        NOT NULL CHECK (action ~ '^[a-z_]+(\.[a-z_]+)+$'),
    resource_kind  text        NOT NULL,
    resource       text,
    outcome        text        NOT NULL CHECK (outcome IN ('success', 'failure')),
    client_address text,
    user_agent     text,
    request_id     text,
    details        jsonb       NOT NULL CHECK (jsonb_typeof(details) = 'object')
);
CREATE INDEX audit_log_by_tenant ON audit_log (tenant_id, at DESC);
CREATE INDEX audit_log_by_time ON audit_log (at DESC);
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Mails, queued in the transaction that causes them and sent by a worker.
CREATE TABLE mail_outbox (
    id              uuid        PRIMARY KEY,
    -- Names the cause: the same cause queues one mail.
    dedupe_key      text        NOT NULL UNIQUE,
    template        text        NOT NULL,
    recipient       text        NOT NULL,
    subject         text        NOT NULL,
    text_body       text        NOT NULL,
    html_body       text        NOT NULL,
    state           text        NOT NULL CHECK (state IN ('pending', 'sent', 'dead')),
    attempts        integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_attempt_at timestamptz NOT NULL,
    created_at      timestamptz NOT NULL,
    sent_at         timestamptz,
    last_error      text,
    CHECK ((state = 'sent') = (sent_at IS NOT NULL))
);
CREATE INDEX mail_outbox_due ON mail_outbox (next_attempt_at) WHERE state = 'pending';
