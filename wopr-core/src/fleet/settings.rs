//! The parts of a bot's description that have rules: its name, its environment, its policies.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A value that breaks a rule of a bot's description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct InvalidSetting {
    /// The field, as clients write it.
    pub field: &'static str,
    /// The rule that it breaks, for people. It never quotes a value: values may be secrets.
    pub rule: String,
}

impl InvalidSetting {
    fn new(field: &'static str, rule: impl Into<String>) -> Self {
        Self { field, rule: rule.into() }
    }
}

/// A bot's name: a letter or digit, then up to 62 letters, digits, `_` and `-`. Unique within a tenant, whatever the
/// case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BotName(String);

impl BotName {
    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a host name: lower case, `-` for `_`, no `-` at the end.
    pub fn to_host_name(&self) -> String {
        self.0.to_ascii_lowercase().replace('_', "-").trim_end_matches('-').to_owned()
    }
}

impl FromStr for BotName {
    type Err = InvalidSetting;

    /// Surrounding blanks are removed.
    fn from_str(text: &str) -> Result<Self, InvalidSetting> {
        let text = text.trim();
        let valid = text.len() <= 63
            && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        valid.then(|| Self(text.to_owned())).ok_or_else(|| {
            InvalidSetting::new("name", "1 to 63 letters, digits, _ and -, beginning with a letter or digit")
        })
    }
}

impl fmt::Display for BotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The most variables of one bot.
const MAX_VARIABLES: usize = 256;
/// The most bytes of all names and values of one bot together.
const MAX_ENV_BYTES: usize = 64 * 1024;

/// What a program loads before its own code, or what the platform says to it: not for callers to set.
const RESERVED: [&str; 9] =
    ["PATH", "HOME", "HOSTNAME", "IFS", "BASH_ENV", "ENV", "WOPR_HOME", "WOPR_SERVICE_KEY_FILE", "NODE_PATH"];
const RESERVED_PREFIXES: [&str; 4] = ["LD_", "DYLD_", "DOCKER_", "WOPR_INTERNAL_"];

/// A bot's environment variables. The map is replaced as a whole; empty values are left out.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct BotEnv(BTreeMap<String, String>);

impl BotEnv {
    /// Takes a map that keeps the rules.
    ///
    /// # Errors
    /// [`InvalidSetting`] for a name that is no identifier or that the platform or the loader reads, for a value with
    /// a NUL, and for more than 256 variables or 64 KiB.
    pub fn new(variables: BTreeMap<String, String>) -> Result<Self, InvalidSetting> {
        let refuse = |rule: String| Err(InvalidSetting::new("env", rule));
        let variables: BTreeMap<_, _> = variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        if variables.len() > MAX_VARIABLES {
            return refuse(format!("at most {MAX_VARIABLES} variables"));
        }
        if variables.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_ENV_BYTES {
            return refuse(format!("at most {MAX_ENV_BYTES} bytes in all"));
        }
        for (name, value) in &variables {
            let mut bytes = name.bytes();
            let identifier = name.len() <= 128
                && bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !identifier {
                return refuse("names are letters, digits and _, and begin with no digit".to_owned());
            }
            let upper = name.to_ascii_uppercase();
            if RESERVED.contains(&upper.as_str()) || RESERVED_PREFIXES.iter().any(|prefix| upper.starts_with(prefix)) {
                return refuse(format!("{name} is reserved"));
            }
            if value.contains('\0') {
                return refuse(format!("{name} contains a NUL"));
            }
        }
        Ok(Self(variables))
    }

    /// The variables by name.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl fmt::Debug for BotEnv {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $field:literal { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }

        impl $name {
            /// The word on the wire and in storage.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl FromStr for $name {
            type Err = InvalidSetting;

            fn from_str(text: &str) -> Result<Self, InvalidSetting> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(InvalidSetting::new($field, concat!("one of" $(, " ", $word)+))),
                }
            }
        }
    };
}

words! {
    /// What the engine does when the bot's process ends.
    RestartPolicy, "restartPolicy" {
        /// Nothing: the bot stays as it ended until it is started again.
        No = "no",
        /// Starts it again.
        Always = "always",
        /// Starts it again unless it ended with exit code 0.
        OnFailure = "on-failure",
        /// Starts it again unless it was stopped on purpose.
        UnlessStopped = "unless-stopped",
    }
}

