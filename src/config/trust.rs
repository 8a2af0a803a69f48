//! Whose certificates are trusted when this program calls others.

use std::path::Path;

use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::ConfigError;

/// Trusts others by the certificates in a PEM file, or without one by those of the usual authorities.
pub fn trusting(path: &Path) -> Result<TlsConfig, ConfigError> {
    let tls = TlsConfig::builder();
    if path.as_os_str().is_empty() {
        return Ok(tls.build());
    }
    Ok(tls.root_certs(read_certificates(path)?).build())
}

fn read_certificates(path: &Path) -> Result<RootCerts, ConfigError> {
    let invalid = |fault: String| ConfigError::Invalid {
        setting: "outgoing_ca",
        fault,
    };
    let pem = std::fs::read(path)
        .map_err(|error| invalid(format!("can't be read: `{}`: {error}", path.display())))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(invalid(format!("is no PEM file: {error}"))),
        }
    }
    if certificates.is_empty() {
        return Err(invalid(format!("has no certificate: `{}`", path.display())));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}
