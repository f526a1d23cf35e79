//! How much runs: the whole tier, or the part of it that a plain `cargo xtask test` has time for.

use super::kernel::{KERNELS, Kernel};
use super::part::{PARTS, Part};

/// How much runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Extent {
    /// Every part, and two guests on one wire.
    Whole,
    /// Every program and every trial on every kernel, and some parts on some kernels.
    Brief,
}

impl Extent {
    /// Whether a part runs on a kernel.
    pub(super) fn has(self, part: &Part, kernel: &Kernel) -> bool {
        match self {
            Self::Whole => true,
            Self::Brief => part.brief.contains(&kernel.series),
        }
    }

    /// Those of `parts` that run on any kernel.
    pub(super) fn parts(self, parts: Vec<&'static Part>) -> Vec<&'static Part> {
        let somewhere = |part: &&Part| KERNELS.iter().any(|kernel| self.has(part, kernel));
        parts.into_iter().filter(somewhere).collect()
    }

    /// What a person must know of the short run on kernels of these series: that it is a part,
    /// and which.
    pub(super) fn remark(self, series: &[&str]) -> Option<String> {
        if self == Self::Whole {
            return None;
        }
        let mut list = vec![format!("programs and features on {}", series.join(", "))];
        for part in &PARTS {
            let on = part.brief.iter().copied();
            let on: Vec<&str> = on.filter(|one| series.contains(one)).collect();
            if !on.is_empty() {
                list.push(format!("{} on {}", part.name, on.join(", ")));
            }
        }
        Some(format!("a part of `kernels`: {}", list.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_run_says_what_it_is() {
        let every = KERNELS.map(|kernel| kernel.series);
        assert_eq!(Extent::Whole.remark(&every), None);
        assert_eq!(
            Extent::Brief.remark(&every).unwrap(),
            "a part of `kernels`: programs and features on 5.10, 6.1, 6.12, 7.2; \
             prog_run on 6.1, 7.2"
        );
        assert_eq!(
            Extent::Brief.remark(&["5.10"]).unwrap(),
            "a part of `kernels`: programs and features on 5.10"
        );
    }

    #[test]
    fn every_series_that_a_part_names_is_a_kernel() {
        for part in &PARTS {
            for series in part.brief {
                assert!(
                    KERNELS.iter().any(|kernel| kernel.series == *series),
                    "{} on {series}",
                    part.name
                );
            }
        }
    }
}
