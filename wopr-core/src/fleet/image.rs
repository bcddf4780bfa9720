//! Image references: one written form, an allow-list by path segment, and digests.

use std::fmt;
use std::str::FromStr;

/// The registry of a reference that names none.
pub const DEFAULT_REGISTRY: &str = "ghcr.io";
/// The tag of a reference that has neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// The longest reference accepted, in bytes.
const MAX_LENGTH: usize = 512;

/// Text that is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a usable image reference")]
pub struct InvalidImage;

/// An image as its owner names it: `registry/repository:tag` or `registry/repository@sha256:…`.
///
/// A reference without a registry belongs to [`DEFAULT_REGISTRY`], one without tag and digest means `latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl ImageReference {
    /// The registry's host, with its port if it has one.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `registry/repository`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag, unless the reference is by digest alone.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest the owner gave, which needs no finding out.
    pub fn pinned(&self) -> Option<ImageDigest> {
        self.digest.as_ref().map(|digest| ImageDigest(format!("{}@{digest}", self.name())))
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageReference {
    type Err = InvalidImage;

    fn from_str(text: &str) -> Result<Self, InvalidImage> {
        if text.len() > MAX_LENGTH {
            return Err(InvalidImage);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_sha256(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(InvalidImage),
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => {
                (first.to_ascii_lowercase(), path)
            }
            _ => (DEFAULT_REGISTRY.to_owned(), rest),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.to_owned())),
            None => (rest, None),
        };
        let tag = if tag.is_none() && digest.is_none() { Some(DEFAULT_TAG.to_owned()) } else { tag };
        let valid =
            is_host(&registry) && repository.split('/').all(is_path_segment) && tag.as_deref().is_none_or(is_tag);
        valid.then(|| Self { registry, repository: repository.to_owned(), tag, digest }).ok_or(InvalidImage)
    }
}

fn is_sha256(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "443"));
    !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// `[a-z0-9]` runs joined by single separators, as the distribution specification has it.
fn is_path_segment(segment: &str) -> bool {
    let alphanumeric = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    alphanumeric(segment.bytes().next())
        && alphanumeric(segment.bytes().last())
        && segment.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        && !segment.contains("..")
}

