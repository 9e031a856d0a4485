//! What `check --json` and `conform --json` print.

use schemars::JsonSchema;
use serde::Serialize;

/// The findings about one subject.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ReportRecord<'a> {
    /// The version of turnhost that looked.
    pub turnhost: &'a str,
    /// The contract that was checked.
    pub protocol: &'a str,
    /// What was looked at: a file or a URL.
    pub subject: &'a str,
    /// Whether no check differs.
    pub holds: bool,
    /// How many checks hold.
    pub held: usize,
    /// How many differ.
    pub differed: usize,
    /// How many were left out.
    pub skipped: usize,
    /// One entry per check, in the order in which they were made.
    pub checks: Vec<FindingRecord<'a>>,
}

/// What came of one check.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FindingRecord<'a> {
    /// Stable; `turnhost check --explain NAME` tells more.
    pub name: &'a str,
    /// What came of it.
    pub verdict: VerdictRecord,
    /// What has to be.
    pub expected: &'a str,
    /// What was seen; for a check that was left out, why.
    pub seen: &'a str,
    /// What is to be changed where.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub places: Vec<PlaceRecord<'a>>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VerdictRecord {
    /// It is as expected.
    Holds,
    /// It is not.
    Differs,
    /// It was not looked at.
    Skipped,
}

/// A place in a file.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PlaceRecord<'a> {
    /// The file, as it was named.
    pub file: &'a str,
    /// From 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// From 1, in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u64>,
    /// From the top: `sandbox.env.NAME`, `skills[0].path`; empty if the whole file is meant.
    pub field: &'a str,
    /// What is wrong and what to do.
    pub message: &'a str,
}
