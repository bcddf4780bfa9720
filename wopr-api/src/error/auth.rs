use axum::http::StatusCode;
use jiff::SignedDuration;
use wopr_core::auth::AuthError;
use wopr_core::billing::BillingError;

use super::ApiError;

impl From<AuthError> for ApiError {
    /// The codes are the ones that clients of the auth wire know: the message in upper case.
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::InvalidEmail => Self::bad_request("Invalid email").code("INVALID_EMAIL"),
            AuthError::InvalidName => invalid("[body.name] Invalid name"),
            AuthError::InvalidImage => invalid("[body.image] Invalid image"),
            AuthError::InvalidLabel => invalid("[body.label] Invalid label: 1 to 128 characters"),
            AuthError::PasswordTooShort { .. } => Self::bad_request("Password too short").code("PASSWORD_TOO_SHORT"),
            AuthError::PasswordTooLong { .. } => Self::bad_request("Password too long").code("PASSWORD_TOO_LONG"),
            AuthError::EmailTaken => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "USER_ALREADY_EXISTS_USE_ANOTHER_EMAIL",
                "User already exists. Use another email.",
            ),
            AuthError::InvalidCredentials => {
                Self::unauthorized("Invalid email or password").code("INVALID_EMAIL_OR_PASSWORD")
            }
            AuthError::WrongPassword => Self::bad_request("Invalid password").code("INVALID_PASSWORD"),
            AuthError::InvalidToken => Self::bad_request("Invalid token").code("INVALID_TOKEN"),
            AuthError::TooManyAttempts { retry_after } => {
                let message = "Too many requests. Please try again later.";
                let seconds = whole_seconds(retry_after);
                Self::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_REQUESTS", message).retry_after(seconds)
            }
            AuthError::KeyNotFound(_) => Self::not_found("API key not found"),
            AuthError::UserNotFound(_) | AuthError::EmailUnknown => {
                Self::not_found("User not found").code("USER_NOT_FOUND")
            }
            AuthError::LastPlatformAdmin => {
                Self::conflict("The last platform administrator cannot be removed").code("LAST_PLATFORM_ADMIN")
            }
            AuthError::Hashing(_) => Self::unavailable("Passwords cannot be checked at the moment").because(error),
            AuthError::Billing(BillingError::Storage(error)) | AuthError::Storage(error) => error.into(),
            // A grant to a tenant that exists can only be refused by a bug.
            AuthError::Billing(_) => Self::internal(error),
        }
    }
}

fn invalid(message: &'static str) -> ApiError {
    ApiError::bad_request(message).code("VALIDATION_ERROR")
}

/// Rounded up: a client that waits this long is not refused again for a fraction of a second.
fn whole_seconds(wait: SignedDuration) -> u64 {
    let seconds = wait.as_secs() + i64::from(wait.subsec_nanos() > 0);
    u64::try_from(seconds).unwrap_or(0).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_rounded_up() {
        let seconds = [0, 1, 1000, 1001, 60_000].map(|millis| whole_seconds(SignedDuration::from_millis(millis)));
        assert_eq!(seconds, [1, 1, 1, 2, 60]);
    }
}
