//! What a proxy remembers of its choices, packed so that prefixes which choices share travel once.

use std::{sync::Arc, time::Duration};

use hermes_core::{history::RoutedPrompt, prefix::MAX_BLOCKS, snapshot::EndpointId};

use super::{Invalid, required};
use crate::v1;

/// Hashes in one message before packing: a mebibyte at most goes over the wire at once.
const HASHES_A_MESSAGE: usize = 1 << 17;

/// Decisions in one message, whose own fields take some 30 bytes each.
const DECISIONS_A_MESSAGE: usize = 1 << 13;

/// Messages of one replay; older requests are left out.
const MESSAGES: usize = 8;

/// Where chains are compared to bring neighbors together.
const DEPTHS: [usize; 10] = [0, 1, 3, 7, 15, 31, 63, 127, 255, 511];

/// Hashes that one message may unpack to. A few bytes can claim thousands, so that this has to be
/// bounded apart from the message's size.
const MAX_HASHES: usize = 2 * HASHES_A_MESSAGE;

/// A [`v1::RoutingHistory`], checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayedHistory {
    /// Pool in which the choices were made.
    pub pool: String,
    /// Bytes of one block of their hashes.
    pub block_bytes: u32,
    /// In any order.
    pub requests: Vec<RoutedPrompt>,
}

// === Out of core ===

/// The messages that replay `requests`, newest first; what does not fit into 8 of them is left out.
#[must_use]
pub fn history_to_wire(
    pool: &str,
    block_bytes: u32,
    requests: impl IntoIterator<Item = RoutedPrompt>,
) -> Vec<v1::RoutingHistory> {
    let mut messages = Vec::new();
    let mut requests = requests
        .into_iter()
        .filter(|decision| (1..=MAX_BLOCKS).contains(&decision.blocks.len()))
        .peekable();
    while messages.len() < MESSAGES && requests.peek().is_some() {
        let mut hashes = 0;
        let mut fits = |decision: &RoutedPrompt| {
            hashes += decision.blocks.len();
            hashes <= HASHES_A_MESSAGE
        };
        let mut batch = Vec::new();
        while batch.len() < DECISIONS_A_MESSAGE
            && let Some(decision) = requests.next_if(&mut fits)
        {
            batch.push(decision);
        }
        messages.push(v1::RoutingHistory {
            pool: pool.to_owned(),
            block_bytes,
            requests: pack(batch),
        });
    }
    messages
}

/// Each decision without the hashes that it shares with the one before.
fn pack(mut batch: Vec<RoutedPrompt>) -> Vec<v1::RoutedRequest> {
    // Chains that are equal at some depth are equal before it: comparing some depths puts those
    // that share much side by side, at a fraction of the cost of comparing chains to the block.
    let key = |decision: &RoutedPrompt| {
        let blocks = &decision.blocks;
        (DEPTHS.map(|depth| blocks.get(depth).copied()), blocks.len())
    };
    batch.sort_unstable_by_key(key);
    let mut before: Arc<[u64]> = Arc::default();
    let pack = |decision: RoutedPrompt| {
        let RoutedPrompt {
            endpoint,
            prompt_tokens,
            blocks,
            age,
        } = decision;
        let shared = before
            .iter()
            .zip(&*blocks)
            .take_while(|(a, b)| a == b)
            .count();
        let wire = v1::RoutedRequest {
            endpoint: endpoint.0,
            prompt_tokens,
            shared: shared as u32,
            blocks: blocks[shared..].to_vec(),
            age_ms: u32::try_from(age.as_millis()).unwrap_or(u32::MAX),
        };
        before = blocks;
        wire
    };
    batch.into_iter().map(pack).collect()
}

// === Into core ===

impl TryFrom<v1::RoutingHistory> for ReplayedHistory {
    type Error = Invalid;

    fn try_from(wire: v1::RoutingHistory) -> Result<Self, Invalid> {
        let v1::RoutingHistory {
            pool,
            block_bytes,
            requests,
        } = wire;
        required((!pool.is_empty()).then_some(()), "pool")?;
        if block_bytes == 0 {
            return Err(Invalid::new("block_bytes", "must be at least 1"));
        }
        let mut before: Arc<[u64]> = Arc::default();
        let mut hashes = 0;
        let mut unpacked = Vec::with_capacity(requests.len().min(DECISIONS_A_MESSAGE));
        for (index, packed) in requests.into_iter().enumerate() {
            let decision =
                unpack(packed, &before).map_err(|invalid| invalid.at("requests", index))?;
            hashes += decision.blocks.len();
            if hashes > MAX_HASHES {
                return Err(Invalid::new(
                    "requests",
                    "unpack to more than 262144 hashes",
                ));
            }
            before = Arc::clone(&decision.blocks);
            unpacked.push(decision);
        }
        Ok(Self {
            pool,
            block_bytes,
            requests: unpacked,
        })
    }
}