impl RestartPolicy {
    /// Whether a bot that ended with `exit_code` is to run again.
    pub const fn restarts_after(self, exit_code: i64) -> bool {
        match self {
            Self::No => false,
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure => exit_code != 0,
        }
    }
}

words! {
    /// Which releases a bot follows. Recorded and shown; images change only when an update is asked for.
    ReleaseChannel, "releaseChannel" {
        /// Every build.
        Canary = "canary",
        /// Release candidates.
        Staging = "staging",
        /// Releases.
        Stable = "stable",
        /// None.
        Pinned = "pinned",
    }
}

words! {
    /// When a bot wants new images. Recorded and shown; images change only when an update is asked for.
    UpdatePolicy, "updatePolicy" {
        /// As soon as there is one.
        OnPush = "on-push",
        /// At night.
        Nightly = "nightly",
        /// When asked to.
        Manual = "manual",
    }
}

/// Whether a bot looks for its peers, and where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Discovery {
    enabled: bool,
    topics: Vec<String>,
}

impl Discovery {
    /// Topics have 1 to 128 characters and no comma; at most 32 of them.
    ///
    /// # Errors
    /// [`InvalidSetting`] when one does not.
    pub fn new(enabled: bool, topics: Vec<String>) -> Result<Self, InvalidSetting> {
        let valid = topics.len() <= 32
            && topics
                .iter()
                .all(|topic| (1..=128).contains(&topic.chars().count()) && !topic.contains([',', '\0', '\n', '\r']));
        valid.then_some(Self { enabled, topics }).ok_or_else(|| {
            InvalidSetting::new("discovery.topics", "at most 32, each of 1 to 128 characters without comma")
        })
    }

    /// Whether it looks for peers at all.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// The topics beside the platform's default one.
    pub fn topics(&self) -> &[String] {
        &self.topics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "test-bot", "0_x", " padded ", &"a".repeat(63)] {
            assert!(good.parse::<BotName>().is_ok(), "{good:?}");
        }
        for bad in ["", " ", "-a", "_a", "a b", "a.b", "ä", "a/../b", &"a".repeat(64), "a\nb"] {
            assert_eq!(bad.parse::<BotName>().unwrap_err().field, "name", "{bad:?}");
        }
        assert_eq!("My_Bot-".parse::<BotName>().unwrap().to_host_name(), "my-bot");
    }

    #[test]
    fn hostile_variables_are_refused_and_empty_ones_left_out() {
        let env = |name: &str, value: &str| BotEnv::new(BTreeMap::from([(name.to_owned(), value.to_owned())]));
        for name in [
            "PATH",
            "path",
            "LD_PRELOAD",
            "ld_preload",
            "DOCKER_HOST",
            "WOPR_HOME",
            "WOPR_SERVICE_KEY_FILE",
            "A=B",
            "1A",
            "",
            "A B",
            "Ä",
        ] {
            assert_eq!(env(name, "x").unwrap_err().field, "env", "{name:?}");
        }
        assert!(env("A", "x\0y").is_err());
        assert!(env("A", &"x".repeat(70_000)).is_err());
        assert!(env("DISCORD_TOKEN", "x").is_ok());
        assert!(env("EMPTY", "").unwrap().variables().is_empty());
        let many = (0..300).map(|n| (format!("A{n}"), "x".to_owned())).collect();
        assert!(BotEnv::new(many).is_err());
        assert!(!format!("{:?}", env("TOKEN", "secret-value").unwrap()).contains("secret-value"));
    }

    #[test]
    fn policies_read_back_and_refuse_the_rest() {
        assert_eq!("on-failure".parse(), Ok(RestartPolicy::OnFailure));
        assert_eq!("sometimes".parse::<RestartPolicy>().unwrap_err().field, "restartPolicy");
        assert!("cron:* * * * *".parse::<UpdatePolicy>().is_err());
        assert!(RestartPolicy::OnFailure.restarts_after(1) && !RestartPolicy::OnFailure.restarts_after(0));
        assert!(Discovery::new(true, vec!["a,b".to_owned()]).is_err());
    }
}
