//! `nft` and `iptables`, the programs, run so that they can neither keep us waiting nor fail
//! without a word.

use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// The agent's loop waits for it, so it must not take long: one table is a matter of
/// milliseconds, also beside tens of thousands of kube-proxy's rules.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much of what it says is told.
const SHOWN: usize = 300;

/// What went wrong with a program.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// It could not be run.
    #[error("run {program:?}")]
    Run {
        /// Its name.
        program: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It did not come to an end, and was killed.
    #[error("{program:?} gave no answer within {seconds} s")]
    Silent {
        /// Its name.
        program: String,
        /// How long it had.
        seconds: u64,
    },
    /// It refused.
    #[error("{program:?} said {said:?}")]
    Refused {
        /// Its name.
        program: String,
        /// The beginning of what it said.
        said: String,
    },
}

impl ProgramError {
    /// Whether there is no such program.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Run { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// Runs a program that is searched in `PATH`, with these arguments and this text as its input;
/// gives what it prints.
pub(super) async fn run(
    program: &str,
    args: &[&str],
    input: &str,
) -> Result<Vec<u8>, ProgramError> {
    run_program(program, args, input, PATIENCE).await
}

async fn run_program(
    program: &str,
    args: &[&str],
    input: &str,
    patience: Duration,
) -> Result<Vec<u8>, ProgramError> {
    let failed = |source| ProgramError::Run {
        program: program.to_owned(),
        source,
    };
    let work = async {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Whoever stops waiting for it leaves nothing behind.
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take();
        // At the same time: it may say more than a pipe holds before it has read everything.
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // Why it did not read to the end, it says itself.
                drop(stdin.write_all(input.as_bytes()).await);
            }
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        output
    };
    let output = tokio::time::timeout(patience, work)
        .await
        .map_err(|_elapsed| ProgramError::Silent {
            program: program.to_owned(),
            seconds: patience.as_secs(),
        })?
        .map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(ProgramError::Refused {
        program: program.to_owned(),
        said: said.trim().chars().take(SHOWN).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn shell(script: &str, input: &str, patience: Duration) -> Result<Vec<u8>, ProgramError> {
        run_program("sh", &["-c", script], input, patience).await
    }

    #[tokio::test]
    async fn what_goes_in_comes_out() {
        let long = "x".repeat(1 << 20);
        let output = shell("cat", &long, 10 * SECOND).await.unwrap();
        assert_eq!(output, long.as_bytes());
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed() {
        let root = tempfile::tempdir().unwrap();
        let pid_file = root.path().join("pid");
        let script = format!("echo $$ > {}; exec sleep 100", pid_file.display());
        let error = shell(&script, "", SECOND).await.unwrap_err();
        assert!(
            matches!(error, ProgramError::Silent { seconds: 1, .. }),
            "{error}"
        );
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        let running = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        for _ in 0..100 {
            if !running() {
                return;
            }
            tokio::time::sleep(SECOND / 100).await;
        }
        panic!("process {pid} still runs");
    }

    #[tokio::test]
    async fn its_reason_is_told() {
        let error = shell("echo no such chain >&2; exit 1", "", 10 * SECOND)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("no such chain"), "{error}");
        let error = run_program("/nowhere/nft", &[], "", SECOND)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/nowhere/nft"), "{error}");
    }
}
