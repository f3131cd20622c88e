//! An endpoint that a leg of a request may be sent to, and what the leg is there.

use std::sync::Arc;

use crate::{
    choose::SelectedEndpoint,
    clock::uptime,
    endpoint::{EndpointAdmission, Upstream},
};

/// An endpoint of a placement whose turn it is. The trial that it may hold is that of the leg which
/// is sent there; without one it is to be given up.
#[derive(Clone, Copy)]
pub(super) struct AdmittedEndpoint<'a> {
    pub(super) endpoint: &'a SelectedEndpoint,
    pub(super) admission: EndpointAdmission,
}

/// A leg of a pair while it is not the guard's attempt, of which results are recorded. Dropped, as
/// it is when the client disconnects, it is given up.
pub(super) struct PendingLeg<'a>(AdmittedEndpoint<'a>);

// === AdmittedEndpoint ===

impl<'a> AdmittedEndpoint<'a> {
    /// `None` when the endpoint admits no request now, or has left the pool.
    pub(super) fn admit(endpoint: &'a SelectedEndpoint) -> Option<Self> {
        if endpoint.upstream.is_removed() {
            return None;
        }
        let admission = endpoint.upstream.admit(uptime())?;
        Some(Self {
            endpoint,
            admission,
        })
    }

    /// An endpoint that is sent a leg without being asked, for want of a better one.
    pub(super) fn unasked(endpoint: &'a SelectedEndpoint) -> Self {
        Self {
            endpoint,
            admission: EndpointAdmission::default(),
        }
    }

    pub(super) const fn upstream(&self) -> &'a Arc<Upstream> {
        &self.endpoint.upstream
    }

    /// Nothing is sent, or it came to nothing: what the leg was admitted to is left to the next
    /// one.
    pub(super) fn give_up(self) {
        self.upstream().abandoned(uptime(), self.admission);
    }
}

// === PendingLeg ===

impl<'a> PendingLeg<'a> {
    pub(super) const fn of(endpoint: AdmittedEndpoint<'a>) -> Self {
        Self(endpoint)
    }

    /// It is the guard's attempt from now on.
    pub(super) fn hand_over(mut self) -> AdmittedEndpoint<'a> {
        let endpoint = self.0;
        self.0.admission = EndpointAdmission::default();
        endpoint
    }
}

impl Drop for PendingLeg<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}
