//! Keeping rules in force: written when nobody knows them, compared ever after, and written again
//! when somebody changed them.

use std::error::Error;
use std::future::Future;

use tracing::warn;

/// Rules of ours, as one value: they are written whole.
pub trait Rules: PartialEq + Sync {
    /// What shows later that the kernel still has them as they were written.
    type Proof: Sync;
    /// Why they are not in force.
    type Error: Error;

    /// What they are called, for people.
    fn name(&self) -> String;

    /// Writes them, whatever was there in their place.
    fn write(&self) -> impl Future<Output = Result<Self::Proof, Self::Error>> + Send;

    /// Whether the kernel still has them as they were written.
    fn hold(proof: &Self::Proof) -> impl Future<Output = Result<bool, Self::Error>> + Send;
}

/// Rules that stay in force as long as somebody asks for them.
#[derive(Debug)]
pub struct Keeper<R: Rules> {
    in_force: Option<(R, R::Proof)>,
}

/// What it took.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kept {
    /// Nothing: they were as they should be.
    AsTheyWere,
    /// Writing them, because nobody had, or because others are asked for.
    Written,
    /// Writing them again, because somebody had changed or removed them.
    Restored,
}

impl<R: Rules> Default for Keeper<R> {
    fn default() -> Self {
        Self { in_force: None }
    }
}

impl<R: Rules> Keeper<R> {
    /// Puts `rules` in force, or finds them so.
    pub async fn keep(&mut self, rules: R) -> Result<Kept, R::Error> {
        let mut kept = Kept::Written;
        if let Some((written, proof)) = &self.in_force
            && *written == rules
        {
            if R::hold(proof).await? {
                return Ok(Kept::AsTheyWere);
            }
            warn!(
                rules = rules.name(),
                "changed or removed by somebody; writing them again"
            );
            kept = Kept::Restored;
        }
        self.in_force = None;
        let proof = rules.write().await?;
        self.in_force = Some((rules, proof));
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io;

    use super::*;

    thread_local! {
        /// What the kernel has; [`None`] where it does not answer.
        static KERNEL: RefCell<Option<&'static str>> = const { RefCell::new(Some("")) };
    }

    fn kernel() -> io::Result<&'static str> {
        KERNEL
            .with_borrow(|rules| *rules)
            .ok_or_else(|| io::Error::other("no answer"))
    }

    fn set_kernel(rules: Option<&'static str>) {
        KERNEL.set(rules);
    }

    #[derive(Debug, PartialEq)]
    struct Text(&'static str);

    impl Rules for Text {
        type Proof = &'static str;
        type Error = io::Error;

        fn name(&self) -> String {
            "text".to_owned()
        }

        async fn write(&self) -> io::Result<&'static str> {
            kernel()?;
            set_kernel(Some(self.0));
            Ok(self.0)
        }

        async fn hold(proof: &&'static str) -> io::Result<bool> {
            Ok(kernel()? == *proof)
        }
    }

    #[tokio::test]
    async fn they_are_written_once_and_again_when_they_differ() {
        let mut keeper = Keeper::default();
        assert_eq!(keeper.keep(Text("a")).await.unwrap(), Kept::Written);
        assert_eq!(keeper.keep(Text("a")).await.unwrap(), Kept::AsTheyWere);
        assert_eq!(keeper.keep(Text("b")).await.unwrap(), Kept::Written);
        set_kernel(Some("somebody else's"));
        assert_eq!(keeper.keep(Text("b")).await.unwrap(), Kept::Restored);
        assert_eq!(kernel().unwrap(), "b");
    }

    #[tokio::test]
    async fn no_answer_is_an_error_and_forgets_nothing() {
        let mut keeper = Keeper::default();
        keeper.keep(Text("a")).await.unwrap();
        set_kernel(None);
        keeper.keep(Text("a")).await.unwrap_err();
        set_kernel(Some("a"));
        assert_eq!(keeper.keep(Text("a")).await.unwrap(), Kept::AsTheyWere);
        set_kernel(None);
        keeper.keep(Text("b")).await.unwrap_err();
        set_kernel(Some("a"));
        assert_eq!(keeper.keep(Text("b")).await.unwrap(), Kept::Written);
    }
}
