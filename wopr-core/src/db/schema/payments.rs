diesel::table! {
    billing_customers (tenant_id) {
        tenant_id -> Uuid,
        provider_customer_id -> Nullable<Text>,
        generation -> Integer,
        email -> Nullable<Text>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    checkout_sessions (id) {
        id -> Uuid,
        tenant_id -> Uuid,
        price_id -> Text,
        charged_cents -> BigInt,
        credit_cents -> BigInt,
        state -> Text,
        provider_session_id -> Nullable<Text>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        provider_customer_id -> Nullable<Text>,
        success_url -> Nullable<Text>,
        cancel_url -> Nullable<Text>,
    }
}

diesel::table! {
    webhook_events (id) {
        id -> Uuid,
        source -> Text,
        event_id -> Text,
        kind -> Text,
        object_id -> Text,
        occurred_at -> Timestamptz,
        payload -> Text,
        state -> Text,
        attempts -> Integer,
        next_attempt_at -> Timestamptz,
        received_at -> Timestamptz,
        finished_at -> Nullable<Timestamptz>,
        last_error -> Nullable<Text>,
    }
}

diesel::table! {
    webhook_penalties (client_address, source) {
        client_address -> Text,
        source -> Text,
        failures -> Integer,
        blocked_until -> Timestamptz,
    }
}

diesel::table! {
    payments (reference) {
        reference -> Text,
        payment_intent_id -> Nullable<Text>,
        tenant_id -> Uuid,
        paid_cents -> BigInt,
        tax_cents -> BigInt,
        purchase_nanos -> BigInt,
        bonus_nanos -> BigInt,
        paid_at -> Timestamptz,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    payment_refunds (refund_id) {
        refund_id -> Text,
        payment_intent_id -> Text,
        amount_cents -> BigInt,
        failed -> Bool,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    payment_disputes (dispute_id) {
        dispute_id -> Text,
        payment_intent_id -> Text,
        amount_cents -> BigInt,
        state -> Text,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    unmatched_payments (id) {
        id -> Uuid,
        reference -> Text,
        payment_intent_id -> Nullable<Text>,
        provider_customer_id -> Nullable<Text>,
        email -> Nullable<Text>,
        paid_cents -> BigInt,
        tax_cents -> BigInt,
        currency -> Text,
        reason -> Text,
        paid_at -> Timestamptz,
        created_at -> Timestamptz,
        tenant_id -> Nullable<Uuid>,
        assigned_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    reconciliation_runs (id) {
        id -> Uuid,
        started_at -> Timestamptz,
        finished_at -> Timestamptz,
        period_start -> Timestamptz,
        period_end -> Timestamptz,
        report -> Jsonb,
        clean -> Bool,
    }
}

diesel::allow_tables_to_appear_in_same_query!(payments, payment_disputes);
