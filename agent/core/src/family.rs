//! Values that there may be one of for each address family.

/// One for each family, as far as there is one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PerFamily<T> {
    /// For IPv4.
    pub v4: Option<T>,
    /// For IPv6.
    pub v6: Option<T>,
}

impl<T> Default for PerFamily<T> {
    fn default() -> Self {
        Self { v4: None, v6: None }
    }
}
