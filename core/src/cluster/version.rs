//! The number of a snapshot.

use serde::Serialize;

/// Which run of which control-plane replica numbered a snapshot; random at every start.
///
/// Versions compare only inside one epoch: a restarted control plane counts from one again and must
/// not look older.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Epoch(pub u64);

/// Position of a snapshot in its epoch; grows with every published change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Version(pub u64);
