//! What was found: one finding per check, and the report they make up.
//!
//! Owns their text; their JSON is in `wire::report`.

use super::Check;
use crate::wire::report::{FindingRecord, PlaceRecord, ReportRecord, VerdictRecord};
use std::fmt;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// No check takes longer than this; most set shorter limits of their own.
const LONGEST: Duration = Duration::from_mins(2);

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is as expected.
    Holds,
    /// It is not.
    Differs,
    /// It was not looked at, and the finding says why.
    Skipped,
}

impl Verdict {
    /// The word that a line of the report begins with.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Holds => "ok",
            Self::Differs => "DIFFERS",
            Self::Skipped => "skipped",
        }
    }
}

/// A place in a file that is to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: String,
    /// Counted from 1; absent if the whole file is meant.
    pub line: Option<u64>,
    /// Counted from 1, in characters.
    pub column: Option<u64>,
    /// The field, from the top: `sandbox.env.NAME`, `skills[0].path`. Empty if none is meant.
    pub field: String,
    /// What is wrong and what to do, in one sentence.
    pub message: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let (Some(_), Some(column)) = (self.line, self.column) {
            write!(f, ":{column}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// What came of one check.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The check.
    pub check: Check,
    /// Whether it holds.
    pub verdict: Verdict,
    /// What was seen, in words; for a check that was skipped, why.
    pub seen: String,
    /// The places in files that are to be changed.
    pub places: Vec<Place>,
    /// How long it took.
    pub took: Duration,
}

/// One line; a check that differs has further lines, indented: what was expected, what was seen, where.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Check { name, expected } = self.check;
        write!(f, "{:<8}{name}: ", self.verdict.word())?;
        match self.verdict {
            Verdict::Holds if self.seen.is_empty() => f.write_str(expected),
            Verdict::Holds => write!(f, "{expected} ({})", self.seen),
            Verdict::Skipped => f.write_str(&self.seen),
            Verdict::Differs => {
                write!(f, "{expected}")?;
                if !self.seen.is_empty() {
                    write!(f, "\n        seen: {}", self.seen.replace('\n', "\n        "))?;
                }
                for place in &self.places {
                    write!(f, "\n        {place}")?;
                }
                Ok(())
            }
        }
    }
}

/// Findings as lines for a person, as they are made: checks that are left out for one reason are one line.
#[derive(Debug, Default)]
pub struct Lines {
    skipped: Vec<Finding>,
}

impl Lines {
    /// The verdict and the text of what can be shown now.
    pub fn take(&mut self, finding: &Finding) -> Vec<(Verdict, String)> {
        let goes_on = self.skipped.first().is_none_or(|first| first.seen == finding.seen);
        let mut lines = Vec::new();
        if finding.verdict != Verdict::Skipped || !goes_on {
            lines.extend(self.rest());
        }
        if finding.verdict == Verdict::Skipped {
            self.skipped.push(finding.clone());
        } else {
            lines.push((finding.verdict, finding.to_string()));
        }
        lines
    }

    /// What is left at the end.
    pub fn rest(&mut self) -> Option<(Verdict, String)> {
        let skipped = std::mem::take(&mut self.skipped);
        let text = match skipped.as_slice() {
            [] => return None,
            [only] => only.to_string(),
            [first, .., last] => {
                let (word, count) = (Verdict::Skipped.word(), skipped.len());
                format!("{word} {count} checks, {} to {}: {}", first.check.name, last.check.name, first.seen)
            }
        };
        Some((Verdict::Skipped, text))
    }
}

/// The findings about one subject.
pub struct Report {
    protocol: &'static str,
    subject: String,
    findings: Vec<Finding>,
    tell: Box<dyn FnMut(&Finding) + Send>,
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("subject", &self.subject)
            .field("findings", &self.findings)
            .finish_non_exhaustive()
    }
}

impl Report {
    /// About this subject, a URL or a file. `tell` hears of each finding as it is made.
    pub fn new(protocol: &'static str, subject: &str, tell: impl FnMut(&Finding) + Send + 'static) -> Self {
        Self { protocol, subject: subject.to_owned(), findings: Vec::new(), tell: Box::new(tell) }
    }

    /// Makes a check. `work` ends with what was seen: `Ok` if that is what was expected. Returns whether it holds.
    pub async fn check(&mut self, check: &Check, work: impl Future<Output = Result<String, String>>) -> bool {
        let began = Instant::now();
        let seen = timeout(LONGEST, work).await.unwrap_or_else(|_| Err(format!("no end within {LONGEST:?}")));
        let (verdict, seen) = match seen {
            Ok(seen) => (Verdict::Holds, seen),
            Err(seen) => (Verdict::Differs, seen),
        };
        self.add(Finding { check: *check, verdict, seen, places: Vec::new(), took: began.elapsed() });
        verdict == Verdict::Holds
    }

    /// Leaves a check out, and says why.
    pub fn skip(&mut self, check: &Check, why: &str) {
        let seen = why.to_owned();
        self.add(Finding { check: *check, verdict: Verdict::Skipped, seen, places: Vec::new(), took: Duration::ZERO });
    }

    /// Leaves out every check of the list that has no finding yet.
    pub fn skip_rest(&mut self, checks: &[Check], why: &str) {
        for check in checks {
            if !self.findings.iter().any(|finding| finding.check == *check) {
                self.skip(check, why);
            }
        }
    }

