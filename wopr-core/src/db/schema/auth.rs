diesel::table! {
    users (id) {
        id -> Uuid,
        email -> Text,
        name -> Text,
        image -> Nullable<Text>,
        email_verified_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    accounts (id) {
        id -> Uuid,
        user_id -> Uuid,
        provider -> Text,
        account_id -> Text,
        password_hash -> Text,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    sessions (id) {
        id -> Uuid,
        user_id -> Uuid,
        token_hash -> Bytea,
        remembered -> Bool,
        expires_at -> Timestamptz,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        client_address -> Nullable<Text>,
        user_agent -> Nullable<Text>,
    }
}

diesel::table! {
    one_time_tokens (id) {
        id -> Uuid,
        purpose -> Text,
        token_hash -> Bytea,
        user_id -> Uuid,
        email -> Text,
        created_at -> Timestamptz,
        expires_at -> Timestamptz,
        consumed_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    platform_admins (user_id) {
        user_id -> Uuid,
        granted_by -> Text,
        granted_at -> Timestamptz,
    }
}

diesel::table! {
    api_keys (id) {
        id -> Uuid,
        tenant_id -> Nullable<Uuid>,
        bot_id -> Nullable<Uuid>,
        scope -> Text,
        label -> Text,
        prefix -> Text,
        key_hash -> Bytea,
        created_at -> Timestamptz,
        expires_at -> Nullable<Timestamptz>,
        last_used_at -> Nullable<Timestamptz>,
        revoked_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    throttle_counters (scope, key) {
        scope -> Text,
        key -> Text,
        hits -> BigInt,
        window_ends_at -> Timestamptz,
    }
}

diesel::table! {
    sign_in_attempts (account_hash) {
        account_hash -> Bytea,
        attempts -> Integer,
        last_attempt_at -> Timestamptz,
        blocked_until -> Timestamptz,
    }
}

diesel::joinable!(accounts -> users (user_id));
diesel::joinable!(sessions -> users (user_id));
diesel::joinable!(platform_admins -> users (user_id));
diesel::allow_tables_to_appear_in_same_query!(users, accounts, sessions, platform_admins);
