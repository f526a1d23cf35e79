//! The archive: an OCI image layout, with the index that `docker load` reads beside it.

use std::env;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What the image says about itself.
pub(super) struct Description<'a> {
    /// Name and tag.
    pub(super) name: &'a str,
    /// When it is from, in seconds since 1970.
    pub(super) time: u64,
    /// The commit.
    pub(super) revision: &'a str,
}

/// The blobs, and the index of them.
pub(super) struct Archive {
    blobs: Vec<Blob>,
    index: Value,
    docker: Value,
}

struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            digest: digest(&bytes),
            bytes,
        }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({
            "mediaType": media_type,
            "digest": format!("sha256:{}", self.digest),
            "size": self.bytes.len(),
        })
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }
}

impl Archive {
    pub(super) fn new(layer: &[u8], description: &Description<'_>) -> Result<Self> {
        let diff = digest(layer);
        let layer = Blob::new(compressed(layer)?);
        let created = rfc3339(description.time);
        let labels = json!({
            "org.opencontainers.image.created": created,
            "org.opencontainers.image.description":
                "A drop-in replacement for flannel with an eBPF fast path",
            "org.opencontainers.image.licenses": "Apache-2.0",
            "org.opencontainers.image.revision": description.revision,
            "org.opencontainers.image.title": "Twill",
            "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
        });
        let config = Blob::json(&json!({
            "created": created,
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": ["/opt/bin/entrypoint"],
                "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin"],
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff}")] },
            "history": [{ "created": created, "created_by": "cargo xtask image" }],
        }));
        let manifest = Blob::json(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
            "annotations": labels,
        }));
        let mut entry = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
        let (_, tag) = description
            .name
            .rsplit_once(':')
            .context("an image's name has a tag: NAME:TAG")?;
        entry["annotations"] = json!({
            "io.containerd.image.name": description.name,
            "org.opencontainers.image.ref.name": tag,
        });
        entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        Ok(Self {
            index: json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [entry],
            }),
            docker: json!([{
                "Config": config.path(),
                "RepoTags": [description.name],
                "Layers": [layer.path()],
            }]),
            blobs: vec![config, manifest, layer],
        })
    }

    /// As a tar archive.
    pub(super) fn bytes(&self, time: u64) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |path: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(time);
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            archive
                .append_data(&mut header, path, bytes)
                .with_context(|| format!("add {path}"))
        };
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add("index.json", self.index.to_string().as_bytes())?;
        add("manifest.json", self.docker.to_string().as_bytes())?;
        for blob in &self.blobs {
            add(&blob.path(), &blob.bytes)?;
        }
        archive.into_inner().context("end the archive")
    }
}

/// Without name and time, which gzip would write as well.
fn compressed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
    encoder.write_all(bytes).context("compress the layer")?;
    encoder.finish().context("compress the layer")
}

fn digest(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let halves = |byte: u8| [byte >> 4, byte & 0xf];
    let digest = Sha256::digest(bytes);
    let digits = digest.iter().copied().flat_map(halves);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// As OCI names it.
pub(super) fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Seconds since 1970, as a date of RFC 3339 in UTC.
pub(super) fn rfc3339(seconds: u64) -> String {
    let (mut day, second) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let (day, second) = (day + 1, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_written_in_lower_case() {
        assert!(digest(b"").starts_with("e3b0c44298fc1c14"));
        assert_eq!(digest(b"").len(), 64);
    }

    #[test]
    fn a_time_is_a_date() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_796_083_199, "2026-11-30T23:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), expected);
        }
    }

    #[test]
    fn the_index_leads_to_the_layer() {
        let description = Description {
            name: "localhost/x:1",
            time: 7,
            revision: "abc",
        };
        let archive = Archive::new(b"layer", &description).unwrap();
        let again = Archive::new(b"layer", &description).unwrap();
        assert_eq!(archive.bytes(7).unwrap(), again.bytes(7).unwrap());
        let [config, manifest, layer] = archive.blobs.as_slice() else {
            panic!("three blobs");
        };
        let entry = &archive.index["manifests"][0];
        assert_eq!(entry["digest"], format!("sha256:{}", manifest.digest));
        assert_eq!(
            entry["annotations"]["io.containerd.image.name"],
            "localhost/x:1"
        );
        let manifest: Value = serde_json::from_slice(&manifest.bytes).unwrap();
        assert_eq!(
            manifest["layers"][0]["digest"],
            format!("sha256:{}", layer.digest)
        );
        let config: Value = serde_json::from_slice(&config.bytes).unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            format!("sha256:{}", digest(b"layer"))
        );
        assert!(
            Archive::new(
                b"",
                &Description {
                    name: "x",
                    ..description
                }
            )
            .is_err()
        );
    }
}