    /// A finding that was made elsewhere.
    pub fn add(&mut self, finding: Finding) {
        (self.tell)(&finding);
        self.findings.push(finding);
    }

    /// How many findings have this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.count(Verdict::Differs) == 0
    }

    /// Whether the check of this name was made and differs.
    #[must_use]
    pub fn differs(&self, name: &str) -> bool {
        self.differing().any(|differing| differing == name)
    }

    /// The first check that differs.
    #[must_use]
    pub fn first_that_differs(&self) -> Option<&'static str> {
        self.differing().next()
    }

    fn differing(&self) -> impl Iterator<Item = &'static str> {
        let findings = self.findings.iter().filter(|finding| finding.verdict == Verdict::Differs);
        findings.map(|finding| finding.check.name)
    }

    /// The last line, in words.
    #[must_use]
    pub fn sum(&self) -> String {
        let [held, differed, skipped] =
            [Verdict::Holds, Verdict::Differs, Verdict::Skipped].map(|verdict| self.count(verdict));
        let skipped = if skipped == 0 { String::new() } else { format!(", {skipped} skipped") };
        if differed == 0 {
            format!("all {held} checks hold{skipped}: {}", self.subject)
        } else {
            format!("{differed} of {} checks differ{skipped}: {}", held + differed, self.subject)
        }
    }

    /// For programs.
    #[must_use]
    pub fn record(&self) -> ReportRecord<'_> {
        ReportRecord {
            turnhost: env!("CARGO_PKG_VERSION"),
            protocol: self.protocol,
            subject: &self.subject,
            holds: self.holds(),
            held: self.count(Verdict::Holds),
            differed: self.count(Verdict::Differs),
            skipped: self.count(Verdict::Skipped),
            checks: self.findings.iter().map(FindingRecord::from).collect(),
        }
    }
}

impl<'a> From<&'a Finding> for FindingRecord<'a> {
    fn from(finding: &'a Finding) -> Self {
        Self {
            name: finding.check.name,
            verdict: match finding.verdict {
                Verdict::Holds => VerdictRecord::Holds,
                Verdict::Differs => VerdictRecord::Differs,
                Verdict::Skipped => VerdictRecord::Skipped,
            },
            expected: finding.check.expected,
            seen: &finding.seen,
            places: finding.places.iter().map(PlaceRecord::from).collect(),
            took_ms: u64::try_from(finding.took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl<'a> From<&'a Place> for PlaceRecord<'a> {
    fn from(place: &'a Place) -> Self {
        Self { file: &place.file, line: place.line, column: place.column, field: &place.field, message: &place.message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Check = Check { name: "x-first", expected: "a first turn is answered" };
    const SECOND: Check = Check { name: "x-second", expected: "so is a second" };
    const THIRD: Check = Check { name: "x-third", expected: "and a third" };

    #[tokio::test]
    async fn a_report_in_words_and_as_json() {
        let (told, tells) = std::sync::mpsc::channel();
        let mut report =
            Report::new("x", "http://h", move |finding| told.send(finding.to_string()).expect("a listener"));
        assert!(report.check(&FIRST, async { Ok("200".to_owned()) }).await);
        assert!(!report.check(&SECOND, async { Err("500\nInternal".to_owned()) }).await);
        report.skip_rest(&[FIRST, SECOND, THIRD], "the second differs");
        let found: Vec<String> = tells.try_iter().collect();
        assert_eq!(
            found,
            [
                "ok      x-first: a first turn is answered (200)",
                "DIFFERS x-second: so is a second\n        seen: 500\n        Internal",
                "skipped x-third: the second differs",
            ]
        );
        assert_eq!(report.sum(), "1 of 2 checks differ, 1 skipped: http://h");
        let record = serde_json::to_value(report.record()).unwrap();
        assert_eq!(record["holds"], false);
        assert_eq!(record["checks"][1]["verdict"], "differs");
        assert_eq!(record["checks"][1]["seen"], "500\nInternal");
    }

    #[test]
    fn what_is_left_out_for_one_reason_is_one_line() {
        let finding = |check: Check, verdict, seen: &str| Finding {
            check,
            verdict,
            seen: seen.to_owned(),
            places: Vec::new(),
            took: Duration::ZERO,
        };
        let mut lines = Lines::default();
        assert!(lines.take(&finding(FIRST, Verdict::Skipped, "no server")).is_empty());
        assert!(lines.take(&finding(SECOND, Verdict::Skipped, "no server")).is_empty());
        let shown = lines.take(&finding(THIRD, Verdict::Skipped, "no third"));
        assert_eq!(shown, [(Verdict::Skipped, "skipped 2 checks, x-first to x-second: no server".to_owned())]);
        let shown = lines.take(&finding(FIRST, Verdict::Holds, ""));
        let texts: Vec<&str> = shown.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["skipped x-third: no third", "ok      x-first: a first turn is answered"]);
        assert_eq!(lines.rest(), None);
    }

    #[test]
    fn a_place_names_what_is_known() {
        let mut place = Place {
            file: "dari.yml".into(),
            line: Some(3),
            column: Some(5),
            field: "harness.kind".into(),
            message: "say which".into(),
        };
        assert_eq!(place.to_string(), "dari.yml:3:5: harness.kind: say which");
        (place.line, place.field) = (None, String::new());
        assert_eq!(place.to_string(), "dari.yml: say which");
    }
}
