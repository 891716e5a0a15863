//! Creating, and deleting with all versions.

use async_trait::async_trait;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::ChecksumAlgorithm;
use bytes::Bytes;
use tidemark_format::{Key, PutId};
use tidemark_host::Checksum;

use super::read::PUT_ID;
use super::{Inner, S3Store, errors};
use crate::{CreateStore, Created, DeleteStore, Error, ErrorKind, Op, Result};

/// Names below are unguessable: whoever finds one taken has made it.
const UNGUESSABLE: &str = "data/";

/// The version id of what was stored while no versions were kept.
const NULL_VERSION: &str = "null";

type Put = std::result::Result<
    PutObjectOutput,
    SdkError<PutObjectError, aws_sdk_s3::config::http::HttpResponse>,
>;

/// Whether a put minds what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// `If-None-Match: *`.
    IfAbsent,
    /// None: only the probe does that, with bytes that are there already.
    Overwrite,
}

impl Inner {
    /// One PUT, whatever its answer.
    pub(super) async fn put_once(
        &self,
        key: &Key,
        body: Bytes,
        put: &PutId,
        condition: Condition,
    ) -> Result<Put> {
        let size = body.len() as u64;
        let algorithm = match self.checksum {
            Checksum::Crc32c => Some(ChecksumAlgorithm::Crc32C),
            Checksum::Sha256 => Some(ChecksumAlgorithm::Sha256),
            Checksum::Crc32 => Some(ChecksumAlgorithm::Crc32),
            Checksum::Off => None,
        };
        let if_absent = condition == Condition::IfAbsent;
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            // In memory, so that it's a plain PUT: a stream would become aws-chunked.
            .body(ByteStream::new(SdkBody::from(body)))
            .content_type("application/octet-stream")
            .set_checksum_algorithm(algorithm)
            .set_if_none_match(if_absent.then(|| "*".to_owned()))
            .metadata(PUT_ID, put.to_string())
            .customize();
        let request = if self.sign_payload {
            request
        } else {
            request.disable_payload_signing()
        };
        let call = Box::pin(request.send());
        let answer = self
            .attempt(Op::Create, key.as_str(), size, async { Ok(call.await) })
            .await?;
        if let Ok(output) = &answer {
            self.saw_version(output.version_id());
        }
        Ok(answer)
    }

    /// Somebody's object has the name: ours, from a try whose answer was lost?
    async fn judge_existing(&self, key: &Key, put: &PutId) -> Result<Created> {
        if key.as_str().starts_with(UNGUESSABLE) {
            return Ok(Created::AlreadyMine);
        }
        let exists = |put_id| {
            Err(Error::Exists {
                place: self.place.clone(),
                key: key.to_string(),
                put_id,
            })
        };
        match self.head_plain(key).await {
            Ok(info) if info.put_id == Some(*put) => Ok(Created::AlreadyMine),
            Ok(info) => exists(info.put_id),
            Err(error) if error.kind() == ErrorKind::Unknown => exists(None),
            // It was there a moment ago and is not now: the keeper, or an unsteady store.
            Err(Error::Missing { .. }) => Err(Error::unreachable(
                &self.place,
                Op::Create,
                key.as_str(),
                "it said that the object exists and then that it does not",
                None,
            )),
            Err(error) => Err(error),
        }
    }

    async fn delete_once(&self, key: &Key, version: Option<&str>) -> Result<bool> {
        let request = self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .set_version_id(version.map(str::to_owned));
        let call = Box::pin(request.send());
        let answer = self
            .attempt(Op::Delete, key.as_str(), 0, async { Ok(call.await) })
            .await?;
        match answer {
            Ok(output) => Ok(output.delete_marker().unwrap_or(false)),
            Err(error) => match errors::sort(&self.place, Op::Delete, key.as_str(), error) {
                Error::Missing { .. } => Ok(false),
                error => Err(error),
            },
        }
    }
}

#[async_trait]
impl CreateStore for S3Store {
    async fn create(&self, key: &Key, body: Bytes, put: &PutId) -> Result<Created> {
        let inner = &self.inner;
        let answer = inner.put_once(key, body, put, Condition::IfAbsent).await?;
        let Err(error) = answer else {
            return Ok(Created::New);
        };
        if errors::answer(&error).is_some_and(|answer| answer.status == 412) {
            return inner.judge_existing(key, put).await;
        }
        Err(
            match errors::sort(&inner.place, Op::Create, key.as_str(), error) {
                // Nothing can be missing for a put except its bucket.
                Error::Missing { .. } => {
                    Error::invalid(&inner.place, "the bucket does not exist", None)
                }
                error => error,
            },
        )
    }
}

#[async_trait]
impl DeleteStore for S3Store {
    async fn delete(&self, key: &Key) -> Result<()> {
        let inner = &self.inner;
        let ids = inner.every_id(key).await?;
        let listed = ids.is_some();
        let ids = ids.unwrap_or_default();
        for id in ids.iter().filter(|id| *id != NULL_VERSION) {
            inner.delete_once(key, Some(id)).await?;
        }
        let versioned = ids.iter().any(|id| id != NULL_VERSION);
        if versioned {
            // What was stored before versions were kept.
            if ids.iter().any(|id| id == NULL_VERSION) {
                inner.delete_once(key, Some(NULL_VERSION)).await?;
            }
            return Ok(());
        }
        if listed && ids.is_empty() {
            return Ok(());
        }
        if inner.delete_once(key, None).await? {
            return Err(Error::invalid(
                &inner.place,
                format!(
                    "{key} is only hidden, for the bucket keeps versions that this credential \
                     can't list: grant it s3:ListBucketVersions and s3:DeleteObjectVersion"
                ),
                None,
            ));
        }
        Ok(())
    }
}
