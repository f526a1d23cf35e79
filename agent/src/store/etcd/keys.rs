//! Names of keys, as flannel builds them (0.28.9, `pkg/subnet/etcd/registry.go`).

use twill_core::lease_key::LeaseKey;

use super::error::Error;

/// The keys of one network.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// With a slash at its end, if it is not empty.
    prefix: String,
}

impl Keys {
    /// Keys under this prefix, cleaned as Go's `path.Join` does: no empty parts.
    pub(super) fn new(prefix: &str) -> Result<Self, Error> {
        let mut clean = if prefix.starts_with('/') { "/" } else { "" }.to_owned();
        for part in prefix.split('/').filter(|part| !part.is_empty()) {
            if matches!(part, "." | "..") {
                return Err(Error::Prefix {
                    value: prefix.to_owned(),
                });
            }
            clean.push_str(part);
            clean.push('/');
        }
        Ok(Self { prefix: clean })
    }

    /// The network config.
    pub(super) fn config(&self) -> String {
        format!("{}config", self.prefix)
    }

    /// What the keys of all leases begin with.
    pub(super) fn subnets(&self) -> String {
        format!("{}subnets/", self.prefix)
    }

    /// A lease.
    pub(super) fn lease(&self, key: LeaseKey) -> String {
        format!("{}{key}", self.subnets())
    }

    /// The lease that a key names; an error in words otherwise.
    pub(super) fn parse(&self, key: &[u8]) -> Result<LeaseKey, String> {
        let text = std::str::from_utf8(key).map_err(|error| error.to_string())?;
        let name = text
            .strip_prefix(&self.subnets())
            .ok_or_else(|| format!("it is not below {}", self.subnets()))?;
        LeaseKey::parse(name).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_flannels() {
        for prefix in ["/coreos.com/network", "/coreos.com//network/"] {
            let keys = Keys::new(prefix).unwrap();
            assert_eq!(keys.config(), "/coreos.com/network/config");
            let key = LeaseKey::parse("10.5.52.0-24&fd00:12:13::-56").unwrap();
            let text = "/coreos.com/network/subnets/10.5.52.0-24&fd00:12:13::-56";
            assert_eq!(keys.lease(key), text);
            assert_eq!(keys.parse(text.as_bytes()), Ok(key));
        }
        for (prefix, config) in [("a/b", "a/b/config"), ("/", "/config"), ("", "config")] {
            assert_eq!(Keys::new(prefix).unwrap().config(), config);
        }
        for wrong in ["/a/../b", ".", "/a/."] {
            assert!(Keys::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn other_keys_are_none() {
        let keys = Keys::new("/n").unwrap();
        for key in [
            b"/n/subnets/".as_slice(),
            b"/n/subnets/x",
            b"/n/subnets/10.5.52.0-24/x",
            b"/n/subnets10.5.52.0-24",
            b"/m/subnets/10.5.52.0-24",
            b"/n/subnets/\xff",
            b"",
        ] {
            assert!(keys.parse(key).is_err(), "{key:?}");
        }
    }
}
