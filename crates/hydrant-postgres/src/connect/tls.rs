//! TLS by rustls, with `sslmode` as libpq means it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydrant::{Error, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion, version,
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How much a connection insists on TLS. With roots, each of them verifies the chain, as in libpq; that
/// makes the weak ones not strong, because they go on without TLS where that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    /// Never.
    Disable,
    /// Only where the server will not have it otherwise.
    Allow,
    /// Where the server offers it, else without.
    Prefer,
    /// Always; the server is verified only if roots are given.
    Require,
    /// Always, and the chain of the certificate.
    VerifyCa,
    /// Always, and the chain of the certificate and the name in it.
    VerifyFull,
}

/// Whom a certificate is to be signed by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Roots {
    #[default]
    None,
    System,
    File(PathBuf),
}

/// One way to try a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Without TLS.
    Plain,
    /// With TLS if the server has it, else without.
    TlsIfThere,
    /// With TLS.
    Tls,
}

#[derive(Clone, Debug)]
pub(crate) struct TlsSettings {
    pub(crate) mode: Option<SslMode>,
    pub(crate) roots: Roots,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) sni: bool,
    pub(crate) only_1_3: bool,
    pub(crate) direct: bool,
    /// A configuration that was handed in; it decides about roots and certificates.
    pub(crate) own: Option<Arc<ClientConfig>>,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            mode: None,
            roots: Roots::None,
            cert: None,
            key: None,
            sni: true,
            only_1_3: false,
            direct: false,
            own: None,
        }
    }
}

impl TlsSettings {
    pub(crate) fn mode(&self) -> SslMode {
        let default = if self.roots == Roots::System { SslMode::VerifyFull } else { SslMode::Prefer };
        self.mode.unwrap_or(default)
    }

    /// The combinations that libpq refuses, and those that need a file.
    pub(crate) fn check(&self) -> Result<()> {
        use SslMode::{Require, VerifyCa, VerifyFull};
        let mode = self.mode();
        if self.roots == Roots::System && mode != VerifyFull {
            // Anybody can have a certificate of a public authority: without the name it proves nothing.
            return Err(Error::invalid("`sslrootcert=system` goes with `sslmode=verify-full` only"));
        }
        if matches!(mode, VerifyCa | VerifyFull) && self.roots == Roots::None && self.own.is_none() {
            return Err(Error::invalid(
                "`sslmode` asks to verify the server; add `sslrootcert=FILE` with the certificate of its authority, \
                 or `sslrootcert=system`",
            ));
        }
        if self.cert.is_some() != self.key.is_some() {
            return Err(Error::invalid("`sslcert` and `sslkey` go together; give both or none"));
        }
        if self.direct && !matches!(mode, Require | VerifyCa | VerifyFull) {
            return Err(Error::invalid("`sslnegotiation=direct` needs `sslmode=require` or more"));
        }
        Ok(())
    }

    /// The ways to try a server, in order; the next only if the one before failed.
    pub(crate) fn ways(&self) -> &'static [Way] {
        match self.mode() {
            SslMode::Disable => &[Way::Plain],
            SslMode::Allow => &[Way::Plain, Way::Tls],
            SslMode::Prefer => &[Way::TlsIfThere, Way::Plain],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Way::Tls],
        }
    }

    /// Reads the certificates; again for each connection, so that renewed ones count.
    ///
    /// Blocks on the file system.
    pub(crate) fn connector(&self) -> Result<MakeRustlsConnect> {
        if let Some(own) = &self.own {
            return Ok(MakeRustlsConnect::new(ClientConfig::clone(own)));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions: &[&SupportedProtocolVersion] =
            if self.only_1_3 { &[&version::TLS13] } else { &[&version::TLS13, &version::TLS12] };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|cause| Error::invalid("these versions of TLS are not supported").because(cause))?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(provider)?);
        let mut config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let private =
                    PrivateKeyDer::from_pem_file(key).map_err(|cause| unreadable("sslkey", key, cause))?;
                builder.with_client_auth_cert(certificates("sslcert", cert)?, private).map_err(|cause| {
                    Error::invalid("`sslcert` and `sslkey` do not fit together").because(cause)
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        config.enable_sni = self.sni;
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(MakeRustlsConnect::new(config))
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
        let roots = match &self.roots {
            Roots::None => return Ok(Arc::new(Verifier { provider, chain: None })),
            Roots::System => system_roots()?,
            Roots::File(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("sslrootcert", path)? {
                    roots.add(certificate).map_err(|cause| {
                        Error::invalid(format!("`sslrootcert` {} holds no root of trust", path.display()))
                            .because(cause)
                    })?;
                }
                roots
            }
        };
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|cause| Error::invalid("`sslrootcert` cannot be used").because(cause))?;
        Ok(match self.mode() {
            SslMode::VerifyFull => chain,
            _ => Arc::new(Verifier { provider, chain: Some(chain) }),
        })
    }
}

fn certificates(param: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|cause| unreadable(param, path, cause))?;
    if found.is_empty() {
        return Err(Error::invalid(format!("`{param}` {} holds no certificate (PEM)", path.display())));
    }
    Ok(found)
}

fn unreadable(param: &str, path: &Path, cause: pem::Error) -> Error {
    Error::invalid(format!("`{param}` {} cannot be read as PEM", path.display())).because(cause)
}

fn system_roots() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let message = "`sslrootcert=system`, but this system has no certificates; install `ca-certificates`, or name a file";
        let error = Error::invalid(message);
        return Err(match found.errors.into_iter().next() {
            Some(cause) => error.because(cause),
            None => error,
        });
    }
    Ok(roots)
}

/// Verifies less than rustls would: the chain without the name (`verify-ca`), or nothing (`require` without
/// roots). That the server has the key of the certificate it shows is verified in any case.
struct Verifier {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("chain", &self.chain.is_some()).finish_non_exhaustive()
    }
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
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, when the chain was found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
