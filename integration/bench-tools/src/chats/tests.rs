//! What holds for any chats.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

fn chats(users: usize, rounds: usize, seed: u64) -> Chats {
    Chats {
        users,
        rounds,
        system_tokens: 100,
        history_tokens: 300,
        question_tokens: 30,
        answer_tokens: 60,
        pace: Pace::Timed {
            per_second: 5.0,
            pauses: Pauses::Even,
            singles: Singles::default(),
        },
        seed,
    }
}

fn any_chats() -> impl Strategy<Value = Chats> {
    let sizes = (1usize..40, 1usize..12, 0usize..300, 0usize..900);
    let times = (0.5f64..50.0, any::<bool>(), 0.0f64..0.9);
    (sizes, times, any::<u64>()).prop_map(|((users, rounds, system, history), times, seed)| {
        let (per_second, even, share) = times;
        Chats {
            system_tokens: system,
            history_tokens: history,
            pace: Pace::Timed {
                per_second,
                pauses: if even {
                    Pauses::Even
                } else {
                    Pauses::Exponential
                },
                singles: Singles { share, tokens: 500 },
            },
            ..chats(users, rounds, seed)
        }
    })
}

#[test]
fn the_rate_is_that_of_all_requests_and_singles_have_their_share() {
    for pauses in [Pauses::Even, Pauses::Exponential] {
        let mut chats = chats(48, 10, 3);
        chats.pace = Pace::Timed {
            per_second: 5.0,
            pauses,
            singles: Singles {
                share: 0.3,
                tokens: 4_000,
            },
        };
        let requests: Vec<ChatRequest> = chats.requests().take(20_000).collect();
        let rate = requests.len() as f64 / requests[requests.len() - 1].at.as_secs_f64();
        assert!((rate / 5.0 - 1.0).abs() < 0.03, "{pauses:?}: {rate}");
        let singles = requests
            .iter()
            .filter(|request| matches!(request.prompt, Prompt::Single { .. }));
        let singles = singles.count() as f64 / requests.len() as f64;
        assert!((singles / 0.3 - 1.0).abs() < 0.05, "{pauses:?}: {singles}");
    }
}

#[test]
fn without_a_rate_each_user_has_one_session() {
    let pace = Pace::AsAnswered {
        think: Duration::ZERO,
        stagger: Duration::from_secs(2),
    };
    let chats = Chats {
        pace,
        ..chats(3, 4, 1)
    };
    let turns: Vec<Turn> = chats.turns(2).collect();
    assert_eq!(turns.len(), 4);
    assert!(turns.iter().enumerate().all(|(round, turn)| {
        let due = Duration::from_secs(4);
        *turn
            == Turn {
                due,
                session: 2,
                round,
            }
    }));
    assert_eq!(chats.requests().count(), 12);
}

proptest! {
    #[test]
    fn the_seed_decides_everything(chats in any_chats()) {
        let draw = |chats: Chats| chats.requests().take(200).collect::<Vec<_>>();
        prop_assert_eq!(draw(chats), draw(chats));
        let other = Chats { seed: chats.seed ^ 1, ..chats };
        prop_assert_ne!(draw(chats), draw(other));
    }

    #[test]
    fn requests_come_in_order_of_time(chats in any_chats()) {
        let requests: Vec<ChatRequest> = chats.requests().take(500).collect();
        prop_assert_eq!(requests.len(), 500);
        prop_assert!(requests.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }

    #[test]
    fn a_session_goes_on_round_by_round_and_has_no_more_than_its_rounds(chats in any_chats()) {
        let mut rounds: HashMap<u64, usize> = HashMap::new();
        for request in chats.requests().take(1_000) {
            if let Prompt::Question { session, round } = request.prompt {
                let next = rounds.entry(session).or_default();
                prop_assert_eq!(round, *next);
                *next += 1;
            }
        }
        prop_assert!(rounds.values().all(|&count| count <= chats.rounds));
    }

    #[test]
    fn prompts_share_what_their_users_share(chats in any_chats(), block in 1usize..70) {
        let of = |session, round| chats.blocks(Prompt::Question { session, round }, block);
        let (first, next, other) = (of(3, 0), of(3, 1), of(4, 1));
        prop_assert!(next.starts_with(&first), "the next round has the last one as its prefix");
        let common = next.iter().zip(&other).take_while(|(a, b)| a == b).count();
        prop_assert_eq!(common, (chats.system_tokens / block).min(next.len()));
        let names: HashSet<u64> = next.iter().chain(&other).copied().collect();
        prop_assert_eq!(names.len(), next.len() + other.len() - common);
    }

    #[test]
    fn a_single_prompt_shares_nothing(chats in any_chats(), block in 1usize..70) {
        let single = |number| chats.blocks(Prompt::Single { number, tokens: 700 }, block);
        let question = chats.blocks(Prompt::Question { session: 1, round: 0 }, block);
        let all: Vec<u64> = [single(0), single(1), question].concat();
        let names: HashSet<u64> = all.iter().copied().collect();
        prop_assert_eq!(names.len(), all.len());
    }
}
