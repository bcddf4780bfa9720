//! Why a request cannot be read or translated.

use std::borrow::Cow;

/// Why a request cannot be read or translated: always the caller's to put right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The body is no JSON.
    #[error("the body is not valid JSON at line {line}, column {column}")]
    NotJson {
        /// Counted from one.
        line: usize,
        /// Counted from one; zero if nothing was there.
        column: usize,
    },
    /// The body is JSON, but no object, or one with too many fields.
    #[error("the body must be a JSON object")]
    NotObject,
    /// A field that must be there is not.
    #[error("{field} is missing")]
    Missing {
        /// Its name, or its path such as `messages.0.content`.
        field: Cow<'static, str>,
    },
    /// A field is not as it must be.
    #[error("{field} {why}")]
    Invalid {
        /// Its name, or its path.
        field: Cow<'static, str>,
        /// What is wrong, so that it can follow the name.
        why: Cow<'static, str>,
    },
    /// A field has a meaning that the model's provider cannot be told.
    #[error("{field} is not supported for this model")]
    Unsupported {
        /// Its name, or its path.
        field: Cow<'static, str>,
    },
}

impl WireError {
    /// The stable word for it.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotJson { .. } => "parse_error",
            Self::Missing { .. } => "missing_field",
            Self::NotObject | Self::Invalid { .. } => "invalid_request",
            Self::Unsupported { .. } => "unsupported_field",
        }
    }

    /// The field it is about.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::NotJson { .. } | Self::NotObject => None,
            Self::Missing { field } | Self::Invalid { field, .. } | Self::Unsupported { field } => Some(field),
        }
    }

    pub(super) fn missing(field: impl Into<Cow<'static, str>>) -> Self {
        Self::Missing { field: field.into() }
    }

    pub(super) fn invalid(field: impl Into<Cow<'static, str>>, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { field: field.into(), why: why.into() }
    }

    pub(super) fn unsupported(field: impl Into<Cow<'static, str>>) -> Self {
        Self::Unsupported { field: field.into() }
    }

    pub(super) fn of_body(error: &serde_json::Error) -> Self {
        if error.is_data() { Self::NotObject } else { Self::NotJson { line: error.line(), column: error.column() } }
    }
}
