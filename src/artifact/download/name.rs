//! What a downloaded file is called.
//!
//! Owns the one rule: the last part of the path of the URL that was asked for, decoded, and it must be a plain name.

use percent_encoding::percent_decode_str;
use url::Url;

/// Longer names cannot be made.
const LONGEST: usize = 255;

/// The name, or as much of it as can be shown when it is not a safe one.
pub fn file_name(url: &Url) -> Result<String, String> {
    let last = url.path().rsplit('/').next().unwrap_or_default();
    let Ok(name) = percent_decode_str(last).decode_utf8() else { return Err(shown(last)) };
    let is_plain = !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0'])
        // Room for what an unfinished one is called.
        && name.len() <= LONGEST
        && !name.starts_with(super::TEMPORARY_PREFIX);
    if is_plain { Ok(name.into_owned()) } else { Err(shown(&name)) }
}

fn shown(name: &str) -> String {
    name.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(url: &str) -> Result<String, String> {
        file_name(&Url::parse(url).unwrap())
    }

    #[test]
    fn the_last_part_of_the_path_is_the_name() {
        for (url, expected) in [
            ("https://x.example/a/b.txt?sig=1#c", "b.txt"),
            ("https://x.example/a%20b%C3%A9.zip", "a bé.zip"),
            ("https://x.example/..dots", "..dots"),
            ("data:text/plain;base64,SGk=", "plain;base64,SGk="),
        ] {
            assert_eq!(name(url).as_deref(), Ok(expected));
        }
        for url in [
            "https://x.example",
            "https://x.example/dir/",
            "https://x.example/a%2Fb",
            "https://x.example/..%2Fb",
            "https://x.example/%2e%2e%2f",
            "https://x.example/a%00b",
            "https://x.example/a%ffb",
            "https://x.example/.turnhost-download-x",
            &format!("https://x.example/{}", "a".repeat(256)),
        ] {
            assert!(name(url).is_err(), "{url}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_one_component(path in "[a-z/.%0-9]{0,30}") {
            if let Ok(name) = name(&format!("http://x/{path}")) {
                let mut components = std::path::Path::new(&name).components();
                prop_assert!(matches!(components.next(), Some(std::path::Component::Normal(_))));
                prop_assert!(components.next().is_none());
            }
        }
    }
}
