//! How well injection signals tell attacks from harmless texts, measured on folders of lines.
//!
//! A file's name says what its lines are: `sqli-*` and `xss-*` are attacks, `tbd-*` and `false_positives*` are shown
//! without being rated, anything else is harmless. A line is one string of an event; empty lines and lines that begin
//! with `#` are skipped.

use std::{fmt, fs, io, path::Path};

use super::injection::kinds;

/// What the lines of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expected {
    /// SQL injections.
    Sql,
    /// Script injections.
    Script,
    /// Harmless texts.
    Benign,
    /// Neither is claimed.
    Unrated,
}

/// Counts of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// The file's name.
    pub name: String,
    /// What its lines are.
    pub expected: Expected,
    /// Lines looked at.
    pub lines: usize,
    /// Lines with a signal of either kind.
    pub told: usize,
    /// Numbers, from 1, of the lines that got the wrong answer.
    pub wrong: Vec<usize>,
}

/// Counts of all files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// By file, sorted by what is expected and by name.
    pub tallies: Vec<Tally>,
}

impl Report {
    /// Lines with a signal, and all lines, of what is expected.
    pub fn total(&self, expected: Expected) -> (usize, usize) {
        let of_kind = self.tallies.iter().filter(|t| t.expected == expected);
        of_kind.fold((0, 0), |(told, lines), t| (told + t.told, lines + t.lines))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for t in &self.tallies {
            writeln!(f, "{:6} of {:6}  {:?}  {}", t.told, t.lines, t.expected, t.name)?;
        }
        for expected in [Expected::Sql, Expected::Script, Expected::Benign, Expected::Unrated] {
            let (told, lines) = self.total(expected);
            if lines > 0 {
                let share = 100.0 * told as f64 / lines as f64;
                writeln!(f, "{expected:?}: {told} of {lines} lines have a signal ({share:.2} %)")?;
            }
        }
        Ok(())
    }
}

/// Looks at every `.txt` file of a folder.
pub fn measure(folder: &Path) -> io::Result<Report> {
    let mut report = Report::default();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        if !name.ends_with(".txt") {
            continue;
        }
        // Corpora come from many hands: what is no UTF-8 could be no string of an event either.
        let bytes = fs::read(&path)?;
        report.tallies.push(tally(name, &String::from_utf8_lossy(&bytes)));
    }
    report.tallies.sort_by(|a, b| (a.expected, &a.name).cmp(&(b.expected, &b.name)));
    Ok(report)
}

fn tally(name: &str, text: &str) -> Tally {
    let expected = match name {
        name if name.starts_with("sqli-") => Expected::Sql,
        name if name.starts_with("xss-") => Expected::Script,
        name if name.starts_with("tbd-") || name.starts_with("false_positives") => Expected::Unrated,
        _ => Expected::Benign,
    };
    let mut tally = Tally { name: name.to_owned(), expected, lines: 0, told: 0, wrong: Vec::new() };
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let told = kinds(line).next().is_some();
        let right = match expected {
            Expected::Sql | Expected::Script => told,
            Expected::Benign => !told,
            Expected::Unrated => true,
        };
        tally.lines += 1;
        tally.told += usize::from(told);
        if !right {
            tally.wrong.push(index + 1);
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d12_at_most_one_of_a_hundred_harmless_texts_has_a_signal() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/benign");
        let report = measure(&folder).unwrap();
        let (told, lines) = report.total(Expected::Benign);
        assert!(lines >= 500 && told * 100 <= lines, "{report}");
    }

    #[test]
    fn lines_are_rated_by_the_name_of_their_file() {
        let tally = tally("sqli-a.txt", "# comment\n\n1' OR '1'='1\nhello\n");
        assert_eq!((tally.expected, tally.lines, tally.told), (Expected::Sql, 2, 1));
        assert_eq!(tally.wrong, [4]);
    }
}
