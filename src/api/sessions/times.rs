//! Times in the protocol's forms: durations as Go writes them, moments as RFC 3339 has them.
//!
//! Owns those forms and nothing else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, in milliseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A moment as RFC 3339 with fractional seconds, in UTC.
pub fn rfc3339(ms: u64) -> String {
    let moment = UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_millis(moment).to_string()
}

/// `0s`, `1m5s`, `1h2m3s`
pub fn uptime(ms: u64) -> String {
    let seconds = (ms + 500) / 1000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `90s`, `5m`, `1h30m`, `1.5h`, `300ms`; `0` and `0s` are zero. `None` where it is no duration, or a negative one.
pub fn duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let unit_end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = behind;
    }
    // A century: beyond it adding to a clock could overflow.
    (total <= Duration::from_hours(876_000)).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [("90s", 90_000), ("5m", 300_000), ("1h30m", 5_400_000), ("1.5h", 5_400_000), ("300ms", 300)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(duration("0"), Some(Duration::ZERO));
        for text in ["", "5", "s", "-5s", "5 s", "5x", "1h2", "9999999999h", "1e3s", "..s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn moments() {
        assert_eq!(rfc3339(1_773_732_712_345), "2026-03-17T07:31:52.345Z");
        let shown = [0, 400, 65_000, 3_723_000].map(uptime);
        assert_eq!(shown, ["0s", "0s", "1m5s", "1h2m3s"]);
    }
}
