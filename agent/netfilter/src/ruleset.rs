//! Whole tables: written in one transaction, read back, and compared later.

use serde_json::{Value, json};
use thiserror::Error;
use twill_core::subnet::Subnet;

use super::program::{self, ProgramError};

/// Searched in `PATH`.
const NFT: &str = "nft";

/// How often a table is written until two readings of it agree.
const WRITINGS: u32 = 3;

/// Why a table is not in force.
#[derive(Debug, Error)]
pub enum TableError {
    /// `nft` refused it or could not be run.
    #[error(
        "write nftables table {family} {name}; is `nft` installed and does the kernel have nf_tables?"
    )]
    Write {
        /// Family of the table.
        family: &'static str,
        /// Name of the table.
        name: String,
        /// Why not.
        #[source]
        source: ProgramError,
    },
    /// `nft` could not be asked.
    #[error("read nftables table {family} {name}")]
    Read {
        /// Family of the table.
        family: &'static str,
        /// Name of the table.
        name: String,
        /// Why not.
        #[source]
        source: ProgramError,
    },
}

/// A table as the kernel had it right after it was written: what `nft` prints differs from
/// version to version, so a later look is compared with an earlier one, not with our own text.
#[derive(Clone, Debug, PartialEq)]
pub struct InForce {
    family: &'static str,
    name: String,
    printed: Value,
}

impl InForce {
    /// Writes a document, which replaces the table, and reads the table back.
    pub(super) async fn write(
        family: &'static str,
        name: &str,
        document: &Value,
    ) -> Result<Self, TableError> {
        Self::write_text(family, name, &["-j", "-f", "-"], &document.to_string()).await
    }

    /// The same for a table in `nft`'s own language, which has comments where JSON has none.
    pub(super) async fn write_script(
        family: &'static str,
        name: &str,
        script: &str,
    ) -> Result<Self, TableError> {
        Self::write_text(family, name, &["-f", "-"], script).await
    }

    /// Somebody may change the table before it is read back: what is read twice is what was
    /// written.
    async fn write_text(
        family: &'static str,
        name: &str,
        words: &[&str],
        text: &str,
    ) -> Result<Self, TableError> {
        run(family, name, words, text).await?;
        let mut now = Self::read_back(family, name).await?;
        for _ in 1..WRITINGS {
            let before = now;
            run(family, name, words, text).await?;
            now = Self::read_back(family, name).await?;
            if now == before {
                return Ok(now);
            }
        }
        // The next look will find that it is not so.
        now.printed = Value::Null;
        Ok(now)
    }

    async fn read_back(family: &'static str, name: &str) -> Result<Self, TableError> {
        let printed = list(family, name)
            .await
            .map_err(|source| TableError::Read {
                family,
                name: name.to_owned(),
                source,
            })?;
        Ok(Self {
            family,
            name: name.to_owned(),
            printed,
        })
    }

    /// Whether the kernel still has the table as it was written.
    pub(super) async fn is_so(&self) -> Result<bool, TableError> {
        let Self { family, name, .. } = self;
        match list(family, name).await {
            Ok(now) => Ok(now == self.printed),
            Err(ProgramError::Refused { .. }) => Ok(false),
            Err(source) => Err(TableError::Read {
                family,
                name: name.clone(),
                source,
            }),
        }
    }
}

/// Whether a table of this name is there. Where there is no `nft`, nobody made one.
pub(super) async fn is_there(family: &'static str, name: &str) -> Result<bool, TableError> {
    match list(family, name).await {
        Ok(_) => Ok(true),
        Err(ProgramError::Refused { .. }) => Ok(false),
        Err(error) if error.is_missing() => Ok(false),
        Err(source) => Err(TableError::Read {
            family,
            name: name.to_owned(),
            source,
        }),
    }
}

/// Whether there is a table of this name with this value somewhere in it.
pub(super) async fn speaks_of(
    family: &'static str,
    name: &str,
    value: &Value,
) -> Result<bool, TableError> {
    match list(family, name).await {
        Ok(table) => Ok(contains(&table, value)),
        Err(ProgramError::Refused { .. }) => Ok(false),
        Err(source) => Err(TableError::Read {
            family,
            name: name.to_owned(),
            source,
        }),
    }
}

/// How many objects of this kind a table has; none, where there is no such table.
pub(super) async fn count(
    family: &'static str,
    name: &str,
    kind: &str,
) -> Result<usize, TableError> {
    match list(family, name).await {
        Ok(table) => Ok(table
            .get("nftables")
            .and_then(Value::as_array)
            .map_or(0, |objects| {
                objects
                    .iter()
                    .filter(|object| object.get(kind).is_some())
                    .count()
            })),
        Err(ProgramError::Refused { .. }) => Ok(0),
        Err(source) => Err(TableError::Read {
            family,
            name: name.to_owned(),
            source,
        }),
    }
}