fn unpack(packed: v1::RoutedRequest, before: &Arc<[u64]>) -> Result<RoutedPrompt, Invalid> {
    let v1::RoutedRequest {
        endpoint,
        prompt_tokens,
        shared,
        blocks: rest,
        age_ms,
    } = packed;
    let Some(beginning) = before.get(..shared as usize) else {
        return Err(Invalid::new(
            "shared",
            "is more than the decision before it has",
        ));
    };
    let length = beginning.len() + rest.len();
    if length == 0 || length > MAX_BLOCKS {
        return Err(Invalid::new(
            "blocks",
            "must be 1 to 8192 hashes, the shared ones included",
        ));
    }
    let same = length == before.len() && rest.is_empty();
    let blocks = if same {
        Arc::clone(before)
    } else {
        beginning.iter().chain(&rest).copied().collect()
    };
    let age = Duration::from_millis(u64::from(age_ms));
    Ok(RoutedPrompt {
        endpoint: EndpointId(endpoint),
        prompt_tokens,
        blocks,
        age,
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use prost::Message;

    use super::*;

    /// Chains that share prefixes, as conversations do.
    fn requests() -> impl Strategy<Value = Vec<RoutedPrompt>> {
        let chain = (0..4_u64, vec(0..3_u64, 1..20)).prop_map(|(root, steps)| {
            let next = |hash: &mut u64, step: u64| {
                *hash = hash.wrapping_mul(31) + step + 1;
                Some(*hash)
            };
            steps.into_iter().scan(root, next).collect()
        });
        let decision = (0..5_u64, any::<u32>(), chain, 0..1_000_u64).prop_map(
            |(endpoint, tokens, blocks, age)| RoutedPrompt {
                endpoint: EndpointId(endpoint),
                prompt_tokens: tokens,
                blocks,
                age: Duration::from_millis(age),
            },
        );
        vec(decision, 0..50)
    }

    fn decision(blocks: impl IntoIterator<Item = u64>) -> RoutedPrompt {
        let blocks = blocks.into_iter().collect();
        RoutedPrompt {
            endpoint: EndpointId(1),
            prompt_tokens: 9,
            blocks,
            age: Duration::ZERO,
        }
    }

    fn received(messages: Vec<v1::RoutingHistory>) -> Vec<RoutedPrompt> {
        messages
            .into_iter()
            .flat_map(|message| ReplayedHistory::try_from(message).expect("valid").requests)
            .collect()
    }

    fn in_order(mut requests: Vec<RoutedPrompt>) -> Vec<RoutedPrompt> {
        requests.sort_by_key(|d| (d.blocks.clone(), d.endpoint, d.prompt_tokens, d.age));
        requests
    }

    proptest! {
        #[test]
        fn the_replayed_history_is_received_unchanged(requests in requests()) {
            let messages = history_to_wire("chat", 256, requests.clone());
            prop_assert_eq!(in_order(received(messages)), in_order(requests));
        }

        #[test]
        fn any_message_is_refused_or_bounded(bytes in vec(any::<u8>(), 0..200), claims in vec(any::<u16>(), 0..40)) {
            let claim = |shared: u16| v1::RoutedRequest { shared: shared.into(), blocks: vec![1], ..Default::default() };
            let made_up = claims.into_iter().map(claim).collect();
            let messages = [
                v1::RoutingHistory::decode(&bytes[..]).unwrap_or_default(),
                v1::RoutingHistory { pool: "p".into(), block_bytes: 1, requests: made_up },
            ];
            for message in messages {
                if let Ok(history) = ReplayedHistory::try_from(message) {
                    prop_assert!(history.requests.iter().map(|d| d.blocks.len()).sum::<usize>() <= MAX_HASHES);
                }
            }
        }
    }

    #[test]
    fn turns_of_one_conversation_cost_what_its_last_turn_costs() {
        let turns = (1..=100).rev().map(|turn| decision(0..turn * 10));
        let [message] = &history_to_wire("chat", 256, turns)[..] else {
            panic!("one message")
        };
        assert_eq!(
            message
                .requests
                .iter()
                .map(|d| d.blocks.len())
                .sum::<usize>(),
            1_000
        );
        assert!(message.encoded_len() < 8 * 1_000 + 100 * 40);
    }

    #[test]
    fn the_newest_go_first_and_the_oldest_are_left_out() {
        let many = (0..20_000).map(|age| RoutedPrompt {
            age: Duration::from_millis(age),
            ..decision((0..100).map(|block| age * 1_000 + block))
        });
        let messages = history_to_wire("chat", 256, many);
        assert_eq!(messages.len(), MESSAGES);
        assert!(
            messages
                .iter()
                .all(|message| message.encoded_len() <= 1_200_000)
        );
        let oldest = |message: &v1::RoutingHistory| {
            message
                .requests
                .iter()
                .map(|d| d.age_ms)
                .max()
                .expect("not empty")
        };
        assert!(
            messages
                .windows(2)
                .all(|pair| oldest(&pair[0]) < oldest(&pair[1]))
        );
    }

    #[test]
    fn a_few_bytes_cannot_claim_many_hashes() {
        let first = v1::RoutedRequest {
            blocks: (0..8_192).collect(),
            ..Default::default()
        };
        let echo = v1::RoutedRequest {
            shared: 8_191,
            blocks: vec![7],
            ..Default::default()
        };
        let requests = std::iter::once(first)
            .chain(std::iter::repeat_n(echo, 1_000))
            .collect();
        let refused = ReplayedHistory::try_from(v1::RoutingHistory {
            pool: "p".into(),
            block_bytes: 1,
            requests,
        });
        assert_eq!(refused.expect_err("too many").field, "requests");
    }
}
