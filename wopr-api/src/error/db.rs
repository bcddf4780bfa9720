use wopr_core::db::DbError;

use super::ApiError;

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        if error.is_unavailable() {
            return Self::unavailable("The database cannot be reached; nothing was changed")
                .code("STORAGE_UNAVAILABLE")
                .because(error);
        }
        match &error {
            // Unavailable is answered above; it is named so that a new variant has to be placed.
            DbError::Config(_)
            | DbError::Unavailable(_)
            | DbError::Inconsistent { .. }
            | DbError::Migration(_)
            | DbError::Statement(_) => Self::internal(error),
        }
    }
}
