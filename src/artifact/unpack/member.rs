//! The names of an archive's members, and the targets of its links.
//!
//! Owns which of them stay within the directory. Pure: what is really on disk is `beneath`'s business.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A relative path without `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name<'a> {
    parts: Vec<&'a OsStr>,
}

impl<'a> Name<'a> {
    /// Reads a name as an archive has it; says what is wrong with it.
    pub fn parse(name: &'a [u8]) -> Result<Self, &'static str> {
        if name.contains(&0) {
            return Err("its name contains a NUL character");
        }
        if name.starts_with(b"/") || name.starts_with(b"\\") {
            return Err("its name is absolute");
        }
        // Some archives are made where a backslash separates: here it does not, but nobody means well with `..\`.
        if name.split(|byte| matches!(byte, b'/' | b'\\')).any(|part| part == b"..") {
            return Err("its name leads out of the directory");
        }
        let parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        Ok(Self { parts: parts.map(OsStr::from_bytes).collect() })
    }

    /// The directories on its way, and its last part; nothing for the directory itself.
    pub fn split(&self) -> Option<(&[&'a OsStr], &'a OsStr)> {
        self.parts.split_last().map(|(last, way)| (way, *last))
    }

    /// All its parts.
    pub fn parts(&self) -> &[&'a OsStr] {
        &self.parts
    }

    /// Whether a symbolic link of this name may point to this target: it has to stay within the directory whatever other
    /// links the archive has, so `..` may only stand at its beginning, and not lead above the directory.
    pub fn check_target(&self, target: &[u8]) -> Result<(), &'static str> {
        if target.is_empty() || target.contains(&0) {
            return Err("its target is no path");
        }
        if target.starts_with(b"/") {
            return Err("it is a link that leads out of the directory");
        }
        let depth = self.parts.len().saturating_sub(1);
        let parts = || target.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        let up = parts().take_while(|part| *part == b"..").count();
        if up > depth || parts().skip(up).any(|part| part == b"..") {
            return Err("it is a link that leads out of the directory");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let parts = |name: &str| Name::parse(name.as_bytes()).map(|name| name.parts().join(OsStr::new("|")));
        assert_eq!(parts("a/./b//c").unwrap(), "a|b|c");
        assert_eq!(parts("./").unwrap(), "");
        assert_eq!(parts("..a/b..").unwrap(), "..a|b..");
        for wrong in ["/a", "\\a", "..", "a/../b", "a/..", "..\\a", "a\\..\\b", "a\0"] {
            assert!(parts(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn targets() {
        let name = Name::parse(b"a/b/link").unwrap();
        for right in ["x", "../x", "../../x", "./../x/y", "x/", "."] {
            assert_eq!(name.check_target(right.as_bytes()), Ok(()), "{right}");
        }
        for wrong in ["", "/x", "../../../x", "x/..", "../x/../y", "a\0"] {
            assert!(name.check_target(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
