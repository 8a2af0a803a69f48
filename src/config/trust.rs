//! How this program calls others, and whose certificates it trusts then.

use std::path::Path;

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::AgentScope;

use super::{ConfigError, Settings};

const USER_AGENT: &str = concat!("sinter/", env!("CARGO_PKG_VERSION"));

/// An agent of the server: it says who it is, trusts `outgoing_ca`, gives any status as an answer, and goes to the address
/// that was named alone, neither through a proxy of the environment nor to where a redirect leads.
pub fn agent(settings: &Settings) -> Result<ConfigBuilder<AgentScope>, ConfigError> {
    Ok(Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(USER_AGENT)
        .tls_config(trusting(&settings.outgoing_ca)?))
}

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
