-- What the provider was asked for. Asking again under the same key takes the same request; a checkout of an earlier release
-- has none and cannot be asked for again.
ALTER TABLE checkout_sessions
    ADD COLUMN provider_customer_id text,
    ADD COLUMN success_url          text,
    ADD COLUMN cancel_url           text;
CREATE INDEX checkout_sessions_unfinished ON checkout_sessions (created_at) WHERE state = 'creating';
