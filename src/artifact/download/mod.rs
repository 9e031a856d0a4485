//! Fetching one file: whole, checked, and never outside its directory.
