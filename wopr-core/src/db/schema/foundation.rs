diesel::table! {
    tenants (id) {
        id -> Uuid,
        kind -> Text,
        name -> Text,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    audit_log (id) {
        id -> Uuid,
        at -> Timestamptz,
        tenant_id -> Nullable<Uuid>,
        actor_kind -> Text,
        actor -> Text,
        action -> Text,
        resource_kind -> Text,
        resource -> Nullable<Text>,
        outcome -> Text,
        client_address -> Nullable<Text>,
        user_agent -> Nullable<Text>,
        request_id -> Nullable<Text>,
        details -> Jsonb,
    }
}

diesel::table! {
    mail_outbox (id) {
        id -> Uuid,
        dedupe_key -> Text,
        template -> Text,
        recipient -> Text,
        subject -> Text,
        text_body -> Text,
        html_body -> Text,
        state -> Text,
        attempts -> Integer,
        next_attempt_at -> Timestamptz,
        created_at -> Timestamptz,
        sent_at -> Nullable<Timestamptz>,
        last_error -> Nullable<Text>,
    }
}
