//! The store's file: every lease, the revision, and the store's name.
//!
//! What [`Disk::commit`] returned from is on the disk. A file that is damaged or somebody
//! else's is an error; a new one is only made where there is none.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{
    Builder, Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition,
};
use tracing::{info, warn};

use twill_core::subnet::Subnet;

use super::error::Error;
use super::record::{Change, Record, StoredRecord};
use crate::random;

const FILE: &str = "leases.redb";
const LOCK: &str = "lock";

/// The number that a change of the tables below must raise.
const FORMAT: u64 = 1;
const FORMAT_KEY: &str = "format";
const REVISION_KEY: &str = "revision";
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");

const STORE_KEY: &str = "store";
const NAMES: TableDefinition<'_, &str, &str> = TableDefinition::new("names");

/// Subnet as text → [`StoredRecord`] as JSON.
const LEASES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("leases");

/// 50,000 leases take about 20 MiB; redb's own default of 1 GiB serves larger matters.
const CACHE_BYTES: usize = 16 << 20;

/// How much of a value that cannot be read is shown.
const SHOWN_BYTES: usize = 200;

/// The open file. Nobody else opens the directory while it lives.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    /// `None` after a failure, until it is opened again.
    database: Mutex<Option<Database>>,
    _lock: File,
}

/// What the file holds.
#[derive(Debug)]
pub(super) struct Stored {
    /// The store's name: another file has another one.
    pub(super) store: String,
    /// The revision after the last change.
    pub(super) revision: u64,
    /// Every lease.
    pub(super) records: Vec<Record>,
}

impl Disk {
    /// Opens the store in this directory, makes it if there is none, and reads it.
    pub(super) fn open(directory: &Path) -> Result<(Self, Stored), Error> {
        // The database looks at what it reads, but not at everything.
        match caught(|| Self::open_as_it_is(directory)) {
            Ok(opened) => opened,
            Err(what) => Err(Error::Damaged {
                path: directory.join(FILE),
                what,
            }),
        }
    }

    fn open_as_it_is(directory: &Path) -> Result<(Self, Stored), Error> {
        let lock = lock(directory)?;
        let path = directory.join(FILE);
        let exists = path.try_exists().map_err(|source| Error::DataDir {
            path: path.clone(),
            source,
        })?;
        if !exists {
            create(directory, &path)?;
        }
        let mut database = open_database(&path).map_err(|source| open_error(&path, source))?;
        match database.check_integrity() {
            Ok(true) => {}
            Ok(false) => warn!(path = %path.display(), "lease store was damaged and is repaired"),
            Err(source) => return Err(open_error(&path, source)),
        }
        let stored = read(&path, &database)?;
        let disk = Self {
            path,
            database: Mutex::new(Some(database)),
            _lock: lock,
        };
        Ok((disk, stored))
    }

    /// Stores the changes, all or none, and returns when they are on the disk. After an error it
    /// may be either, and only [`Self::rewrite`] makes it known again.
    pub(super) fn commit(&self, revision: u64, changes: &[Change]) -> Result<(), Error> {
        self.with_database(|database| write(database, revision, changes))
    }

    /// Stores these records and no others.
    pub(super) fn rewrite(&self, revision: u64, records: &[Arc<Record>]) -> Result<(), Error> {
        self.with_database(|database| rewrite(database, revision, records))
    }

    /// Does something with the database; after an error it is closed, and opened again by the
    /// next who comes, as it asks for itself.
    fn with_database(
        &self,
        work: impl FnOnce(&Database) -> Result<(), redb::Error>,
    ) -> Result<(), Error> {
        let failed = |source| Error::Write {
            path: self.path.clone(),
            source: Box::new(source),
        };
        let mut place = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match place.take() {
            Some(database) => database,
            None => open_database(&self.path).map_err(failed)?,
        };
        work(&database).map_err(failed)?;
        *place = Some(database);
        Ok(())
    }
}

/// What `work` gives, or what it panicked with. Nobody else is told of such a panic.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // There is one hook.
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let usual: Arc<dyn Fn(&PanicHookInfo<'_>) + Send + Sync> = panic::take_hook().into();
    let here = std::thread::current().id();
    let others = Arc::clone(&usual);
    panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() != here {
            others(info);
        }
    }));
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    panic::set_hook(Box::new(move |info| usual(info)));
    drop(turn);
    done.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("it cannot be read");
        text.lines().next().unwrap_or_default().to_owned()
    })
}

fn open_error(path: &Path, source: impl Into<redb::Error>) -> Error {
    Error::Open {
        path: path.to_owned(),
        source: Box::new(source.into()),
    }
}

