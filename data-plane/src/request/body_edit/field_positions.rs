//! Where the top-level fields of a body are: found with its first edit, and kept for the next one,
//! as both legs of a pair are edits of one body.

use std::sync::OnceLock;

use smallvec::SmallVec;

use crate::request::{
    object_scanner::{MalformedObject, ObjectScanner, ScannedField},
    request_body::{BodySpan, RequestBody},
};

/// Fields that are kept, at most: those of a body of very many would take a multiple of its size.
const MAX_KEPT: usize = 64;

/// See the module. Those of one body: another one needs others.
#[derive(Clone, Debug, Default)]
pub(crate) struct FieldPositions(OnceLock<Box<[KeptField]>>);

/// A [`ScannedField`] that outlives the scan.
#[derive(Clone, Debug)]
struct KeptField {
    name: SmallVec<[u8; 24]>,
    start: usize,
    value: BodySpan,
    first: u8,
}

impl FieldPositions {
    /// Passes each field of the body to `found`.
    ///
    /// # Errors
    ///
    /// When the body is no JSON object.
    pub(super) fn each(
        &self,
        body: &RequestBody,
        mut found: impl FnMut(ScannedField<'_>),
    ) -> Result<(), MalformedObject> {
        if let Some(kept) = self.0.get() {
            kept.iter().for_each(|field| found(field.scanned()));
            return Ok(());
        }
        let (mut scanner, mut kept) = (ObjectScanner::default(), Vec::new());
        let mut count = 0;
        for piece in body.pieces() {
            scanner.scan(piece, |field| {
                count += 1;
                if count <= MAX_KEPT {
                    kept.push(KeptField::from(&field));
                }
                found(field);
            })?;
        }
        scanner.finish()?;
        if count <= MAX_KEPT {
            // Another thread has found the same.
            _ = self.0.set(kept.into());
        }
        Ok(())
    }
}

impl KeptField {
    fn scanned(&self) -> ScannedField<'_> {
        ScannedField {
            name: &self.name,
            start: self.start,
            value: self.value,
            first: self.first,
        }
    }
}

impl From<&ScannedField<'_>> for KeptField {
    fn from(field: &ScannedField<'_>) -> Self {
        Self {
            name: SmallVec::from_slice(field.name),
            start: field.start,
            value: field.value,
            first: field.first,
        }
    }
}
