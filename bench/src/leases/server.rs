//! Strangers' leases in Twill's lease server.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use twill_testbed::lease_server::LeaseServer;
use twill_testbed::netns::Namespace;
use twill_testbed::wait::check_interrupt;

use super::{Stranger, inside};

/// Requests under way at once: the server stores what comes together in one go.
const TOGETHER: usize = 64;

/// A client that sits on the lease server's own host.
#[derive(Clone, Copy, Debug)]
pub struct ServerClient<'a> {
    server: &'a LeaseServer,
}

impl<'a> ServerClient<'a> {
    /// Of this server.
    pub const fn new(server: &'a LeaseServer) -> Self {
        Self { server }
    }

    fn host(self) -> &'a Namespace {
        self.server.host().namespace()
    }

    /// Takes the leases of the strangers of these numbers.
    pub fn fill(self, numbers: Range<u32>) -> Result<()> {
        let url = format!("{}/v1/network/leases", self.server.url());
        let amount = numbers.len();
        let filled = inside(self.host(), async {
            let client = reqwest::Client::new();
            stream::iter(numbers)
                .map(|number| acquire(&client, &url, Stranger::number(number)))
                .buffer_unordered(TOGETHER)
                .try_collect::<()>()
                .await
        });
        filled.with_context(|| format!("put {amount} leases into the lease server"))
    }
}

async fn acquire(client: &reqwest::Client, url: &str, stranger: Stranger) -> Result<()> {
    check_interrupt()?;
    let wanted = stranger.prefix();
    let body = json!({ "attrs": stranger.attrs(), "previous": wanted });
    let answer = client.post(url).json(&body).send().await?;
    let lease: Value = answer.error_for_status()?.json().await?;
    ensure!(
        lease["subnet"] == wanted.as_str(),
        "asked for {wanted}, the lease server answered {lease}"
    );
    Ok(())
}