fn is_tag(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    tag.len() <= 128
        && bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// Exactly one image: `repository@sha256:…` from a registry, or `sha256:…` of an image only this engine has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageDigest(String);

impl ImageDigest {
    /// The form an engine takes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digest without the repository: `sha256:…`.
    pub fn digest(&self) -> &str {
        self.0.rsplit_once('@').map_or(self.0.as_str(), |(_, digest)| digest)
    }

    /// Whether a registry can be asked for it.
    pub fn is_pullable(&self) -> bool {
        self.0.contains('@')
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ImageDigest {
    type Err = InvalidImage;

    fn from_str(text: &str) -> Result<Self, InvalidImage> {
        let digest = text.rsplit_once('@').map_or(text, |(_, digest)| digest);
        is_sha256(digest).then(|| Self(text.to_owned())).ok_or(InvalidImage)
    }
}

/// Which images may be run.
///
/// | Entry | Admits |
/// |---|---|
/// | `ghcr.io/wopr-network/` or `ghcr.io/wopr-network/*` | every repository below that path |
/// | `ghcr.io/wopr-network/wopr` | that repository, and those below it |
/// | `ghcr.io/wopr-network/wopr:*` | that repository only, with any tag or digest |
/// | `ghcr.io/wopr-network/wopr:stable` | that repository with that tag |
///
/// Registry and path are compared segment by segment, so that `ghcr.io/wopr-network` does not admit
/// `ghcr.io/wopr-network-of-someone-else/bot`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageAllowList(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    segments: Vec<String>,
    scope: Scope,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    Below,
    SelfAndBelow,
    AnyTag,
    Tag(String),
}

impl Default for ImageAllowList {
    /// The project's own images.
    fn default() -> Self {
        let segments = vec![DEFAULT_REGISTRY.to_owned(), "wopr-network".to_owned()];
        Self(vec![Entry { segments, scope: Scope::Below }])
    }
}

impl FromStr for ImageAllowList {
    type Err = InvalidImage;

    /// Reads a list separated by commas.
    fn from_str(text: &str) -> Result<Self, InvalidImage> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let entries = entries.map(parse_entry).collect::<Result<Vec<_>, _>>()?;
        if entries.is_empty() { Err(InvalidImage) } else { Ok(Self(entries)) }
    }
}

fn parse_entry(text: &str) -> Result<Entry, InvalidImage> {
    let last = text.rsplit('/').next().unwrap_or(text);
    let (path, scope) = if let Some(path) = text.strip_suffix("/*").or_else(|| text.strip_suffix('/')) {
        (path, Scope::Below)
    } else if let Some((_, tag)) = last.split_once(':').filter(|_| text.contains('/')) {
        let path = &text[..text.len() - tag.len() - 1];
        let scope = match tag {
            "*" | "" => Scope::AnyTag,
            tag if is_tag(tag) => Scope::Tag(tag.to_owned()),
            _ => return Err(InvalidImage),
        };
        (path, scope)
    } else {
        (text, Scope::SelfAndBelow)
    };
    let mut segments: Vec<String> = path.split('/').map(str::to_owned).collect();
    let names_registry = segments[0].contains(['.', ':']) || segments[0] == "localhost";
    if names_registry {
        segments[0] = segments[0].to_ascii_lowercase();
    } else {
        segments.insert(0, DEFAULT_REGISTRY.to_owned());
    }
    let valid = is_host(&segments[0]) && segments[1..].iter().all(|segment| is_path_segment(segment));
    valid.then_some(Entry { segments, scope }).ok_or(InvalidImage)
}

impl ImageAllowList {
    /// Whether `image` may be run.
    pub fn admits(&self, image: &ImageReference) -> bool {
        let name = image.name();
        let segments: Vec<&str> = name.split('/').collect();
        self.0.iter().any(|entry| {
            let starts = segments.len() >= entry.segments.len()
                && entry.segments.iter().zip(&segments).all(|(wanted, given)| wanted == given);
            let same = starts && segments.len() == entry.segments.len();
            match &entry.scope {
                Scope::Below => starts && !same,
                Scope::SelfAndBelow => starts,
                Scope::AnyTag => same,
                Scope::Tag(tag) => same && image.tag() == Some(tag) && image.digest.is_none(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> ImageReference {
        text.parse().unwrap_or_else(|_| panic!("{text} was refused"))
    }

    #[test]
    fn short_names_get_their_registry_and_tag() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        let table = [
            ("wopr-network/wopr:latest", "ghcr.io/wopr-network/wopr:latest".to_owned()),
            ("wopr-network/wopr", "ghcr.io/wopr-network/wopr:latest".to_owned()),
            ("GHCR.io/wopr-network/wopr:v1", "ghcr.io/wopr-network/wopr:v1".to_owned()),
            ("localhost/bot", "localhost/bot:latest".to_owned()),
            ("registry.example:5000/a/b:c", "registry.example:5000/a/b:c".to_owned()),
        ];
        for (given, wanted) in table {
            assert_eq!(image(given).to_string(), wanted);
        }
        let pinned = image(&format!("wopr-network/wopr@{digest}"));
        assert_eq!(pinned.tag(), None);
        assert_eq!(pinned.pinned().unwrap().as_str(), format!("ghcr.io/wopr-network/wopr@{digest}"));
        assert_eq!(pinned.pinned().unwrap().digest(), digest);
    }

    #[test]
    fn what_is_not_a_reference_is_refused() {
        let long = format!("a/{}", "b".repeat(600));
        let refused = [
            "",
            "/",
            "a//b",
            "a/../b",
            "a/b:",
            "a/b:-x",
            "A/b",
            "a/b@sha256:zz",
            "a/b c",
            "https://ghcr.io/a/b",
            "-evil.example/a",
            "a/b\n",
            "ghcr.io:0/a",
            "ghcr.io:99999/a",
            "a/b:c:d",
            "ghcr.io/",
            "--privileged/x",
            long.as_str(),
        ];
        for text in refused {
            assert_eq!(text.parse::<ImageReference>(), Err(InvalidImage), "{text:?}");
        }
    }

    #[test]
    fn the_allow_list_compares_whole_segments() {
        let table = [
            ("ghcr.io/wopr-network/", "wopr-network/wopr:latest", true),
            ("ghcr.io/wopr-network/*", "wopr-network/wopr/slim:1", true),
            ("ghcr.io/wopr-network", "ghcr.io/wopr-network-evil/wopr:latest", false),
            ("ghcr.io/wopr-network/", "evil.example/ghcr.io/wopr-network/wopr", false),
            ("ghcr.io/wopr-network/", "ghcr.io.evil.example/wopr-network/wopr", false),
            ("ghcr.io/wopr-network/", "ghcr.io:5000/wopr-network/wopr", false),
            ("ghcr.io/wopr-network/wopr:*", "wopr-network/wopr:anything", true),
            ("ghcr.io/wopr-network/wopr:*", "wopr-network/wopr-slim:anything", false),
            ("ghcr.io/wopr-network/wopr:*", "wopr-network/wopr/below:anything", false),
            ("ghcr.io/wopr-network/wopr:stable", "wopr-network/wopr:stable", true),
            ("ghcr.io/wopr-network/wopr:stable", "wopr-network/wopr:latest", false),
            ("wopr-network/wopr:*", "ghcr.io/wopr-network/wopr:latest", true),
            ("registry.example:5000/", "registry.example:5000/a/b", true),
            ("a.example/x:*, ghcr.io/wopr-network/", "wopr-network/wopr", true),
        ];
        for (list, name, admitted) in table {
            let list: ImageAllowList = list.parse().unwrap();
            assert_eq!(list.admits(&image(name)), admitted, "{list:?} {name}");
        }
        assert!(ImageAllowList::default().admits(&image("wopr-network/wopr")));
        assert!(!ImageAllowList::default().admits(&image("docker.io/library/nginx")));
        for list in ["", " , ", "ghcr.io/Wopr/", "ghcr.io/wopr:-"] {
            assert!(list.parse::<ImageAllowList>().is_err(), "{list:?}");
        }
    }
}
