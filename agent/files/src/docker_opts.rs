//! `docker_opts.env`, for hosts where Docker itself makes the bridge.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use twill_core::docker_opts::{DockerOpts, Form, docker_opts};

use super::{FileError, atomic};

/// Reads `subnet.env` and writes Docker's options; gives them.
pub fn write(
    subnet_env: &Path,
    docker_env: &Path,
    environment: &BTreeMap<String, String>,
    form: &Form,
) -> Result<DockerOpts, FileError> {
    let text = fs::read_to_string(subnet_env).map_err(|source| FileError::Read {
        path: subnet_env.to_owned(),
        source,
    })?;
    let made = docker_opts(&text, environment, form).map_err(|error| FileError::Content {
        path: subnet_env.to_owned(),
        why: error.to_string(),
    })?;
    atomic::replace(docker_env, &made.text)?;
    Ok(made)
}
