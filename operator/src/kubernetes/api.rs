//! Calls to the API server: each has a time limit, and each failure is sorted by what to do about it.

use std::future::Future;
use std::time::Duration;

use thiserror::Error;

use crate::backend::Class;

/// Why a call did not do what it was made for.
#[derive(Debug, Error)]
#[error("{what}: {why}")]
pub struct ApiError {
    /// What was tried, in words.
    pub what: String,
    /// What the API server said, or that it said nothing.
    pub why: String,
    /// What to do about it.
    pub class: Class,
}

impl ApiError {
    /// What was found is not what was expected.
    pub fn outdated(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
            class: Class::Outdated,
        }
    }

    /// Nobody answered.
    pub fn unanswered(what: impl Into<String>, limit: Duration) -> Self {
        Self {
            what: what.into(),
            why: format!("the API server did not answer within {limit:?}"),
            class: Class::Transport,
        }
    }

    /// Sorts what kube says.
    pub fn new(what: impl Into<String>, error: &kube::Error) -> Self {
        Self {
            what: what.into(),
            why: words(error),
            class: class(error),
        }
    }
}

/// Waits for a call, though not for ever.
pub async fn call<T>(
    what: impl Into<String>,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApiError> {
    call_within(CALL_TIMEOUT, what, request).await
}

/// [`call`] with a limit of its own.
pub async fn call_within<T>(
    limit: Duration,
    what: impl Into<String>,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(limit, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(ApiError::new(what, &error)),
        Err(_) => Err(ApiError::unanswered(what, limit)),
    }
}

fn class(error: &kube::Error) -> Class {
    let kube::Error::Api(status) = error else {
        return match error {
            kube::Error::BuildRequest(_) | kube::Error::SerdeError(_) => Class::Refused,
            _ => Class::Transport,
        };
    };
    match status.code {
        // Gone, changed by somebody else, or there already: the next look shows which.
        404 | 409 | 410 => Class::Outdated,
        408 | 425 | 429 | 500.. => Class::Transport,
        _ => Class::Refused,
    }
}

/// What the API server said, without the rest of the object that carried it.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        kube::Error::Api(status) => format!("HTTP {} {}", status.code, status.reason),
        kube::Error::Service(error) => with_causes(error.as_ref()),
        other => with_causes(other),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// Longest time that one call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answered(code: u16, reason: &str) -> kube::Error {
        kube::Error::Api(Status::failure("no", reason).with_code(code).boxed())
    }

    #[test]
    fn failures_are_sorted_by_what_to_do_about_them() {
        let cases = [
            (404, "NotFound", Class::Outdated),
            (409, "Conflict", Class::Outdated),
            (409, "AlreadyExists", Class::Outdated),
            (410, "Expired", Class::Outdated),
            (400, "BadRequest", Class::Refused),
            (401, "Unauthorized", Class::Refused),
            (403, "Forbidden", Class::Refused),
            (422, "Invalid", Class::Refused),
            (429, "TooManyRequests", Class::Transport),
            (500, "InternalError", Class::Transport),
            (503, "ServiceUnavailable", Class::Transport),
            (504, "Timeout", Class::Transport),
        ];
        for (code, reason, expected) in cases {
            assert_eq!(class(&answered(code, reason)), expected, "{code} {reason}");
        }
    }

    #[tokio::test]
    async fn a_call_that_hangs_ends_with_words() {
        let never = std::future::pending::<Result<(), kube::Error>>();
        let limit = Duration::from_millis(1);
        let error = call_within(limit, "reading pod demo-1", never)
            .await
            .unwrap_err();
        assert_eq!(error.class, Class::Transport);
        let words = "reading pod demo-1: the API server did not answer within 1ms";
        assert_eq!(error.to_string(), words);
    }

    #[tokio::test]
    async fn what_the_api_server_said_is_passed_on() {
        let denied = async { Err::<(), _>(answered(403, "Forbidden")) };
        let error = call("creating pod demo-1", denied).await.unwrap_err();
        assert_eq!(error.to_string(), "creating pod demo-1: no");
    }
}
