//! Where a comparison goes, as a command line.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::Comparison;

/// How to show a comparison.
#[derive(Clone, Debug, Default, Args)]
pub struct ComparisonArgs {
    /// Print one JSON array with an object for each policy, times in seconds
    #[arg(long)]
    pub json: bool,
    /// Also write a page with figures and plots to this file; it needs nothing else to be read
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Why a comparison is not shown.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The page cannot be written.
    #[error("cannot write the page {path}: {source}")]
    Page {
        /// As given.
        path: String,
        /// From the operating system.
        source: io::Error,
    },
    /// The output cannot be written.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
}

impl ComparisonArgs {
    /// Writes the page, if one is wanted, then the table or the JSON to `out`.
    ///
    /// # Errors
    /// A page or an output that cannot be written.
    pub fn write(&self, comparison: &Comparison, out: &mut dyn Write) -> Result<(), WriteError> {
        if let Some(path) = &self.html {
            let failed = |source| WriteError::Page {
                path: path.display().to_string(),
                source,
            };
            fs::write(path, comparison.page().to_string()).map_err(failed)?;
        }
        let written = if self.json {
            comparison.write_json(out)
        } else {
            comparison.write_table(out)
        };
        Ok(written?)
    }
}
