//! What `down` removes: everything of ours, and nothing of anybody else.

use std::collections::HashMap;

use super::spec::{MANAGED_LABEL, MANAGED_NETWORK_LABEL, STACK_LABEL, TEST_LABEL};

/// What a removal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The stack and the bots it made.
    Stack,
    /// What tests left behind.
    Tests,
}

impl Scope {
    /// Label filters for the engine, each given in a question of its own: the engine takes several as "and".
    pub(crate) fn filters(self) -> &'static [&'static str] {
        match self {
            Self::Stack => &["wopr.stack", "wopr.managed=true", "wopr.managed-network=true"],
            Self::Tests => &[TEST_LABEL],
        }
    }

    /// Whether something with these labels is to be removed.
    ///
    /// A test's things may look like the stack's: its label decides.
    pub(crate) fn covers(self, labels: &HashMap<String, String>) -> bool {
        let is = |name: &str| labels.get(name).is_some_and(|value| value == "true");
        let of_tests = labels.contains_key(TEST_LABEL);
        match self {
            Self::Tests => of_tests,
            Self::Stack => {
                !of_tests && (labels.contains_key(STACK_LABEL) || is(MANAGED_LABEL) || is(MANAGED_NETWORK_LABEL))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ours_is_covered() {
        type Case = (&'static [(&'static str, &'static str)], bool, bool);
        let cases: [Case; 7] = [
            (&[], false, false),
            (&[("com.example", "true")], false, false),
            (&[("wopr.stack", "flat")], true, false),
            (&[("wopr.managed", "true")], true, false),
            (&[("wopr.managed", "false")], false, false),
            (&[("wopr.managed-network", "true")], true, false),
            (&[("wopr.managed", "true"), ("wopr.test", "fleet")], false, true),
        ];
        for (labels, stack, tests) in cases {
            let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(Scope::Stack.covers(&labels), stack, "{labels:?}");
            assert_eq!(Scope::Tests.covers(&labels), tests, "{labels:?}");
        }
    }

    #[test]
    fn every_label_that_is_covered_is_asked_for() {
        for filter in Scope::Stack.filters().iter().chain(Scope::Tests.filters()) {
            let (name, value) = filter.split_once('=').unwrap_or((filter, "anything"));
            let labels = HashMap::from([(name.to_owned(), value.to_owned())]);
            assert!(Scope::Stack.covers(&labels) || Scope::Tests.covers(&labels), "{filter}");
        }
    }
}
