//! From the client's errors to ours.

use bollard::errors::Error;

use crate::fleet::HostError;

/// Whether the engine answered with this status.
pub(super) fn is_status(error: &Error, status: u16) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code, .. } if *status_code == status)
}

/// Whether the thing is not there, or about not to be.
pub(super) fn is_gone(error: &Error) -> bool {
    is_status(error, 404)
        || matches!(error, Error::DockerResponseServerError { status_code: 409, message }
            if message.contains("removal of container") && message.contains("in progress"))
}

/// What went wrong with `thing`.
pub(super) fn host_error(error: Error, thing: &str) -> HostError {
    match error {
        Error::DockerResponseServerError { message, .. } | Error::DockerStreamError { error: message }
            if is_out_of_space(&message) =>
        {
            HostError::NoSpace(message)
        }
        Error::DockerResponseServerError { status_code: 404, .. } => HostError::NotFound(thing.to_owned()),
        Error::DockerResponseServerError { message, .. } => HostError::Refused(format!("{thing}: {message}")),
        Error::DockerStreamError { error } => HostError::Refused(format!("{thing}: {error}")),
        Error::RequestTimeoutError
        | Error::IOError { .. }
        | Error::HyperResponseError { .. }
        | Error::HyperLegacyError { .. }
        | Error::SocketNotFoundError(_) => HostError::Unreachable(chain(&error)),
        other => HostError::Refused(format!("{thing}: {}", chain(&other))),
    }
}

/// What went wrong with fetching `image`.
pub(super) fn pull_error(error: Error, image: &str) -> HostError {
    match host_error(error, image) {
        HostError::NotFound(_) => HostError::ImageUnavailable {
            image: image.to_owned(),
            reason: "the registry has none of that name".to_owned(),
        },
        HostError::Refused(reason) => HostError::ImageUnavailable { image: image.to_owned(), reason },
        other => other,
    }
}

/// A full disk, or no address range left for another network: either passes when something is removed.
fn is_out_of_space(message: &str) -> bool {
    message.contains("no space left on device")
        || message.contains("disk quota exceeded")
        || message.contains("non-overlapping IPv4 address pool")
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status_code: u16, message: &str) -> Error {
        Error::DockerResponseServerError { status_code, message: message.to_owned() }
    }

    #[test]
    fn each_kind_of_failure_is_told_apart() {
        let full = answer(500, "write /var/lib/docker/x: no space left on device");
        assert!(matches!(host_error(full, "x"), HostError::NoSpace(_)));
        assert!(matches!(host_error(answer(404, "no such container"), "x"), HostError::NotFound(_)));
        assert!(matches!(host_error(answer(400, "bad"), "x"), HostError::Refused(_)));
        let away = Error::IOError { err: std::io::Error::from(std::io::ErrorKind::ConnectionRefused) };
        assert!(matches!(host_error(away, "x"), HostError::Unreachable(_)));
        assert!(matches!(pull_error(answer(404, "manifest unknown"), "x"), HostError::ImageUnavailable { .. }));
        assert!(is_gone(&answer(409, "removal of container x is already in progress")));
        assert!(!is_gone(&answer(409, "name in use")));
    }
}
