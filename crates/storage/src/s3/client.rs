//! One SDK client per region, with nothing left to a default that changes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tidemark_format::RegionName;
use tidemark_host::{Checksum, S3Url};

use super::observe::Observer;
use super::{ANSWER_SECONDS_MAX, CONNECT_SECONDS_MAX, S3Options, STALL_SECONDS_MAX};
use crate::{Error, Place, Result};

/// What a server that isn't AWS is told when no region is given: most ignore it.
const REGION_BESIDE_AWS: &str = "us-east-1";

/// Larger than any CA bundle; a mistaken path must not fill the memory.
const CA_BYTES_MAX: u64 = 4 << 20;

/// The SDK's behaviour as of this date: its later defaults are adopted by choice, not by update.
fn behaviour() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

/// Builds the client of one region.
pub(super) async fn build(
    name: &RegionName,
    url: &S3Url,
    options: &S3Options,
    place: &Place,
    observer: &Arc<Observer>,
) -> Result<Client> {
    let http = http_client(url, place)?;
    let shared = Box::pin(shared_config(url, options).load()).await;
    if shared.region().is_none() {
        return Err(Error::invalid(
            place,
            "no AWS region is known: add region=… to its URL, or set AWS_REGION",
            None,
        ));
    }
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
        .read_timeout(Duration::from_secs(ANSWER_SECONDS_MAX))
        .build();
    let stalls = StalledStreamProtectionConfig::enabled()
        .grace_period(Duration::from_secs(STALL_SECONDS_MAX))
        .build();
    let mut config = Builder::from(&shared)
        .behavior_version(behaviour())
        .http_client(http)
        .force_path_style(url.uses_path_style())
        .retry_config(RetryConfig::disabled())
        // Without a partition of its own a dead region would use up the others' retry tokens.
        .retry_partition(RetryPartition::new(format!("tidemark-{name}")))
        .timeout_config(timeouts)
        .stalled_stream_protection(stalls)
        .request_checksum_calculation(checksums(url.checksum))
        // Hashes of our own are verified on every read.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .interceptor(observer.interceptor());
    if let Some(endpoint) = &url.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok(Client::from_conf(config.build()))
}

/// Every put names its algorithm; the SDK computes it, for a body in memory into a header, only if
/// it is told "when supported". Otherwise nothing must be added: some servers refuse the header.
const fn checksums(wanted: Checksum) -> RequestChecksumCalculation {
    match wanted {
        Checksum::Off => RequestChecksumCalculation::WhenRequired,
        Checksum::Crc32c | Checksum::Sha256 | Checksum::Crc32 => {
            RequestChecksumCalculation::WhenSupported
        }
    }
}

/// Credentials and region, by AWS's chain or as the URL says.
fn shared_config(url: &S3Url, options: &S3Options) -> aws_config::ConfigLoader {
    let mut loader = aws_config::defaults(behaviour());
    let region = url.region.as_deref();
    if let Some(region) = region.or_else(|| url.endpoint.as_ref().map(|_| REGION_BESIDE_AWS)) {
        loader = loader.region(Region::new(region.to_owned()));
    }
    if let Some(profile) = &url.profile {
        loader = loader.profile_name(profile);
    }
    // What is given for this region goes before what happens to be in the environment: two regions
    // with two providers need two credentials.
    let mut own = ProfileFileCredentialsProvider::builder();
    if let Some(profile) = &url.profile {
        own = own.profile_name(profile);
    }
    if let Some(file) = &options.credentials_file {
        loader.credentials_provider(own.profile_files(only(file)).build())
    } else if url.profile.is_some() {
        loader.credentials_provider(own.build())
    } else {
        loader
    }
}

#[expect(
    deprecated,
    reason = "the new name lives in a crate that is no dependency of ours"
)]
fn only(file: &Path) -> aws_config::profile::profile_file::ProfileFiles {
    use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
    ProfileFiles::builder()
        .with_file(ProfileFileKind::Credentials, file)
        .build()
}

fn http_client(url: &S3Url, place: &Place) -> Result<SharedHttpClient> {
    let builder = aws_smithy_http_client::Builder::new();
    if url.is_http() {
        return Ok(builder.build_http());
    }
    let trusted = match &url.ca {
        Some(ca) => TrustStore::empty().with_pem_certificate(checked_pem(ca, place)?),
        None => TrustStore::default(),
    };
    let context = TlsContext::builder()
        .with_trust_store(trusted)
        .build()
        .map_err(|error| Error::invalid(place, "TLS can't be set up", Some(Arc::new(error))))?;
    Ok(builder
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context)
        .build_https())
}

/// Reads a PEM file and makes sure that the TLS library will accept it: it panics otherwise.
fn checked_pem(path: &Path, place: &Place) -> Result<Vec<u8>> {
    let bad = |why: &str, source: Option<crate::Cause>| {
        Error::invalid(place, format!("ca={}: {why}", path.display()), source)
    };
    let size = std::fs::metadata(path)
        .map_err(|error| bad("the file can't be read", Some(Arc::new(error))))?
        .len();
    if size > CA_BYTES_MAX {
        return Err(bad("the file is too large for certificates", None));
    }
    let pem = std::fs::read(path)
        .map_err(|error| bad("the file can't be read", Some(Arc::new(error))))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.map_err(|error| bad("the file is not valid PEM", Some(Arc::new(error))))?;
        roots
            .add(certificate)
            .map_err(|error| bad("a certificate in it can't be used", Some(Arc::new(error))))?;
    }
    if roots.is_empty() {
        return Err(bad("there is no certificate in it", None));
    }
    Ok(pem)
}
