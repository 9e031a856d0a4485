//! Unpacking an archive into a directory, and nowhere else.
