-- Which of the payment provider's customers stands for a tenant.
CREATE TABLE billing_customers (
    tenant_id            uuid        PRIMARY KEY REFERENCES tenants ON DELETE RESTRICT,
    -- Empty between the decision to make one and the provider's answer, and after the provider deleted it.
    provider_customer_id text        UNIQUE,
    -- Rises when the provider's customer is deleted: it is part of the idempotency key that makes the next one.
    generation           integer     NOT NULL DEFAULT 0 CHECK (generation >= 0),
    email                text,
    created_at           timestamptz NOT NULL,
    updated_at           timestamptz NOT NULL
);

-- Every checkout, stored before anybody is sent to pay.
CREATE TABLE checkout_sessions (
    id                  uuid        PRIMARY KEY,
    tenant_id           uuid        NOT NULL REFERENCES tenants ON DELETE RESTRICT,
    price_id            text        NOT NULL,
    charged_cents       bigint      NOT NULL CHECK (charged_cents > 0),
    credit_cents        bigint      NOT NULL CHECK (credit_cents >= charged_cents),
    state               text        NOT NULL CHECK (state IN ('creating', 'open', 'paid', 'expired', 'failed')),
    provider_session_id text        UNIQUE,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    CHECK (state <> 'open' OR provider_session_id IS NOT NULL)
);
CREATE INDEX checkout_sessions_by_tenant ON checkout_sessions (tenant_id, created_at DESC);

-- Verified webhooks, kept before they are answered and processed after.
CREATE TABLE webhook_events (
    id              uuid        PRIMARY KEY,
    source          text        NOT NULL CHECK (source IN ('stripe')),
    event_id        text        NOT NULL,
    kind            text        NOT NULL,
    -- What the event is about: events about one object are processed in the order they occurred.
    object_id       text        NOT NULL,
    occurred_at     timestamptz NOT NULL,
    -- The body as it was signed. Not jsonb, which cannot hold every text that JSON can.
    payload         text        NOT NULL,
    state           text        NOT NULL CHECK (state IN ('received', 'processed', 'ignored', 'dead')),
    attempts        integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_attempt_at timestamptz NOT NULL,
    received_at     timestamptz NOT NULL,
    finished_at     timestamptz,
    last_error      text,
    UNIQUE (source, event_id),
    CHECK ((state = 'received') = (finished_at IS NULL))
);
CREATE INDEX webhook_events_due ON webhook_events (next_attempt_at) WHERE state = 'received';
CREATE INDEX webhook_events_by_object ON webhook_events (object_id) WHERE state = 'received';
CREATE INDEX webhook_events_dead ON webhook_events (finished_at) WHERE state = 'dead';

-- Senders of forged webhooks, by client address.
CREATE TABLE webhook_penalties (
    client_address text        NOT NULL,
    source         text        NOT NULL,
    failures       integer     NOT NULL CHECK (failures > 0),
    blocked_until  timestamptz NOT NULL,
    PRIMARY KEY (client_address, source)
);

-- Facts about payments, as the provider told them. The ledger entries of a payment follow from these rows alone, so
-- the order in which the facts arrive does not matter.
CREATE TABLE payments (
    -- The checkout session, or the payment itself when there was none: the ledger's reference key.
    reference         text        PRIMARY KEY,
    payment_intent_id text        UNIQUE,
    tenant_id         uuid        NOT NULL REFERENCES tenants ON DELETE RESTRICT,
    paid_cents        bigint      NOT NULL CHECK (paid_cents > 0),
    tax_cents         bigint      NOT NULL DEFAULT 0 CHECK (tax_cents >= 0 AND tax_cents < paid_cents),
    purchase_nanos    bigint      NOT NULL CHECK (purchase_nanos > 0),
    bonus_nanos       bigint      NOT NULL CHECK (bonus_nanos >= 0),
    paid_at           timestamptz NOT NULL,
    created_at        timestamptz NOT NULL
);
CREATE INDEX payments_by_tenant ON payments (tenant_id, created_at DESC);

CREATE TABLE payment_refunds (
    refund_id         text        PRIMARY KEY,
    payment_intent_id text        NOT NULL,
    amount_cents      bigint      NOT NULL CHECK (amount_cents > 0),
    -- A refund that failed gave nothing back; it never succeeds afterwards.
    failed            boolean     NOT NULL,
    created_at        timestamptz NOT NULL
);
CREATE INDEX payment_refunds_by_payment ON payment_refunds (payment_intent_id);

CREATE TABLE payment_disputes (
    dispute_id        text        PRIMARY KEY,
    payment_intent_id text        NOT NULL,
    amount_cents      bigint      NOT NULL CHECK (amount_cents > 0),
    state             text        NOT NULL CHECK (state IN ('open', 'won', 'lost')),
    created_at        timestamptz NOT NULL
);
CREATE INDEX payment_disputes_by_payment ON payment_disputes (payment_intent_id);

-- Money that arrived and names no tenant of ours, or not in a way that can be credited without a person.
CREATE TABLE unmatched_payments (
    id                uuid        PRIMARY KEY,
    reference         text        NOT NULL UNIQUE,
    payment_intent_id text,
    provider_customer_id text,
    email             text,
    paid_cents        bigint      NOT NULL CHECK (paid_cents > 0),
    tax_cents         bigint      NOT NULL DEFAULT 0 CHECK (tax_cents >= 0 AND tax_cents < paid_cents),
    currency          text        NOT NULL,
    reason            text        NOT NULL CHECK (reason IN ('no_tenant', 'currency', 'purpose')),
    paid_at           timestamptz NOT NULL,
    created_at        timestamptz NOT NULL,
    tenant_id         uuid        REFERENCES tenants ON DELETE RESTRICT,
    assigned_at       timestamptz,
    CHECK ((tenant_id IS NULL) = (assigned_at IS NULL))
);
CREATE INDEX unmatched_payments_open ON unmatched_payments (created_at) WHERE tenant_id IS NULL;

-- What comparing the provider's books with the ledger found.
CREATE TABLE reconciliation_runs (
    id              uuid        PRIMARY KEY,
    started_at      timestamptz NOT NULL,
    finished_at     timestamptz NOT NULL,
    -- Money that moved at the provider in this period was looked at.
    period_start    timestamptz NOT NULL,
    period_end      timestamptz NOT NULL,
    report          jsonb       NOT NULL CHECK (jsonb_typeof(report) = 'object'),
    clean           boolean     NOT NULL,
    CHECK (period_start < period_end)
);
CREATE INDEX reconciliation_runs_by_end ON reconciliation_runs (period_end DESC);
