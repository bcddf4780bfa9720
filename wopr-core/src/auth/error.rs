use jiff::SignedDuration;

use crate::billing::BillingError;
use crate::db::DbError;
use crate::ids::{ApiKeyId, UserId};

/// Why somebody was not let in, or a change to an account was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Not a mail address.
    #[error("not a mail address")]
    InvalidEmail,
    /// A user's name is longer than 256 characters or has control characters.
    #[error("not a usable name")]
    InvalidName,
    /// A user's image is longer than 2048 characters or has control characters.
    #[error("not a usable image address")]
    InvalidImage,
    /// A key's label is not 1 to 128 characters, or has control characters.
    #[error("not a usable label")]
    InvalidLabel,
    /// The password has fewer characters than the policy asks for.
    #[error("a password has at least {min_chars} characters")]
    PasswordTooShort {
        /// The fewest characters.
        min_chars: usize,
    },
    /// The password has more characters than the policy allows.
    #[error("a password has at most {max_chars} characters")]
    PasswordTooLong {
        /// The most characters.
        max_chars: usize,
    },
    /// Somebody has signed up with this address before.
    #[error("the address is in use")]
    EmailTaken,
    /// No such user, or another password: which of them is not told.
    #[error("the address or the password is wrong")]
    InvalidCredentials,
    /// The signed-in user's current password was not given.
    #[error("the password is wrong")]
    WrongPassword,
    /// The link's token is unknown, used or too old.
    #[error("the token is unknown, used or expired")]
    InvalidToken,
    /// Too many sign-ins to this account failed; the next may be tried later.
    #[error("too many attempts, the next is possible in {} s", retry_after.as_secs())]
    TooManyAttempts {
        /// How long to wait.
        retry_after: SignedDuration,
    },
    /// No such key, or not this tenant's.
    #[error("{0} does not exist")]
    KeyNotFound(ApiKeyId),
    /// No such user.
    #[error("user {0} does not exist")]
    UserNotFound(UserId),
    /// Nobody has signed up with this address.
    #[error("nobody has signed up with this address")]
    EmailUnknown,
    /// The last platform administrator cannot be removed.
    #[error("the last platform administrator cannot be removed")]
    LastPlatformAdmin,
    /// The password could not be hashed: there was no memory or no thread for it.
    #[error("a password could not be hashed: {0}")]
    Hashing(String),
    /// The signup grant was refused; nothing was changed.
    #[error("the signup grant was refused")]
    Billing(#[from] BillingError),
    /// Postgres could not answer; nothing was changed.
    #[error("auth storage failed")]
    Storage(#[from] DbError),
}
