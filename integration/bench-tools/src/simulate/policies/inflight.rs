//! What a router counts by itself: the requests and the prompt tokens that it sent to each server
//! and that are not answered yet.

use std::collections::HashMap;

use crate::simulate::dispatcher::RequestIndex;

/// One router's own requests in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    servers: Vec<Load>,
    /// Prompt tokens of each request until its first token, zero after that.
    requests: HashMap<RequestIndex, usize>,
}

/// One server's part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Requests that have not finished.
    pub(super) requests: usize,
    /// Prompt tokens of those without a first token, as they were counted when sent.
    pub(super) tokens: usize,
}

impl InFlight {
    pub(super) fn new(servers: usize) -> Self {
        Self {
            servers: vec![Load::default(); servers],
            requests: HashMap::new(),
        }
    }

    /// A request goes to `server`, where it costs this number of prompt tokens.
    pub(super) fn sent(&mut self, request: RequestIndex, server: usize, tokens: usize) {
        self.requests.insert(request, tokens);
        self.servers[server].requests += 1;
        self.servers[server].tokens += tokens;
    }

    /// Its first token is here.
    pub(super) fn first_token(&mut self, request: RequestIndex, server: usize) {
        if let Some(tokens) = self.requests.get_mut(&request) {
            self.servers[server].tokens -= std::mem::take(tokens);
        }
    }

    /// Its last token is here.
    pub(super) fn finished(&mut self, request: RequestIndex, server: usize) {
        self.first_token(request, server);
        if self.requests.remove(&request).is_some() {
            self.servers[server].requests -= 1;
        }
    }

    /// The loads of all servers.
    pub(super) fn loads(&self) -> &[Load] {
        &self.servers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_given_back_at_the_first_token_and_requests_at_the_last() {
        let mut inflight = InFlight::new(1);
        inflight.sent(4, 0, 100);
        inflight.sent(5, 0, 10);
        inflight.first_token(4, 0);
        assert_eq!(
            inflight.loads(),
            [Load {
                requests: 2,
                tokens: 10
            }]
        );
        inflight.finished(4, 0);
        inflight.finished(5, 0);
        assert_eq!(inflight.loads(), [Load::default()]);
    }
}
