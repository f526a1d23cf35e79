//! A watch: the changes after a revision, as they happen, one JSON object per line.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::view::View;

/// A watcher that hears nothing for this long gets a bookmark.
pub(super) const BOOKMARK_EVERY: Duration = Duration::from_secs(10);

struct Watcher {
    view: Arc<View>,
    latest: Receiver<u64>,
    shutdown: CancellationToken,
    revision: u64,
    bookmark_due: Instant,
    ended: bool,
}

/// The body of the answer to a watch from this revision on.
///
/// Nothing is buffered for a watcher: it reads the shared history at its own pace, and when
/// that has gone on without it, a last line tells it to list again.
pub(super) fn body(view: Arc<View>, revision: u64, shutdown: CancellationToken) -> Body {
    let watcher = Watcher {
        latest: view.latest(),
        view,
        shutdown,
        revision,
        // The first bookmark comes at once: it shows that the watch stands.
        bookmark_due: Instant::now(),
        ended: false,
    };
    Body::from_stream(stream::unfold(watcher, |mut watcher| async move {
        let lines = watcher.next().await?;
        Some((Ok::<_, Infallible>(lines), watcher))
    }))
}

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            self.latest.mark_unchanged();
            match self.view.since(self.revision) {
                Err(_) => {
                    self.ended = true;
                    return Some(gone(self.revision));
                }
                Ok(changes) if !changes.lines.is_empty() => {
                    self.revision = changes.revision;
                    return Some(changes.lines);
                }
                Ok(_) => {}
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => self.ended = true,
                () = tokio::time::sleep_until(self.bookmark_due) => {
                    self.bookmark_due = Instant::now() + BOOKMARK_EVERY;
                    return Some(bookmark(self.view.store(), self.revision));
                }
                changed = self.latest.changed() => self.ended = changed.is_err(),
            }
        }
        None
    }
}

fn bookmark(store: &str, revision: u64) -> Bytes {
    line(&json!({"revision": revision, "type": "bookmark", "store": store}))
}

fn gone(revision: u64) -> Bytes {
    line(&json!({
        "revision": revision,
        "type": "gone",
        "error": "the watch fell behind the changes that are kept; list again",
    }))
}

fn line(value: &serde_json::Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::super::clock::Timestamp;
    use super::super::record::Change;
    use super::super::view::HISTORY;
    use super::*;

    fn publish(view: &View, revisions: std::ops::RangeInclusive<u64>) {
        let changes: Vec<Change> = revisions
            .map(|revision| Change::Removed {
                revision,
                subnet: "10.244.1.0/24".parse().unwrap(),
            })
            .collect();
        view.publish(&changes, Timestamp(0)).unwrap();
    }

    fn view() -> Arc<View> {
        Arc::new(View::new("s".to_owned(), 0, std::iter::empty()))
    }

    async fn read_to_end(body: Body) -> Vec<String> {
        let mut stream = body.into_data_stream();
        let mut text = String::new();
        while let Some(chunk) = stream.next().await {
            text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
        text.lines().map(ToOwned::to_owned).collect()
    }

    #[tokio::test]
    async fn a_watcher_that_falls_behind_is_told_to_list_again() {
        let view = view();
        let body = body(Arc::clone(&view), 0, CancellationToken::new());
        publish(&view, 1..=u64::try_from(HISTORY).unwrap() + 1);
        let lines = read_to_end(body).await;
        let [only] = lines.as_slice() else {
            panic!("{} lines", lines.len());
        };
        assert!(only.contains(r#""type":"gone""#), "{only}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_watch_says_where_it_is_every_ten_seconds() {
        let view = view();
        let shutdown = CancellationToken::new();
        let body = body(Arc::clone(&view), 0, shutdown.clone());
        publish(&view, 1..=2);
        let stop = async {
            tokio::time::sleep(BOOKMARK_EVERY * 2 + BOOKMARK_EVERY / 2).await;
            shutdown.cancel();
        };
        let (lines, ()) = tokio::join!(read_to_end(body), stop);
        let bookmark = r#"{"revision":2,"store":"s","type":"bookmark"}"#;
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert!(lines[1].contains(r#""revision":2"#), "{lines:?}");
        assert_eq!(lines[2..], [bookmark; 3]);
    }
}