/// Whether a rule of a chain jumps to another one.
pub(super) async fn has_jump(
    family: &str,
    table: &str,
    chain: &str,
    target: &str,
) -> Result<bool, ProgramError> {
    let printed = program::run(NFT, &["-j", "list", "chain", family, table, chain], "").await?;
    let jump = json!({ "jump": { "target": target } });
    Ok(contains(&read(&printed), &jump))
}

/// The networks that a table speaks of; [`None`] where there is no such table.
pub(super) async fn prefixes(
    family: &'static str,
    name: &str,
) -> Result<Option<Vec<Subnet>>, TableError> {
    match list(family, name).await {
        Ok(table) => {
            let mut found = Vec::new();
            collect_prefixes(&table, &mut found);
            Ok(Some(found))
        }
        Err(ProgramError::Refused { .. }) => Ok(None),
        Err(error) if error.is_missing() => Ok(None),
        Err(source) => Err(TableError::Read {
            family,
            name: name.to_owned(),
            source,
        }),
    }
}

fn collect_prefixes(value: &Value, found: &mut Vec<Subnet>) {
    match value {
        Value::Array(entries) => {
            for entry in entries {
                collect_prefixes(entry, found);
            }
        }
        Value::Object(fields) => {
            if let Some(Value::Object(prefix)) = fields.get("prefix")
                && let (Some(address), Some(len)) = (prefix.get("addr"), prefix.get("len"))
                && let Some(address) = address.as_str()
            {
                found.extend(format!("{address}/{len}").parse::<Subnet>().ok());
            }
            for field in fields.values() {
                collect_prefixes(field, found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Removes a table, if it is there.
pub(super) async fn remove(family: &'static str, name: &str) -> Result<(), TableError> {
    let table = json!({ "family": family, "name": name });
    // Adding what exists changes nothing, and makes the deletion succeed where it does not.
    let document = json!({ "nftables": [
        { "add": { "table": table } },
        { "delete": { "table": table } },
    ]});
    apply(family, name, &document).await
}

/// Whether `nft` and the kernel would take this script; nothing is changed. One that gives no
/// answer has not refused.
pub(super) async fn would_take(script: &str) -> Result<bool, ProgramError> {
    match program::run(NFT, &["-c", "-f", "-"], script).await {
        Ok(_) => Ok(true),
        Err(ProgramError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Changes a table by a script in `nft`'s own language.
pub(super) async fn apply_script(
    family: &'static str,
    name: &str,
    script: &str,
) -> Result<(), TableError> {
    run(family, name, &["-f", "-"], script).await
}

async fn apply(family: &'static str, name: &str, document: &Value) -> Result<(), TableError> {
    run(family, name, &["-j", "-f", "-"], &document.to_string()).await
}

async fn run(
    family: &'static str,
    name: &str,
    words: &[&str],
    text: &str,
) -> Result<(), TableError> {
    let done = program::run(NFT, words, text).await;
    done.map(drop).map_err(|source| TableError::Write {
        family,
        name: name.to_owned(),
        source,
    })
}

/// The table as `nft` prints it, without the handles that differ from one writing to the next.
async fn list(family: &str, name: &str) -> Result<Value, ProgramError> {
    let printed = program::run(NFT, &["-j", "list", "table", family, name], "").await?;
    Ok(read(&printed))
}

/// What `nft -j` printed, without handles; nothing, which is no table, where it is no JSON.
pub(super) fn read(printed: &[u8]) -> Value {
    let mut document = serde_json::from_slice(printed).unwrap_or(Value::Null);
    strip_handles(&mut document);
    document
}

fn strip_handles(value: &mut Value) {
    match value {
        Value::Array(entries) => entries.iter_mut().for_each(strip_handles),
        Value::Object(fields) => {
            fields.remove("handle");
            fields.values_mut().for_each(strip_handles);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn contains(table: &Value, value: &Value) -> bool {
    table == value
        || match table {
            Value::Array(entries) => entries.iter().any(|entry| contains(entry, value)),
            Value::Object(fields) => fields.values().any(|field| contains(field, value)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_do_not_count() {
        let mut printed = json!({ "nftables": [{ "table": { "name": "twill", "handle": 7 } }] });
        strip_handles(&mut printed);
        assert_eq!(
            printed,
            json!({ "nftables": [{ "table": { "name": "twill" } }] })
        );
    }
}
