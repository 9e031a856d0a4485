//! The watched directories of one session: which files are complete, who was told, what was uploaded.
