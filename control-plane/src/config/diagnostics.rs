//! Collects the errors and warnings of a configuration while it is read.

use std::cell::RefCell;

use super::error::{ConfigError, ConfigErrors};

/// What reading a configuration has found so far.
#[derive(Debug, Default)]
pub(crate) struct Diagnostics {
    errors: RefCell<ConfigErrors>,
    warnings: RefCell<Vec<String>>,
}

impl Diagnostics {
    /// Records an error at `path`.
    pub(crate) fn error(&self, path: &str, found: impl Into<String>, fix: impl Into<String>) {
        let error = ConfigError {
            path: path.to_owned(),
            found: found.into(),
            fix: fix.into(),
        };
        self.errors.borrow_mut().push(error);
    }

    /// Records something that is accepted but probably not intended.
    pub(super) fn warn(&self, warning: String) {
        self.warnings.borrow_mut().push(warning);
    }

    /// What was read, with its warnings, unless there was an error.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<(T, Vec<String>), ConfigErrors> {
        let errors = self.errors.into_inner();
        match value {
            Some(value) if errors.is_empty() => Ok((value, self.warnings.into_inner())),
            Some(_) | None => Err(errors),
        }
    }

    /// The errors; empty if there were none.
    pub(crate) fn into_errors(self) -> ConfigErrors {
        self.errors.into_inner()
    }
}
