diesel::table! {
    prices (id) {
        id -> Uuid,
        capability -> Text,
        provider -> Text,
        model -> Text,
        unit -> Text,
        side -> Text,
        nanos -> Nullable<BigInt>,
        valid_from -> Timestamptz,
        created_by -> Text,
    }
}

diesel::table! {
    models (id, capability, provider) {
        id -> Text,
        capability -> Text,
        provider -> Text,
        provider_model -> Text,
        max_output_tokens -> Nullable<Integer>,
        priority -> Integer,
        enabled -> Bool,
    }
}

diesel::table! {
    spending_limits (tenant_id, capability) {
        tenant_id -> Uuid,
        capability -> Text,
        alert_cents -> Nullable<BigInt>,
        hard_cap_cents -> Nullable<BigInt>,
        alerted_at -> Nullable<Timestamptz>,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    usage_hours (tenant_id, hour, capability, provider, model) {
        tenant_id -> Uuid,
        hour -> Timestamptz,
        capability -> Text,
        provider -> Text,
        model -> Text,
        requests -> BigInt,
        input_units -> BigInt,
        output_units -> BigInt,
        duration_ms -> BigInt,
        cost_nanos -> BigInt,
        charge_nanos -> BigInt,
    }
}

diesel::table! {
    gateway_answers (tenant_id, key_hash) {
        tenant_id -> Uuid,
        key_hash -> Bytea,
        body_hash -> Bytea,
        holder -> Uuid,
        attempt -> Uuid,
        call_id -> Nullable<Uuid>,
        content_type -> Nullable<Text>,
        body -> Nullable<Bytea>,
        created_at -> Timestamptz,
        expires_at -> Timestamptz,
    }
}

diesel::table! {
    tenant_api_keys (id) {
        id -> Uuid,
        tenant_id -> Uuid,
        provider -> Text,
        label -> Text,
        hint -> Text,
        sealed -> Jsonb,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    tenant_capability_settings (tenant_id, capability) {
        tenant_id -> Uuid,
        capability -> Text,
        mode -> Text,
        updated_at -> Timestamptz,
    }
}
