//! What happens next: events by time, and in the order in which they were scheduled where times are
//! equal.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::sample::RequestIndex;

/// Something that will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// The next request of the traffic arrives.
    Arrival,
    /// The step of this server ends.
    Step(usize),
    /// The KV cache of this request is where its answer is generated.
    Received(RequestIndex),
    /// The dispatcher scrapes all servers.
    Sample,
    /// The dispatcher asked to be woken.
    Wake,
}

/// The future.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    scheduled: u64,
}

impl Events {
    pub(super) fn schedule(&mut self, at: Duration, event: Event) {
        self.scheduled += 1;
        self.heap.push(Reverse((at, self.scheduled, event)));
    }

    pub(super) fn next(&mut self) -> Option<(Duration, Event)> {
        self.heap.pop().map(|Reverse((at, _, event))| (at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_times_keep_the_order_of_scheduling() {
        let mut events = Events::default();
        let second = Duration::from_secs(1);
        for (at, event) in [
            (second, Event::Wake),
            (second, Event::Arrival),
            (Duration::ZERO, Event::Sample),
            (second, Event::Step(3)),
        ] {
            events.schedule(at, event);
        }
        let order: Vec<Event> = std::iter::from_fn(|| events.next())
            .map(|(_, event)| event)
            .collect();
        assert_eq!(
            order,
            [Event::Sample, Event::Wake, Event::Arrival, Event::Step(3)]
        );
    }
}
