DROP INDEX checkout_sessions_unfinished;
ALTER TABLE checkout_sessions
    DROP COLUMN cancel_url,
    DROP COLUMN success_url,
    DROP COLUMN provider_customer_id;
