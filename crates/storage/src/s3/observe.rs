//! What every answer tells besides its content: the store's clock, and errors that hide in a 200.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use jiff::SignedDuration;
use tidemark_host::Clock;

/// Collects what answers tell about one store.
pub(super) struct Observer {
    clock: Arc<dyn Clock>,
    offset: Mutex<Option<SignedDuration>>,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

impl Observer {
    pub(super) const fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            offset: Mutex::new(None),
        }
    }

    /// The last Date header minus our clock.
    pub(super) fn date_offset(&self) -> Option<SignedDuration> {
        *self.offset.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part that the SDK calls.
    pub(super) fn interceptor(self: &Arc<Self>) -> Interceptor {
        Interceptor(Arc::clone(self))
    }

    fn saw_date(&self, header: &str) {
        // A header that can't be read is the same as none.
        let Ok(date) = jiff::fmt::rfc2822::parse(header) else {
            return;
        };
        let offset = date.timestamp().duration_since(self.clock.now());
        *self.offset.lock().unwrap_or_else(PoisonError::into_inner) = Some(offset);
    }
}

/// Hands answers to an [`Observer`].
#[derive(Debug)]
pub(super) struct Interceptor(Arc<Observer>);

/// A server began with "200 OK" and then ran into trouble.
#[derive(Debug, thiserror::Error)]
#[error("the server said 200 and sent an error: {0}")]
struct ErrorInside(String);

/// How a web page is called in a chain of causes.
pub(super) const WEB_PAGE: &str = "a web page instead of an answer";

/// Something that isn't an object store answered: a login page of a network, a console, a proxy.
#[derive(Debug, thiserror::Error)]
#[error("{WEB_PAGE} came: {0}")]
struct WebPage(String);

impl Intercept for Interceptor {
    fn name(&self) -> &'static str {
        "tidemark-observer"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        if let Some(date) = response.headers().get("date") {
            self.0.saw_date(date);
        }
        // Bodies of objects are streams and not here; these are answers to puts, deletes and lists.
        let body = response.body().bytes().unwrap_or_default();
        let shown = || String::from_utf8_lossy(body).chars().take(300).collect();
        if response.status().is_success() && is_error_document(body) {
            return Err(Box::new(ErrorInside(shown())));
        }
        if response.status().is_success() && is_web_page(body) {
            return Err(Box::new(WebPage(shown())));
        }
        Ok(())
    }
}

/// Whether `body` is a web page: nothing of ours begins like one.
pub(super) fn is_web_page(body: &[u8]) -> bool {
    let start = body.get(..body.len().min(256)).unwrap_or_default();
    let text = String::from_utf8_lossy(start).to_ascii_lowercase();
    let text = text.trim_start_matches('\u{feff}').trim_start();
    text.starts_with("<!doctype html") || text.starts_with("<html")
}

/// Whether `body` is S3's XML for an error instead of what was asked for.
pub(super) fn is_error_document(body: &[u8]) -> bool {
    let start = body.get(..body.len().min(256)).unwrap_or_default();
    let text = String::from_utf8_lossy(start);
    let text = text.trim_start();
    let root = text.strip_prefix("<?xml").map_or(text, |declared| {
        declared
            .split_once("?>")
            .map_or("", |(_, rest)| rest)
            .trim_start()
    });
    root.starts_with("<Error>") || root.starts_with("<Error ")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tidemark_host::SimClock;

    use super::*;

    #[test]
    fn an_error_document_is_told_from_other_bodies() {
        assert!(is_error_document(
            b"<Error><Code>InternalError</Code></Error>"
        ));
        assert!(is_error_document(
            b"<?xml version=\"1.0\"?>\n<Error><Code>x</Code></Error>"
        ));
        assert!(is_error_document(b"\n \n<Error>"));
        assert!(!is_error_document(b""));
        assert!(!is_error_document(
            b"<?xml version=\"1.0\"?><ListBucketResult><Error>"
        ));
        assert!(!is_error_document(b"TIDEMARK\x01"));
    }

    #[test]
    fn a_web_page_is_told_from_other_bodies() {
        assert!(is_web_page(b"<!DOCTYPE html><title>Log in</title>"));
        assert!(is_web_page(b"\n <HTML><body>"));
        assert!(!is_web_page(b""));
        assert!(!is_web_page(b"<?xml version=\"1.0\"?><ListBucketResult>"));
        assert!(!is_web_page(b"TIDEMARK\x01"));
    }

    #[test]
    fn the_stores_date_is_compared_with_our_clock() {
        let clock = SimClock::at("2026-03-01T10:00:00Z".parse::<Timestamp>().unwrap());
        let observer = Observer::new(clock.shared());
        assert_eq!(observer.date_offset(), None);
        observer.saw_date("Sun, 01 Mar 2026 10:00:07 GMT");
        assert_eq!(observer.date_offset(), Some(SignedDuration::from_secs(7)));
        observer.saw_date("nonsense");
        assert_eq!(observer.date_offset(), Some(SignedDuration::from_secs(7)));
    }
}
