use diesel::result::{DatabaseErrorKind, Error};

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The connection URL or the schema name cannot be used.
    #[error("the database configuration cannot be used: {0}")]
    Config(String),
    /// No connection could be had in time; nothing was changed.
    #[error("the database cannot be reached: {0}")]
    Unavailable(String),
    /// A stored row breaks a rule of its model.
    #[error("a stored row of {table} is inconsistent: {detail}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// What is wrong with it, without personal data.
        detail: String,
    },
    /// A migration could not be applied.
    #[error("migrating the database failed: {0}")]
    Migration(String),
    /// The statement failed; its transaction was rolled back.
    #[error("the database refused a statement")]
    Statement(#[source] Error),
}

impl DbError {
    /// A row of `table` that breaks a rule.
    pub fn inconsistent(table: &'static str, detail: impl ToString) -> Self {
        Self::Inconsistent { table, detail: detail.to_string() }
    }

    /// The constraint that was violated, if that is what happened.
    pub fn violated_constraint(&self) -> Option<&str> {
        match self {
            Self::Statement(Error::DatabaseError(
                DatabaseErrorKind::UniqueViolation
                | DatabaseErrorKind::CheckViolation
                | DatabaseErrorKind::ForeignKeyViolation
                | DatabaseErrorKind::ExclusionViolation,
                info,
            )) => info.constraint_name(),
            _ => None,
        }
    }

    /// Whether the rows themselves were refused, so that trying the same again does not help. Of other errors the driver does not
    /// tell which they are: a server that goes down in the middle of a statement looks like one that has no room for a number.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Inconsistent { .. } => true,
            Self::Statement(Error::DatabaseError(kind, _)) => matches!(
                kind,
                DatabaseErrorKind::UniqueViolation
                    | DatabaseErrorKind::ForeignKeyViolation
                    | DatabaseErrorKind::NotNullViolation
                    | DatabaseErrorKind::CheckViolation
                    | DatabaseErrorKind::RestrictViolation
                    | DatabaseErrorKind::ExclusionViolation
            ),
            _ => false,
        }
    }

    /// Whether trying again later may help: the database was away, not unwilling.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_)
                | Self::Statement(
                    Error::BrokenTransactionManager
                        | Error::DatabaseError(
                            DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand,
                            _
                        )
                )
        )
    }
}

impl From<Error> for DbError {
    fn from(error: Error) -> Self {
        Self::Statement(error)
    }
}