fn lock(directory: &Path) -> Result<File, Error> {
    let error = |path: &Path, source| Error::DataDir {
        path: path.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| error(directory, source))?;
    let path = directory.join(LOCK);
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| error(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse {
            path: directory.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(error(&path, source)),
    }
}

/// Makes a new store beside its place and moves it there when it is whole: a server that is
/// killed meanwhile leaves no half of one.
fn create(directory: &Path, path: &Path) -> Result<(), Error> {
    let unfinished = directory.join(format!("{FILE}.new"));
    let io_error = |source| Error::DataDir {
        path: unfinished.clone(),
        source,
    };
    match fs::remove_file(&unfinished) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(io_error(source));
        }
        _ => {}
    }
    initialize(&unfinished).map_err(|source| open_error(&unfinished, source))?;
    fs::rename(&unfinished, path).map_err(io_error)?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error)?;
    info!(path = %path.display(), "new lease store");
    Ok(())
}

fn initialize(path: &Path) -> Result<(), redb::Error> {
    let database = Database::create(path)?;
    let transaction = database.begin_write()?;
    {
        let mut numbers = transaction.open_table(NUMBERS)?;
        numbers.insert(FORMAT_KEY, FORMAT)?;
        numbers.insert(REVISION_KEY, 0)?;
        let name = format!("{:016x}", random::number());
        transaction
            .open_table(NAMES)?
            .insert(STORE_KEY, name.as_str())?;
        transaction.open_table(LEASES)?;
    }
    transaction.commit()?;
    Ok(())
}

fn open_database(path: &Path) -> Result<Database, redb::Error> {
    Ok(Builder::new().set_cache_size(CACHE_BYTES).open(path)?)
}

fn read(path: &Path, database: &Database) -> Result<Stored, Error> {
    let open_error = |source: redb::Error| open_error(path, source);
    let foreign = |key, value, right| Error::Foreign {
        path: path.to_owned(),
        key,
        value,
        right,
    };
    let (format, revision) = read_numbers(database).map_err(open_error)?;
    if format != Some(FORMAT) {
        let value = format.map_or_else(|| "missing".to_owned(), |number| number.to_string());
        return Err(foreign("its format", value, "this server reads format 1"));
    }
    let revision = revision
        .ok_or_else(|| foreign("its revision", "missing".to_owned(), "there is always one"))?;
    let store = read_name(database)
        .map_err(open_error)?
        .ok_or_else(|| foreign("its name", "missing".to_owned(), "there is always one"))?;
    let mut records = Vec::new();
    for (key, value) in read_leases(database).map_err(open_error)? {
        records.push(parse(&key, &value).map_err(|source| Error::BadLease {
            path: path.to_owned(),
            key,
            value: shown(&value),
            source,
        })?);
    }
    Ok(Stored {
        store,
        revision,
        records,
    })
}

pub(super) fn parse(
    key: &str,
    value: &[u8],
) -> Result<Record, Box<dyn std::error::Error + Send + Sync>> {
    let subnet: Subnet = key.parse()?;
    let stored: StoredRecord = serde_json::from_slice(value)?;
    Ok(stored.into_record(subnet))
}

fn shown(value: &[u8]) -> String {
    let end = value.len().min(SHOWN_BYTES);
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

fn read_numbers(database: &Database) -> Result<(Option<u64>, Option<u64>), redb::Error> {
    let transaction = database.begin_read()?;
    let numbers = match transaction.open_table(NUMBERS) {
        Ok(table) => table,
        // A database of somebody else: it has no such table.
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok((None, None)),
        Err(error) => return Err(error.into()),
    };
    let format = numbers.get(FORMAT_KEY)?.map(|value| value.value());
    let revision = numbers.get(REVISION_KEY)?.map(|value| value.value());
    Ok((format, revision))
}

fn read_name(database: &Database) -> Result<Option<String>, redb::Error> {
    let transaction = database.begin_read()?;
    let names = transaction.open_table(NAMES)?;
    Ok(names.get(STORE_KEY)?.map(|value| value.value().to_owned()))
}

fn read_leases(database: &Database) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = transaction.open_table(LEASES)?;
    let mut leases = Vec::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        leases.push((key.value().to_owned(), value.value().to_owned()));
    }
    Ok(leases)
}

fn rewrite(database: &Database, revision: u64, records: &[Arc<Record>]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.delete_table(LEASES)?;
    {
        let mut leases = transaction.open_table(LEASES)?;
        for record in records {
            let value = serde_json::to_vec(&StoredRecord::from(record.as_ref()))
                .map_err(std::io::Error::from)?;
            leases.insert(record.subnet.to_string().as_str(), value.as_slice())?;
        }
        let mut numbers = transaction.open_table(NUMBERS)?;
        numbers.insert(REVISION_KEY, revision)?;
    }
    transaction.commit()?;
    Ok(())
}

fn write(database: &Database, revision: u64, changes: &[Change]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut leases = transaction.open_table(LEASES)?;
        for change in changes {
            match change {
                Change::Added { record, .. } | Change::Renewed(record) => {
                    let value = serde_json::to_vec(&StoredRecord::from(record.as_ref()))
                        .map_err(std::io::Error::from)?;
                    leases.insert(record.subnet.to_string().as_str(), value.as_slice())?;
                }
                Change::Removed { subnet, .. } => {
                    leases.remove(subnet.to_string().as_str())?;
                }
            }
        }
        let mut numbers = transaction.open_table(NUMBERS)?;
        numbers.insert(REVISION_KEY, revision)?;
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
