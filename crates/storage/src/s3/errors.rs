//! What an answer of S3, or its absence, means for the caller.

use std::error::Error as StdError;
use std::sync::Arc;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::observe::{WEB_PAGE, is_web_page};
use crate::{Cause, Error, Op, Place, chain};

/// What the store said.
#[derive(Debug, thiserror::Error)]
#[error("HTTP {status} {code}{}{message}", if message.is_empty() { "" } else { ": " })]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
    /// Where the bucket is, if the store says so.
    pub(super) region: Option<String>,
}

/// The answer in `error`, if the store gave one.
pub(super) fn answer<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<Answer> {
    let SdkError::ServiceError(service) = error else {
        return None;
    };
    Some(Answer {
        status: service.raw().status().as_u16(),
        code: service.err().code().unwrap_or_default().to_owned(),
        message: service.err().message().unwrap_or_default().to_owned(),
        region: service
            .raw()
            .headers()
            .get("x-amz-bucket-region")
            .map(str::to_owned),
    })
}

/// Sorts `error` by what the caller can do.
pub(super) fn sort<E>(place: &Place, op: Op, key: &str, error: SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    if let Some(answer) = answer(&error) {
        return sort_answer(place, op, key, answer);
    }
    let mut text = chain(&error);
    if error.raw_response().is_some_and(is_web_page_answer) {
        text.push_str(WEB_PAGE);
    }
    let cause: Cause = Arc::new(error);
    if is_credentials(&text) {
        let why = "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
                   add profile=… to its URL, or give systemd a credential of the region's name";
        return Error::invalid(place, why, Some(cause));
    }
    let why = if text.contains(WEB_PAGE) {
        "it answered with a web page: is endpoint=… the address of its S3 service, and is no \
         proxy or login page in between?"
    } else if text.contains("certificate") {
        "its TLS certificate is not trusted: if it has a CA of its own, add ca=/path/to/ca.pem"
    } else if text.contains("dns error") {
        "its name can't be resolved: check endpoint=… and DNS"
    } else if text.contains("refused") {
        "the connection was refused: is the server up, and is the port right?"
    } else {
        "no usable answer came"
    };
    Error::unreachable(place, op, key, why, Some(cause))
}

fn is_web_page_answer(response: &HttpResponse) -> bool {
    let html = |kind: &str| kind.trim_start().starts_with("text/html");
    response.headers().get("content-type").is_some_and(html)
        || is_web_page(response.body().bytes().unwrap_or_default())
}

fn is_credentials(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("credentials") && (text.contains("load") || text.contains("provider"))
}

fn sort_answer(place: &Place, op: Op, key: &str, answer: Answer) -> Error {
    let place = place.clone();
    let key = key.to_owned();
    let code = answer.code.as_str();
    let reads = matches!(op, Op::Get | Op::Head | Op::List);
    if let Some(why) = misdirected(&answer) {
        return Error::invalid(&place, why, Some(Arc::new(answer)));
    }
    let later = |why: &str, answer: Answer| {
        Error::unreachable(&place, op, &key, why, Some(Arc::new(answer)))
    };
    match (answer.status, code) {
        (_, "RequestTimeTooSkewed") => later(
            "its clock and ours differ by more than it allows: set this host's clock",
            answer,
        ),
        (_, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired") => later(
            "its temporary credential has expired: renew it where it comes from",
            answer,
        ),
        (_, "NoSuchBucket") => {
            Error::invalid(&place, "the bucket does not exist", Some(Arc::new(answer)))
        }
        (507, _) | (_, "XMinioStorageFull" | "QuotaExceeded" | "InsufficientCapacity") => {
            Error::Full {
                place,
                key,
                source: Some(Arc::new(answer)),
            }
        }
        (404, _) => Error::Missing { place, key },
        (401 | 403, _) if reads => Error::Unknown {
            place,
            op,
            key,
            source: Some(Arc::new(answer)),
        },
        (401 | 403, _) => Error::Denied {
            place,
            op,
            key,
            source: Some(Arc::new(answer)),
        },
        (409, _) => later("another request for this name was under way", answer),
        (429, _) | (_, "SlowDown" | "Throttling" | "TooManyRequests") => {
            later("it asks to slow down", answer)
        }
        (408, _) | (_, "RequestTimeout" | "BadDigest") => {
            later("the request did not arrive whole", answer)
        }
        (501, _) if op == Op::Create || op == Op::Probe => Error::invalid(
            &place,
            "the server does not know this operation; conditional puts are needed",
            Some(Arc::new(answer)),
        ),
        (501, _) => Error::invalid(
            &place,
            "the server does not know this operation",
            Some(Arc::new(answer)),
        ),
        (500.., _) => later("the server reported trouble of its own", answer),
        _ => Error::invalid(
            &place,
            "the server refused the request",
            Some(Arc::new(answer)),
        ),
    }
}

/// Why the request went to the wrong place, if it did. A redirected HEAD has no body that says so.
fn misdirected(answer: &Answer) -> Option<String> {
    let redirect = matches!(answer.status, 301 | 307 | 308);
    if !redirect && answer.code != "AuthorizationHeaderMalformed" {
        return None;
    }
    Some(answer.region.as_ref().map_or_else(
        || "the bucket is in another AWS region: set region=…".to_owned(),
        |region| format!("the bucket is in another AWS region: set region={region}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn kind(op: Op, status: u16, code: &str) -> ErrorKind {
        let answer = Answer {
            status,
            code: code.to_owned(),
            message: String::new(),
            region: None,
        };
        sort_answer(&Place::new("s3://b"), op, "k", answer).kind()
    }

    #[test]
    fn a_refused_read_is_unknown_and_a_refused_write_is_denied() {
        assert_eq!(kind(Op::Get, 403, "AccessDenied"), ErrorKind::Unknown);
        assert_eq!(kind(Op::Head, 403, ""), ErrorKind::Unknown);
        assert_eq!(kind(Op::List, 403, "AccessDenied"), ErrorKind::Unknown);
        assert_eq!(kind(Op::Create, 403, "AccessDenied"), ErrorKind::Denied);
    }

    #[test]
    fn what_passes_is_tried_again() {
        for (status, code) in [
            (409, "ConditionalRequestConflict"),
            (503, "SlowDown"),
            (500, "InternalError"),
            (400, "RequestTimeout"),
            (429, ""),
            (403, "RequestTimeTooSkewed"),
            (400, "ExpiredToken"),
        ] {
            assert_eq!(
                kind(Op::Create, status, code),
                ErrorKind::Unreachable,
                "{status} {code}"
            );
        }
    }

    #[test]
    fn what_stays_wrong_is_not_tried_again() {
        assert_eq!(kind(Op::Get, 404, "NoSuchKey"), ErrorKind::Missing);
        assert_eq!(kind(Op::Get, 404, "NoSuchBucket"), ErrorKind::Invalid);
        assert_eq!(kind(Op::Create, 507, ""), ErrorKind::Full);
        assert_eq!(kind(Op::Create, 501, "NotImplemented"), ErrorKind::Invalid);
        assert_eq!(
            kind(Op::Create, 301, "PermanentRedirect"),
            ErrorKind::Invalid
        );
        assert_eq!(kind(Op::Head, 301, ""), ErrorKind::Invalid);
        assert_eq!(
            kind(Op::List, 400, "AuthorizationHeaderMalformed"),
            ErrorKind::Invalid
        );
    }
}
