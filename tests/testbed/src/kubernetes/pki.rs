//! Who is who in a cluster: an authority, certificates by it, and kubeconfigs with them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Whom a kubeconfig speaks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum User<'a> {
    /// May do everything.
    Admin,
    /// The kubelet of this node: `NodeRestriction` holds it to its own.
    Node(&'a str),
    /// flanneld as a process of a host, with the cluster role of kube-flannel.
    Flannel,
    /// The service account `flannel` in the namespace `kube-flannel`, by a token.
    FlannelToken,
    /// Somebody who is known and may do nothing.
    Nobody,
    /// kube-proxy.
    Proxy,
    /// The controller manager.
    Controllers,
    /// The scheduler.
    Scheduler,
}

impl User<'_> {
    /// Of its files.
    pub(super) fn file(self) -> String {
        match self {
            Self::Admin => "admin".to_owned(),
            Self::Node(name) => format!("node-{name}"),
            Self::Flannel => "flannel".to_owned(),
            Self::FlannelToken => "flannel-token".to_owned(),
            Self::Nobody => "nobody".to_owned(),
            Self::Proxy => "proxy".to_owned(),
            Self::Controllers => "controllers".to_owned(),
            Self::Scheduler => "scheduler".to_owned(),
        }
    }

    /// The names in its certificate: its own, and its group's.
    fn names(self) -> (String, Option<&'static str>) {
        match self {
            Self::Admin => ("twill-admin".to_owned(), Some("system:masters")),
            Self::Node(name) => (format!("system:node:{name}"), Some("system:nodes")),
            Self::Flannel | Self::FlannelToken => ("flannel".to_owned(), None),
            Self::Nobody => ("nobody".to_owned(), None),
            Self::Proxy => ("system:kube-proxy".to_owned(), None),
            Self::Controllers => ("system:kube-controller-manager".to_owned(), None),
            Self::Scheduler => ("system:kube-scheduler".to_owned(), None),
        }
    }
}

/// The authority, and the folder where everything of it is.
pub(super) struct Pki {
    folder: PathBuf,
    server: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Pki")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// The API server as pods know it.
const NAMES: [&str; 5] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

impl Pki {
    /// A new authority in this folder, the API server's certificate for these addresses, and the
    /// key of service accounts. `server` is the API server's URL.
    pub(super) fn new(folder: PathBuf, server: &str, addresses: &[Ipv4Addr]) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        name(&mut params, "twill-testbed-ca", None);
        let certificate = params.self_signed(&key)?;
        let pki = Self {
            server: server.to_owned(),
            folder,
            issuer: Issuer::new(params, KeyPair::from_pem(&key.serialize_pem())?),
        };
        pki.write("ca.crt", &certificate.pem())?;
        pki.write("ca.key", &key.serialize_pem())?;
        let accounts = KeyPair::generate()?;
        pki.write("sa.key", &accounts.serialize_pem())?;
        pki.write("sa.pub", &accounts.public_key_pem())?;
        let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
        let addresses = addresses.iter().map(|&address| IpAddr::V4(address));
        (params.subject_alt_names).extend(addresses.map(SanType::IpAddress));
        name(&mut params, "kube-apiserver", None);
        pki.certify("apiserver", params)?;
        Ok(pki)
    }

    /// A file of it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The kubeconfig of a user, with a certificate; made when it is not there.
    pub(super) fn kubeconfig(&self, user: User<'_>) -> Result<PathBuf> {
        let file = user.file();
        let path = self.path(&format!("{file}.conf"));
        if path.is_file() {
            return Ok(path);
        }
        let (own, group) = user.names();
        let mut params = CertificateParams::default();
        name(&mut params, &own, group);
        self.certify(&file, params)?;
        let [certificate, key] = ["crt", "key"].map(|kind| self.path(&format!("{file}.{kind}")));
        let how = format!(
            "client-certificate: {}, client-key: {}",
            certificate.display(),
            key.display()
        );
        self.write_kubeconfig(&path, &how)?;
        Ok(path)
    }

    /// A kubeconfig with a token in it.
    pub(super) fn token_kubeconfig(&self, user: User<'_>, token: &str) -> Result<PathBuf> {
        let path = self.path(&format!("{}.conf", user.file()));
        self.write_kubeconfig(&path, &format!("token: {token}"))?;
        Ok(path)
    }

    fn write_kubeconfig(&self, path: &Path, user: &str) -> Result<()> {
        let (server, ca) = (&self.server, self.path("ca.crt"));
        let text = format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters: [{{ name: testbed, cluster: {{ server: \"{server}\", certificate-authority: {} }} }}]\n\
             users: [{{ name: user, user: {{ {user} }} }}]\n\
             contexts: [{{ name: testbed, context: {{ cluster: testbed, user: user }} }}]\n\
             current-context: testbed\n",
            ca.display()
        );
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Writes a key and a certificate for it, good for a server and a client.
    fn certify(&self, file: &str, mut params: CertificateParams) -> Result<()> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer)?;
        self.write(&format!("{file}.crt"), &certificate.pem())?;
        self.write(&format!("{file}.key"), &key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

fn name(params: &mut CertificateParams, own: &str, group: Option<&str>) {
    let names = &mut params.distinguished_name;
    names.remove(DnType::CommonName);
    if let Some(group) = group {
        names.push(DnType::OrganizationName, group);
    }
    names.push(DnType::CommonName, own);
}
