//! The lease server behind `twilld serve`: hands out subnets, keeps them in a file, and
//! tells everybody who watches.
//!
//! ```text
//! HTTP ─▸ writer ─▸ table (decides) ─▸ disk ─▸ view ─▸ lists, watches
//! ```
//!
//! One task writes. It answers when the change is on the disk and visible, so a lease that
//! was acknowledged outlives a kill of the server. The server does not join the network.

pub mod args;

mod answer;
mod api;
mod clock;
mod connections;
mod disk;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod noise;
mod record;
mod request;
mod table;
mod view;
mod watch;
mod writer;

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use twill_core::config::NetworkConfig;

use self::api::Api;
use self::args::ServeArgs;
use self::clock::Clock;
use self::connections::Bounded;
use self::disk::{Disk, Stored};
use self::table::Table;
use self::view::View;
use self::writer::Writer;

pub use self::error::Error;

/// How many requests wait for the writer before the next one waits for a place.
const QUEUE: usize = 1024;

/// How long a stopping server waits for answers that are under way.
const FAREWELL: Duration = Duration::from_secs(5);

/// How to open a [`Server`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Directory of the store; made if it is not there.
    pub data_dir: PathBuf,
    /// File with the network config.
    pub network_config_path: PathBuf,
    /// How long a lease lasts without renewal.
    pub lease_ttl: Duration,
}

impl From<ServeArgs> for Options {
    fn from(args: ServeArgs) -> Self {
        let ServeArgs {
            network_config,
            data_dir,
            listen,
            lease_ttl,
        } = args;
        Self {
            listen,
            data_dir,
            network_config_path: network_config,
            lease_ttl,
        }
    }
}

/// A lease server with its store open and its port bound.
#[derive(Debug)]
pub struct Server {
    config: Bytes,
    writer: Writer,
    listener: TcpListener,
    address: SocketAddr,
}

/// Runs `twilld serve` until `shutdown`.
pub async fn run(args: ServeArgs, shutdown: CancellationToken) -> Result<(), Error> {
    Server::open(args.into()).await?.run(shutdown).await
}

impl Server {
    /// Checks the network config, opens the store, binds the port.
    pub async fn open(options: Options) -> Result<Self, Error> {
        let Options {
            listen,
            data_dir,
            network_config_path,
            lease_ttl,
        } = options;
        let (text, network) = read_config(network_config_path)?;
        for warning in &network.warnings {
            warn!(warning, "network config");
        }
        let (disk, stored) = Disk::open(&data_dir)?;
        let clock = Clock::start();
        let writer = open_table(network, lease_ttl, disk, stored, clock)?;

        let listen_error = |source| Error::Listen {
            address: listen,
            source,
        };
        let listener = TcpListener::bind(listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        if !address.ip().is_loopback() {
            warn!(
                %address,
                "no TLS and no authentication yet: whoever reaches this address can take, \
                 change and release leases"
            );
        }
        Ok(Self {
            config: Bytes::from(text),
            writer,
            listener,
            address,
        })
    }

    /// The address it listens on.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`. A store that takes nothing is no end: what it has is told on.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self {
            config,
            writer,
            listener,
            address,
        } = self;
        let stopping = shutdown.child_token();
        let (commands, requests) = mpsc::channel(QUEUE);
        let router = api::router(Api {
            config,
            view: Arc::clone(&writer.view),
            commands,
            clock: writer.clock,
            shutdown: stopping.clone(),
        });
        info!(%address, store = writer.view.store(), revision = writer.table.revision(),
            "lease server listens");

        let http = axum::serve(Bounded::new(listener), router)
            .with_graceful_shutdown(stopping.clone().cancelled_owned())
            .into_future();
        let farewell = async {
            stopping.cancelled().await;
            tokio::time::sleep(FAREWELL).await;
        };
        // Connections that do not end hold their end of the queue: it cannot tell the writer.
        let done = CancellationToken::new();
        let serving = async {
            let served = tokio::select! {
                served = http => served.map_err(Error::Serve),
                () = farewell => Ok(()),
            };
            done.cancel();
            served
        };
        let writing = async {
            let written = writer.run(requests, done.clone()).await;
            // Without the disk there is nothing more to serve.
            stopping.cancel();
            written
        };
        let (served, written) = tokio::join!(serving, writing);
        info!("lease server stopped");
        written.and(served)
    }
}

fn read_config(path: PathBuf) -> Result<(String, NetworkConfig), Error> {
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(Error::ReadConfig { path, source }),
    };
    match NetworkConfig::parse(&text) {
        Ok(config) => Ok((text, config)),
        Err(source) => Err(Error::Config { path, source }),
    }
}

fn open_table(
    network: NetworkConfig,
    lease_ttl: Duration,
    disk: Disk,
    stored: Stored,
    clock: Clock,
) -> Result<Writer, Error> {
    let Stored {
        store,
        revision,
        records,
    } = stored;
    for record in &records {
        if !network.network.covers(record.subnet) {
            warn!(subnet = %record.subnet, network = %network.network,
                "a stored lease lies outside the network; it stays until it ends");
        }
    }
    let mut table = Table::new(network, lease_ttl, revision, crate::random::index);
    let changes = table.load(records, clock.now());
    if !changes.is_empty() {
        info!(
            leases = changes.len(),
            "terms ended while the server was away, or the clock was set: one more term"
        );
        disk.commit(table.revision(), &changes)?;
    }
    let view = View::new(store, revision, table.records().cloned());
    Ok(Writer {
        table,
        disk: Arc::new(disk),
        view: Arc::new(view),
        clock,
        standstill: None,
    })
}

#[cfg(test)]
mod tests;
