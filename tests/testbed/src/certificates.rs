//! An authority of our own, and certificates by it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};

use crate::topology::Node;

/// The authority.
pub struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Certificates {
    /// A new authority.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "twill testbed");
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// Writes `ca.pem`, `cert.pem` and `key.pem` into the node's directory; the certificate is
    /// good for a server at this address, and for a client.
    pub fn write(&self, node: &Node, address: Ipv4Addr) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .subject_alt_names
            .push(SanType::IpAddress(IpAddr::V4(address)));
        // No common name: etcd would take it for a user's.
        params.distinguished_name.remove(DnType::CommonName);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer)?;
        for (name, text) in [
            ("ca.pem", self.pem.clone()),
            ("cert.pem", certificate.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            let path = node.directory().join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}
