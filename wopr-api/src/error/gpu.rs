use axum::http::StatusCode;
use wopr_core::gpu::{CloudError, GpuError, InvalidGpuInput};

use super::ApiError;

impl From<GpuError> for ApiError {
    fn from(error: GpuError) -> Self {
        match error {
            GpuError::NotFound(_) => Self::not_found(error.to_string()),
            GpuError::Invalid(InvalidGpuInput { field, rule }) => {
                Self::bad_request(format!("{field}: {rule}")).code("VALIDATION_ERROR")
            }
            GpuError::NameTaken(_) => Self::conflict(error.to_string()).code("NAME_TAKEN"),
            GpuError::NoSecret => off("GPU_NODE_SECRET is not configured"),
            GpuError::ProvisioningOff(missing) => off(format!("{} is not configured", missing.join(", "))),
            GpuError::NoProvider => off("DO_API_TOKEN is not configured"),
            GpuError::NoMachine(_) => Self::bad_request("Node has no droplet assigned").code("NO_DROPLET"),
            GpuError::WrongStatus { .. } | GpuError::Transition(_) => {
                Self::conflict(error.to_string()).code("WRONG_STATUS")
            }
            GpuError::Cloud(error) => cloud(error),
            GpuError::Storage(error) => error.into(),
        }
    }
}

/// Nothing that trying again would help with.
fn off(message: impl Into<std::borrow::Cow<'static, str>>) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "NOT_CONFIGURED", message)
}

fn cloud(error: CloudError) -> ApiError {
    match error {
        CloudError::Unavailable(_) | CloudError::RateLimited { .. } => {
            ApiError::unavailable("The cloud provider cannot be asked at the moment")
                .code("PROVIDER_UNAVAILABLE")
                .because(error)
        }
        CloudError::Unauthorized | CloudError::NotFound | CloudError::Refused(_) | CloudError::Protocol(_) => {
            ApiError::new(StatusCode::BAD_GATEWAY, "PROVIDER_ERROR", "The cloud provider refused the request")
                .because(error)
        }
    }
}
