//! Single values of options: ports, addresses, times, lists.
//!
//! Owns their forms and the sentence that a wrong one gets.

use super::ConfigError;
use crate::api::Protocol;
use crate::redact::Secret;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The port when nobody names one.
pub const DEFAULT_PORT: u16 = 8080;

pub fn variable<'a>(environment: &'a BTreeMap<OsString, OsString>, name: &str) -> Option<&'a str> {
    environment.get(std::ffi::OsStr::new(name))?.to_str().filter(|value| !value.is_empty())
}

/// `--port`, else `$PORT`, else 8080. An empty `PORT` counts as unset.
pub fn port(flag: Option<&str>, environment: &BTreeMap<OsString, OsString>) -> Result<u16, ConfigError> {
    let bad = |text: &str, place: &str| ConfigError(format!("invalid port \"{text}\"{place}"));
    if let Some(text) = flag {
        return text.parse().map_err(|_| bad(text, ""));
    }
    match environment.get(std::ffi::OsStr::new("PORT")) {
        None => Ok(DEFAULT_PORT),
        Some(value) if value.is_empty() => Ok(DEFAULT_PORT),
        Some(value) => {
            let text = value.to_string_lossy();
            text.parse().map_err(|_| bad(&text, " in the environment variable PORT"))
        }
    }
}

pub fn host(text: &str) -> Result<Vec<IpAddr>, ConfigError> {
    if text == "localhost" {
        return Ok(vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse()
        .map(|address| vec![address])
        .map_err(|_| ConfigError(format!("invalid host \"{text}\": give an IP address")))
}

/// The token from its file, else from the environment; never from an argument, which every process can read.
pub fn token(file: Option<&Path>, environment: &BTreeMap<OsString, OsString>) -> Result<Option<Secret>, ConfigError> {
    secret_of(file, &["TURNHOST_TOKEN"], environment)
}

/// The same with the names of the variables, in their order.
pub fn secret_of(
    file: Option<&Path>,
    names: &[&str],
    environment: &BTreeMap<OsString, OsString>,
) -> Result<Option<Secret>, ConfigError> {
    let Some(file) = file.filter(|file| !file.as_os_str().is_empty()) else {
        return Ok(names.iter().find_map(|name| variable(environment, name)).map(Secret::new));
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| ConfigError(format!("--token-file {}: {error}", file.display())))?;
    match text.trim() {
        "" => Err(ConfigError(format!("--token-file {}: the file is empty", file.display()))),
        token => Ok(Some(Secret::new(token))),
    }
}

pub fn protocols(list: Option<&str>) -> Result<BTreeSet<Protocol>, ConfigError> {
    let Some(list) = list else { return Ok(Protocol::ALL.into()) };
    let mut protocols = BTreeSet::new();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.name() == name).ok_or_else(|| {
            let names = Protocol::ALL.map(Protocol::name).join(", ");
            ConfigError(format!("unknown protocol \"{name}\". Choose from: {names}"))
        })?;
        protocols.insert(protocol);
    }
    if protocols.is_empty() { Err(ConfigError("--protocols names none".to_owned())) } else { Ok(protocols) }
}

pub fn url_path(flag: &str, path: String) -> Result<String, ConfigError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
    let path = path.trim_end_matches('/').to_owned();
    if path.len() > 1 && path.starts_with('/') && !path.contains("//") && path.chars().all(plain) {
        Ok(path)
    } else {
        Err(ConfigError(format!("{flag}: expected a path such as /health")))
    }
}

/// Where the instructions file of a bundle is looked for; `dari-runtime-v1` 6.3.
pub fn bundle_folders(environment: &BTreeMap<OsString, OsString>) -> Vec<PathBuf> {
    let named = variable(environment, "DARI_SOURCE_BUNDLE_ROOT").map(PathBuf::from);
    let fixed = ["/workspace/.dari/agent-resources/source-bundle", "/bundle", "/workspace"].map(PathBuf::from);
    named.into_iter().chain(std::env::current_dir().ok()).chain(fixed).collect()
}

pub fn number<N: std::str::FromStr>(flag: &str, text: &str) -> Result<N, ConfigError> {
    text.trim().parse().map_err(|_| ConfigError(format!("{flag}: expected a number, got \"{text}\"")))
}

/// `1GiB`, `500 MB`, `64k`, or a plain number of bytes; `off` and `0` are 0.
pub fn size(flag: &str, text: &str) -> Result<u64, ConfigError> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("off") {
        return Ok(0);
    }
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let bytes: Option<u64> = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "kb" => Some(1000),
        "mb" => Some(1000 * 1000),
        "gb" => Some(1000 * 1000 * 1000),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        "g" | "gib" => Some(1 << 30),
        _ => None,
    };
    let size = bytes.and_then(|bytes| number.parse::<u64>().ok()?.checked_mul(bytes));
    size.ok_or_else(|| ConfigError(format!("{flag}: expected a size such as 1GiB, 500MB or off, got \"{text}\"")))
}

pub fn duration(flag: &str, text: &str) -> Result<Duration, ConfigError> {
    optional_duration(flag, text)?
        .ok_or_else(|| ConfigError(format!("{flag}: expected a time above zero, such as 10s")))
}

/// `30m`, `1h 30m`, `500ms`, or a plain number of seconds; `off` and `0` are none.
pub fn optional_duration(flag: &str, text: &str) -> Result<Option<Duration>, ConfigError> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let parsed = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text)
            .map_err(|_| ConfigError(format!("{flag}: expected a time such as 30m, 10s or off, got \"{text}\"")))?,
    };
    // Ten years: beyond it adding to a clock could overflow.
    if parsed > Duration::from_hours(87600) {
        return Err(ConfigError(format!("{flag}: {text} is too long")));
    }
    Ok((!parsed.is_zero()).then_some(parsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("1GiB", 1 << 30), (" 500 MB ", 500_000_000), ("64k", 65536), ("12", 12), ("off", 0), ("0", 0)]
        {
            assert_eq!(size("--x", text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "-1", "1.5GiB", "1 XB", "1é", "99999999999999999999", "99999999999GiB"] {
            let error = format!("--x: expected a size such as 1GiB, 500MB or off, got \"{text}\"");
            assert_eq!(size("--x", text), Err(ConfigError(error)));
        }
    }
}
