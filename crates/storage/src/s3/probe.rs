//! Finding out what the bucket enforces against this very credential, without leaving traces where
//! that can be helped.
//!
//! Two things make create-only *enforced*: versions that this credential can't delete (an overwrite
//! then only adds one, and restore takes the oldest), or a policy that refuses an overwrite. The
//! right to delete versions is tried on a version that doesn't exist. The one object left behind is
//! `meta/probe`, a few bytes.

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_format::{Key, PutId};

use super::write::Condition;
use super::{Inner, S3Store, Versioning, errors};
use crate::{CreateOnly, Error, ErrorKind, Op, Probe, ProbeReport, Result};

/// The object that probes create.
const PROBE: &str = "meta/probe";
/// Its bytes, always the same.
const PROBE_BYTES: &[u8] = b"tidemark probes here whether an object can be overwritten\n";

impl Inner {
    /// Whether a second conditional create is refused, as it must be.
    async fn honours_conditions(&self, key: &Key, put: &PutId) -> Result<bool> {
        let body = Bytes::from_static(PROBE_BYTES);
        for _ in 0..2 {
            let answer = self
                .put_once(key, body.clone(), put, Condition::IfAbsent)
                .await?;
            let Err(error) = answer else { continue };
            if errors::answer(&error).is_some_and(|answer| answer.status == 412) {
                return Ok(true);
            }
            return Err(errors::sort(&self.place, Op::Probe, PROBE, error));
        }
        Ok(false)
    }

    async fn keeps_versions(&self, key: &Key) -> Option<bool> {
        let call = Box::pin(
            self.client
                .get_bucket_versioning()
                .bucket(&self.bucket)
                .send(),
        );
        let asked = self
            .attempt(Op::Probe, key.as_str(), 0, async { Ok(call.await) })
            .await;
        if let Ok(Ok(output)) = asked {
            let enabled = aws_sdk_s3::types::BucketVersioningStatus::Enabled;
            return Some(output.status() == Some(&enabled));
        }
        // The right to ask is rare; answers to puts and reads tell as well.
        match self.versioning() {
            Versioning::Kept => Some(true),
            Versioning::NotKept => Some(false),
            Versioning::NotKnown => None,
        }
    }

    /// Whether this credential may delete versions, tried on one that nobody has.
    async fn may_delete_versions(&self, key: &Key) -> Result<bool> {
        let nobody = Key::new(format!("{key}-nobody")).map_err(|error| {
            Error::invalid(
                &self.place,
                "the probe's key",
                Some(std::sync::Arc::new(error)),
            )
        })?;
        let call = Box::pin(
            self.client
                .delete_object()
                .bucket(&self.bucket)
                .key(self.name(&nobody))
                .version_id("null")
                .send(),
        );
        let answer = self
            .attempt(Op::Probe, PROBE, 0, async { Ok(call.await) })
            .await?;
        let Err(error) = answer else { return Ok(true) };
        match errors::sort(&self.place, Op::Probe, PROBE, error) {
            error if error.kind() == ErrorKind::Denied => Ok(false),
            error if error.kind() == ErrorKind::Unreachable => Err(error),
            // It looked for the version instead of refusing: the right is there.
            _ => Ok(true),
        }
    }

    /// Whether a plain put over an existing object is refused.
    async fn refuses_overwrites(&self, key: &Key, put: &PutId) -> Result<bool> {
        let body = Bytes::from_static(PROBE_BYTES);
        let answer = self.put_once(key, body, put, Condition::Overwrite).await?;
        let Err(error) = answer else { return Ok(false) };
        match errors::sort(&self.place, Op::Probe, PROBE, error) {
            error if error.kind() == ErrorKind::Unreachable => Err(error),
            _ => Ok(true),
        }
    }
}

#[async_trait]
impl Probe for S3Store {
    async fn probe(&self, put: &PutId) -> Result<ProbeReport> {
        let inner = &self.inner;
        let key = Key::new(PROBE).map_err(|error| {
            Error::invalid(
                &inner.place,
                "the probe's key",
                Some(std::sync::Arc::new(error)),
            )
        })?;
        let conditional_create = inner.honours_conditions(&key, put).await?;
        let versioned = inner.keeps_versions(&key).await;
        let report = |create_only, because: &str| ProbeReport {
            create_only,
            because: because.to_owned(),
            conditional_create,
            versioned,
        };
        if !conditional_create {
            let because = "the server ignores If-None-Match: two writers could replace each other";
            return Ok(report(CreateOnly::Advisory, because));
        }
        if versioned == Some(true) && !inner.may_delete_versions(&key).await? {
            let because = "the bucket keeps versions and this credential can't delete them";
            return Ok(report(CreateOnly::Enforced, because));
        }
        if inner.refuses_overwrites(&key, put).await? {
            return Ok(report(CreateOnly::Enforced, "a policy refuses overwriting"));
        }
        let because = match versioned {
            Some(true) => "this credential can delete versions",
            Some(false) => "the bucket keeps no versions and an overwrite was accepted",
            None => {
                "whether the bucket keeps versions could not be told and an overwrite was accepted"
            }
        };
        Ok(report(CreateOnly::Advisory, because))
    }
}
