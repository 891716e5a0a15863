//! TLS as libpq's modes mean it, by rustls.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::error::WireError;
use crate::conninfo::{ConnInfo, Roots, SslMode, TlsVersion};

/// How much of a server's certificate is looked at.
#[derive(Debug)]
struct Verifier {
    /// None: whatever it is, as long as the server has its key.
    chain: Option<Arc<WebPkiServerVerifier>>,
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified =
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The chain was checked before the name.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn bad(peer: &str, why: impl Into<String>) -> WireError {
    WireError::Tls {
        peer: peer.to_owned(),
        why: why.into(),
        source: None,
    }
}

fn certificates(peer: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, WireError> {
    let read = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad(peer, format!("{} can't be read: {error}", path.display())))?;
    if read.is_empty() {
        return Err(bad(
            peer,
            format!("{} holds no certificate", path.display()),
        ));
    }
    Ok(read)
}

fn root_store(peer: &str, roots: &Roots) -> Result<RootCertStore, WireError> {
    let mut store = RootCertStore::empty();
    let found = match roots {
        Roots::File(path) => certificates(peer, path)?,
        Roots::System => rustls_native_certs::load_native_certs().certs,
    };
    // Systems carry certificates that rustls can't read; a file of one's own should be all right.
    let (added, _unreadable) = store.add_parsable_certificates(found);
    if added == 0 {
        return Err(bad(
            peer,
            "no trusted authority could be read: check sslrootcert",
        ));
    }
    Ok(store)
}

fn versions(info: &ConnInfo) -> Vec<&'static rustls::SupportedProtocolVersion> {
    let (oldest, newest) = info.tls_versions;
    let known = [
        (TlsVersion::V1_2, &rustls::version::TLS12),
        (TlsVersion::V1_3, &rustls::version::TLS13),
    ];
    let will_do = known
        .into_iter()
        .filter(|(version, _)| *version >= oldest && *version <= newest);
    will_do.map(|(_, version)| version).collect()
}

/// The configuration that `info` asks for.
pub(super) fn config(info: &ConnInfo, peer: &str) -> Result<Arc<ClientConfig>, WireError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = match &info.roots {
        // As libpq: with a root certificate at hand, `require` checks the chain.
        Some(roots) if info.ssl >= SslMode::Require => {
            let store = Arc::new(root_store(peer, roots)?);
            let builder = WebPkiServerVerifier::builder_with_provider(store, Arc::clone(&provider));
            Some(
                builder
                    .build()
                    .map_err(|error| bad(peer, error.to_string()))?,
            )
        }
        _ => None,
    };
    let verifier = Verifier {
        chain,
        name: info.ssl == SslMode::VerifyFull,
        provider: Arc::clone(&provider),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(info))
        .map_err(|error| bad(peer, error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match &info.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(peer, certificate)?;
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| bad(peer, format!("{} can't be read: {error}", key.display())))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| bad(peer, format!("the client's certificate: {error}")))?
        }
    };
    Ok(Arc::new(config))
}
