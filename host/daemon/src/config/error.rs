//! What can be wrong with a configuration, and where a value came from.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from. The order of precedence is flag, environment, file, default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
    },
    /// An environment variable.
    Env(&'static str),
    /// A flag of the command line, with its dashes.
    Flag(&'static str),
}

impl Source {
    /// The order in which problems are read: that of the file, then the rest.
    pub(super) fn line(&self) -> (usize, usize) {
        match self {
            Self::File { line, column, .. } => (*line, *column),
            Self::Default | Self::Env(_) | Self::Flag(_) => (usize::MAX, usize::MAX),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, .. } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A setting as `config show` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its key path.
    pub key: String,
    /// Its value as the file would spell it; `unset`, or `***` for a secret.
    pub value: String,
    /// Where the value came from.
    pub source: Source,
}

/// Something that the daemon starts with all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The variable or key it is about.
    pub about: String,
    /// What is wrong and what happens instead.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.message)
    }
}

/// One reason not to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where; [`Source::Default`] if it is in no one place.
    pub place: Source,
    /// What is wrong and what would be accepted.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Source::Default => {}
            Source::File { path, line, column } => write!(f, "{}:{line}:{column}: ", path.display())?,
            Source::Env(name) | Source::Flag(name) => write!(f, "{name}: ")?,
        }
        f.write_str(&self.message)
    }
}

/// Every reason not to start, a line each, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.place.line());
        problems.dedup();
        Self { problems }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}
