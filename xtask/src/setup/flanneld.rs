//! A real flanneld, to test and to measure beside: built from its module, as Go's module proxy
//! serves it, into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::golang::{self, Go};
use crate::{console, places, process};

/// Tells tests where it is.
pub(crate) const VARIABLE: &str = "TWILL_FLANNELD";

/// The version that Twill is a drop-in for.
const VERSION: &str = "0.28.9";
const MODULE: &str = "github.com/flannel-io/flannel";
/// The hash of its files, as `go.sum` of a module that uses it has it; those of the modules that
/// it uses are in its own.
const SUM: &str = "h1:9+P0Pc8hearNZZpW6/Cc/4vEOiXaqQonYayDDeyibqY=";
/// Lines that are left out, by file and what is in them: the backend for one cloud, whose
/// module the proxy does not serve, and which nothing else uses.
const LEFT_OUT: [(&str, &str); 2] = [
    ("main.go", "flannel/pkg/backend/tencentvpc\""),
    ("go.mod", "github.com/tencentcloud/"),
];

/// The one that was built, if it was.
pub(crate) fn find() -> Result<Option<PathBuf>> {
    let program = folder(&places::cache()?).join("flanneld");
    Ok(is_the_version(&program).then_some(program))
}

/// The one that was built; builds it if it was not.
pub(crate) fn provide() -> Result<PathBuf> {
    if let Some(found) = find()? {
        return Ok(found);
    }
    let go = Go::have()?;
    console::step(&format!("build flanneld {VERSION} (2 to 5 min)"));
    let begin = Instant::now();
    let built = build(&go).with_context(|| format!("build flanneld {VERSION}"))?;
    console::note(&format!("took {}", console::duration(begin.elapsed())));
    Ok(built)
}

fn folder(cache: &Path) -> PathBuf {
    cache.join(format!("flanneld-{VERSION}"))
}

fn build(go: &Go) -> Result<PathBuf> {
    let folder = folder(&places::cache()?);
    // Somebody else may build it at the same time.
    let source = folder.join(format!("source-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let module = go.download(&format!("{MODULE}@v{VERSION}"), &folder)?;
    ensure!(
        module.sum == SUM,
        "{MODULE} {VERSION} has the hash {} instead of {SUM}",
        module.sum
    );
    golang::copy(&module.dir, &source)?;
    for (file, words) in LEFT_OUT {
        leave_out(&source.join(file), words)?;
    }
    let partial = source.join("flanneld.partial");
    let mut command = go.command(&source);
    command
        .args(["build", "-ldflags"])
        .arg(format!("-s -w -X {MODULE}/pkg/version.Version=v{VERSION}"))
        .arg("-o")
        .arg(&partial)
        .arg(".")
        // As upstream builds it: the backend udp is in C.
        .env("CGO_ENABLED", "1");
    process::run(&mut command)?;
    let program = folder.join("flanneld");
    fs::rename(&partial, &program).with_context(|| format!("make {}", program.display()))?;
    fs::remove_dir_all(&source).with_context(|| format!("remove {}", source.display()))?;
    ensure!(
        is_the_version(&program),
        "{} says another version",
        program.display()
    );
    Ok(program)
}

fn is_the_version(program: &Path) -> bool {
    if !process::is_executable(program) {
        return false;
    }
    // It answers on standard error.
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| {
        output.status.success() && output.stderr.trim_ascii() == format!("v{VERSION}").as_bytes()
    })
}

/// Removes the lines of a file that have these words in them; there must be some.
fn leave_out(file: &Path, words: &str) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let kept = without(&text, words);
    ensure!(kept != text, "{} has no {words:?}", file.display());
    fs::write(file, kept).with_context(|| format!("write {}", file.display()))
}

fn without(text: &str, words: &str) -> String {
    let lines = text.split_inclusive('\n');
    lines.filter(|line| !line.contains(words)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_left_out_whole() {
        assert_eq!(without("a\nb x\nc x", "x"), "a\n");
        assert_eq!(without("a\r\nb\n", "x"), "a\r\nb\n");
    }

    #[test]
    fn what_is_not_there_is_not_the_version() {
        assert!(!is_the_version(Path::new("/nonexistent/flanneld")));
        assert!(!is_the_version(Path::new("/bin/true")));
    }
}
