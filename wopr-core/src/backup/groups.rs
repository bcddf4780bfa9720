//! Which tables of the database belong together. Each is in one group, and a test compares that with the schema.

use std::collections::{BTreeMap, BTreeSet};

/// The group of what no other has.
const CORE: &str = "core";

/// The groups, and the tables of our schema in each.
const GROUPS: [(&str, &[&str]); 8] = [
    ("auth", &["accounts", "one_time_tokens", "platform_admins", "sessions", "sign_in_attempts", "users"]),
    (
        "billing",
        &[
            "billing_contacts",
            "billing_customers",
            "checkout_sessions",
            "gateway_requests",
            "payment_disputes",
            "payment_refunds",
            "payments",
            "prices",
            "reconciliation_runs",
            "unmatched_payments",
            "usage_hours",
            "webhook_events",
            "webhook_penalties",
        ],
    ),
    (
        "credits",
        &[
            "account_standing_changes",
            "account_standings",
            "bot_charges",
            "credit_holds",
            "credit_leases",
            "ledger_transfers",
            "signup_grants",
            "wallets",
        ],
    ),
    ("audit", &["audit_log"]),
    ("quotas", &["spending_limits", "throttle_counters"]),
    ("tenant-keys", &["api_keys", "tenant_api_keys", "tenant_capability_settings"]),
    ("snapshots", &["backup_leases", "base_backups", "database_set_lease", "database_sets", "restores", "snapshots"]),
    (
        CORE,
        &[
            "__diesel_schema_migrations",
            "bot_progress",
            "bots",
            "gateway_answers",
            "gpu_nodes",
            "gpu_progress",
            "gpu_reboots",
            "gpu_services",
            "mail_outbox",
            "models",
            "tenant_networks",
            "tenants",
        ],
    ),
];

/// A table that the database has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name with its schema, quoted where it must be.
    pub full_name: String,
    /// Its name; nothing for one outside our schema.
    pub name: Option<String>,
}

/// The group that a table of our schema was given.
pub fn group_of(table: &str) -> Option<&'static str> {
    let mut all = GROUPS.iter();
    all.find(|(_, tables)| tables.contains(&table)).map(|(group, _)| *group)
}

/// Puts each table into its group. What is not ours, or newer than this release, is not left out of a backup for that.
pub(super) fn grouped(tables: &[Table]) -> BTreeMap<String, BTreeSet<String>> {
    let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for table in tables {
        let group = table.name.as_deref().and_then(group_of).unwrap_or(CORE);
        groups.entry(group.to_owned()).or_default().insert(table.full_name.clone());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_table_is_in_two_groups() {
        let mut seen = BTreeSet::new();
        for (group, tables) in GROUPS {
            for table in tables {
                assert!(seen.insert(*table), "{table} is in {group} and in another group");
                assert_eq!(group_of(table), Some(group));
            }
        }
    }

    #[test]
    fn what_nobody_knows_is_saved_all_the_same() {
        let table = |full_name: &str, name: Option<&str>| Table {
            full_name: full_name.to_owned(),
            name: name.map(str::to_owned),
        };
        let tables = [
            table("wopr.users", Some("users")),
            table("wopr.gateway_requests", Some("gateway_requests")),
            table("wopr.of_a_newer_release", Some("of_a_newer_release")),
            table("public.users", None),
        ];
        let groups = grouped(&tables);
        let of = |group: &str| groups[group].iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(groups.keys().collect::<Vec<_>>(), ["auth", "billing", "core"]);
        assert_eq!(of("auth"), ["wopr.users"]);
        assert_eq!(of("billing"), ["wopr.gateway_requests"]);
        assert_eq!(of("core"), ["public.users", "wopr.of_a_newer_release"]);
    }
}
