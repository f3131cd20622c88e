"""Prefill on one real vLLM and decode on another, with NIXL between them and Hermes in front: answers are those of one
server that does both, and whatever fails or leaves, no server keeps memory for it.

Each check says what it saw, as a row of a table in Markdown on stdout. After each, all servers have to report that no KV
block is in use. What an aggregated server answers is asked of the prefill server directly; then caches are emptied.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import questions
from fleet import LEASE_SECONDS, Fleet, Member, by_hand, decode_place, prefill_place
from questions import KINDS, Answer, Question, Way, ask, chat, completion, left_behind, pending, stream
from servers import report, wait_for


def milliseconds(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f}"


def await_no_request(fleet: Fleet) -> str:
    took = wait_for(lambda: fleet.in_flight() == 0, "the router has no request", 10)
    return f"the router ended both legs within {took * 1000:.0f} ms"


def await_pair(fleet: Fleet) -> str:
    """Asks until a pair answers again: what was down is tried now and then."""
    begun, asked, before = time.monotonic(), 0, fleet.pairs()
    while fleet.pairs() == before:
        assert time.monotonic() - begun < 120, f"no pair after {asked} requests"
        ask(fleet.hermes.url, chat(f"again {asked}", 40, 4))
        asked += 1
        time.sleep(0.2)
    return f"a pair answers again {time.monotonic() - begun:.1f} s later, in request {asked}"


# === Checks: each returns what it saw ===


def two_legs_by_hand_give_the_aggregated_text(fleet: Fleet) -> str:
    asked = [kind(f"hand {number}", 120) for number, kind in enumerate(KINDS * 2)]
    whole = fleet.aggregated(asked)
    legs = [by_hand(fleet, question) for question in asked]
    for question, expected, (_, decoded) in zip(asked, whole, legs):
        assert decoded.text == expected.text, f"{question.kind}: {decoded.text!r} and {expected.text!r}"
    return (
        f"{len(asked)} of {len(asked)} without a router; median {milliseconds([p.seconds for p, _ in legs])} ms prefill and "
        f"{milliseconds([d.seconds for _, d in legs])} ms decode, {milliseconds([a.seconds for a in whole])} ms aggregated"
    )


def the_router_knows_both_roles(fleet: Fleet) -> str:
    took = wait_for(lambda: fleet.roles() == ["decode", "prefill"], "the snapshot has both")
    return f"`{fleet.roles()}` in `/debug/snapshot`, {took:.1f} s after the start"


def a_hundred_greedy_answers_are_the_aggregated_ones(fleet: Fleet) -> str:
    asked = [KINDS[number % len(KINDS)](f"hundred {number}", 20 + 3 * number) for number in range(100)]
    ways: list[Way] = [stream if number // len(KINDS) % 2 else ask for number in range(len(asked))]
    expected = fleet.aggregated(asked, ways)
    pairs, transferred = fleet.pairs(), fleet.decode.prompt_tokens("external_kv_transfer")
    computed = fleet.decode.prompt_tokens("local_compute")
    answers = [way(fleet.hermes.url, question) for way, question in zip(ways, asked)]
    rows = list(zip(asked, ways, expected, answers))
    wrong = [(q.kind, w.__name__, a.text, b.text) for q, w, a, b in rows if a.text != b.text]
    assert not wrong, f"{len(wrong)} differ: {wrong[:3]}"
    pairs, transferred = fleet.pairs() - pairs, fleet.decode.prompt_tokens("external_kv_transfer") - transferred
    assert pairs == len(asked), f"{pairs} of {len(asked)} by a pair"
    computed = fleet.decode.prompt_tokens("local_compute") - computed
    streamed = sum(way is stream for way in ways)
    return (
        f"{len(asked)} of {len(asked)}, {streamed} of them streamed, of {len(KINDS)} kinds: {', '.join(kind.__name__ for kind in KINDS)}; "
        f"{transferred:.0f} prompt tokens moved, {computed:.0f} computed by the decode server"
    )


def every_field_of_a_request_counts(fleet: Fleet) -> str:
    asked = questions.variants("variant")

    def choices(url: str) -> list[str]:
        replies = [httpx.post(url + question.path, json=question.body, timeout=60) for question in asked]
        return [json.dumps(reply.json().get("choices") or reply.json(), sort_keys=True) for reply in replies]

    expected = choices(fleet.prefill.url)
    fleet.empty_caches()
    before = fleet.pairs()
    answers = choices(fleet.hermes.url)
    pairs = fleet.pairs() - before
    assert pairs == len(asked), f"{pairs} of {len(asked)} by a pair"
    rows = zip(asked, expected, answers)
    wrong = [(question.body, whole[:300], answer[:300]) for question, whole, answer in rows if whole != answer]
    assert not wrong, f"{len(wrong)} differ: {wrong}"
    refused = sum('"error"' in answer for answer in answers)
    return f"{len(asked)} requests with one field each, all by a pair, {refused} refused: `choices` are equal"


def errors_are_the_engines_own(fleet: Fleet) -> str:
    # The first two are found by the prefill server, the others by the decode server.
    fields = [{"temperature": -1}, {"messages": [{"role": "user", "content": questions.prose("long", 4000)}]}]
    fields += [{"max_tokens": 99_999}, {"min_tokens": 30}]
    asked = [chat(f"wrong {number}", 200, **field) for number, field in enumerate(fields)]
    expired = fleet.prefill.expired()
    for question in asked:
        direct = httpx.post(fleet.decode.url + question.path, json=question.body, timeout=60)
        routed = httpx.post(fleet.hermes.url + question.path, json=question.body, timeout=60)
        assert direct.status_code == routed.status_code == 400, f"{direct.text} and {routed.text}"
        assert direct.content == routed.content, f"{direct.text} and {routed.text}"
    freed = wait_for(fleet.is_idle, "nothing is leased", LEASE_SECONDS + 10)
    expired = fleet.prefill.expired() - expired
    return f"{len(asked)} of {len(asked)} byte for byte; nothing is leased {freed:.1f} s later, {expired:.0f} leases expired"


def the_first_token_needs_both_legs_and_little_more(fleet: Fleet) -> str:
    asked = [chat(f"first {number}", 500, 16) for number in range(12)]
    whole = [stream(fleet.prefill.url, question) for question in asked]
    fleet.empty_caches()
    hand = []
    for question in asked:
        prefilled, decoded = by_hand(fleet, Question(question.kind, question.path, {**question.body, "max_tokens": 1}))
        hand.append(prefilled.seconds + decoded.seconds)
    fleet.empty_caches()
    routed = [stream(fleet.hermes.url, question) for question in asked]
    assert [answer.text for answer in routed] == [answer.text for answer in whole]
    tokens = statistics.median(answer.usage["prompt_tokens"] for answer in routed)
    return (
        f"median of {len(asked)} prompts of {tokens:.0f} tokens: {milliseconds([answer.first for answer in routed])} ms routed, "
        f"{milliseconds(hand)} ms by hand, {milliseconds([answer.first for answer in whole])} ms aggregated"
    )


def usage_states_what_the_prefill_server_had_cached(fleet: Fleet) -> str:
    before = fleet.prefill.prompt_tokens("local_cache_hit")
    counted = fleet.hermes.metric("hermes_tokens_total", 'kind="cached"')
    beginning = questions.prose("cached", 300)
    answers = [ask(fleet.hermes.url, completion("", 0, prompt=f"{beginning} {number}")) for number in range(4)]
    answers += [stream(fleet.hermes.url, completion("", 0, prompt=f"{beginning} {number}!")) for number in range(4)]
    hits = fleet.prefill.prompt_tokens("local_cache_hit") - before
    counted = fleet.hermes.metric("hermes_tokens_total", 'kind="cached"') - counted
    reported = [answer.cached for answer in answers]
    assert sum(reported) == hits == counted > 0, f"reported {reported}, prefill {hits}, counted {counted}"
    prompt = sum(answer.usage["prompt_tokens"] for answer in answers)
    return f"{sum(reported)} of {prompt} tokens in 8 prompts with one prefix, as many as the prefill server and the router count"


def what_no_pair_can_carry_is_served_alone(fleet: Fleet) -> str:
    text = questions.prose("alone", 60)
    # vLLM refuses several answers that are all the most likely one.
    sampled = {"n": 2, "temperature": 1, "seed": 7}
    fields = [sampled, {"prompt": [text, f"{text} and"]}, {"prompt_logprobs": 1}, {"echo": True, "logprobs": 1}]
    asked = [completion("", 0, 8, **{"prompt": text, **field}) for field in fields]
    expected = fleet.aggregated(asked)
    before = fleet.pairs()
    answers = [ask(fleet.hermes.url, question) for question in asked]
    assert [answer.text for answer in answers] == [answer.text for answer in expected]
    assert fleet.pairs() == before, f"{fleet.pairs() - before} by a pair"
    return f"{', '.join('`' + next(iter(field)) + '`' for field in fields)}: the aggregated texts, no pair"


def fields_of_the_handover_do_not_come_from_a_client(fleet: Fleet) -> str:
    # vLLM waits for ever for a handover without a host, and dies when its client leaves.
    deadly = {"do_remote_prefill": True, "do_remote_decode": False, "remote_engine_id": "x", "remote_block_ids": [[1]]}
    fields = [{"kv_transfer_params": deadly}, {"vllm_xargs": {"kv_transfer_params": json.dumps(deadly)}}]
    asked = [chat(f"deadly {number}", 60, **field) for number, field in enumerate(fields)]
    expected = fleet.aggregated([chat(f"deadly {number}", 60) for number in range(len(fields))])
    served = []
    for question, answer in zip(asked, expected):
        reply = httpx.post(fleet.hermes.url + question.path, json=question.body, timeout=30)
        assert reply.status_code == 400 or questions.text_of(reply.json()) == answer.text, reply.text
        served.append(f"{reply.status_code}")
    for server in (fleet.prefill, fleet.decode):
        server.require_alive()
    return f"in the body and in `vllm_xargs`: {', '.join(served)}, and both servers live"


def answers_under_load_are_complete(fleet: Fleet) -> str:
    asked = [KINDS[number % len(KINDS)](f"load {number}", 100 + number) for number in range(48)]
    expected = fleet.aggregated(asked, [stream] * len(asked))
    with ThreadPoolExecutor(6) as users:
        crowded = list(users.map(lambda question: stream(fleet.prefill.url, question), asked))
        fleet.empty_caches()
        before, begun = fleet.pairs(), time.monotonic()
        answers = list(users.map(lambda question: stream(fleet.hermes.url, question), asked))
        took = time.monotonic() - begun
    assert [a.prompt_tokens for a in answers] == [a.prompt_tokens for a in expected]
    pairs = fleet.pairs() - before
    assert pairs == len(asked), f"{pairs} of {len(asked)} by a pair"

    def equal(others: list[Answer]) -> int:
        return sum(answer.text == other.text for answer, other in zip(expected, others))

    # A batch computes in another order, which decides between tokens that are about equally likely.
    return (
        f"{len(asked)} of {len(asked)} by a pair, 6 at once, in {took:.1f} s; {equal(answers)} texts equal to those of one "
        f"after the other, of an aggregated server under the same load {equal(crowded)}"
    )


def a_client_that_leaves_before_the_prefill_ends_costs_nothing(fleet: Fleet) -> str:
    before = fleet.decode.finished()
    with fleet.prefill.halted():
        with left_behind(fleet.hermes.url, chat("leaves early", 600)):
            wait_for(lambda: fleet.in_flight() == 1, "the request is on its way")
            time.sleep(1)
        ended = await_no_request(fleet)
    assert fleet.decode.finished() == before, "the decode server got the request"
    return f"{ended}; the decode server got nothing"


def a_client_that_leaves_before_the_handover_frees_it(fleet: Fleet) -> str:
    before = fleet.prefill.finished()
    expired = fleet.prefill.expired()
    with fleet.decode.halted():
        with left_behind(fleet.hermes.url, chat("leaves between", 600)):
            wait_for(lambda: fleet.prefill.finished() > before, "the prompt is computed", 20)
            time.sleep(1)
        ended = await_no_request(fleet)
    freed = wait_for(fleet.is_idle, "nothing is leased", LEASE_SECONDS + 10)
    by_lease = fleet.prefill.expired() - expired
    return f"{ended}; the blocks were free {freed:.1f} s after the decode server went on, {by_lease:.0f} by the end of the lease"


def a_client_that_leaves_a_stream_ends_it(fleet: Fleet) -> str:
    body = {**chat("leaves late", 300, 3000).body, "stream": True}
    with httpx.stream("POST", f"{fleet.hermes.url}/v1/chat/completions", json=body, timeout=60) as reply:
        lines = reply.iter_lines()
        for _ in range(5):
            next(lines)
        assert fleet.decode.metric("vllm:num_requests_running") == 1
    took = wait_for(fleet.is_idle, "the decode server has stopped", 15)
    return f"the decode server has stopped after {took * 1000:.0f} ms, of 3,000 tokens to go"


def a_client_that_leaves_a_whole_answer_ends_it(fleet: Fleet) -> str:
    with left_behind(fleet.hermes.url, chat("leaves unseen", 300, 3000)):
        wait_for(lambda: fleet.decode.metric("vllm:num_requests_running") == 1, "tokens are generated", 20)
    took = wait_for(fleet.is_idle, "the decode server has stopped", 15)
    return f"the decode server has stopped after {took * 1000:.0f} ms, of 3,000 tokens to go"


def a_prefill_server_that_dies_while_it_computes_costs_no_answer(fleet: Fleet) -> str:
    question = chat("dies computing", 600)
    [expected] = fleet.aggregated([question])
    with pending(fleet.hermes.url, question) as answer, fleet.prefill.halted():
        wait_for(lambda: fleet.in_flight() == 1, "the request is on its way")
        time.sleep(1)
        fleet.prefill.kill()
        begun = time.monotonic()
        assert answer.result().text == expected.text
    return f"the aggregated text {(time.monotonic() - begun) * 1000:.0f} ms after it was killed"


def requests_without_a_prefill_server_are_served_by_the_decode_server(fleet: Fleet) -> str:
    answers = [ask(fleet.hermes.url, chat(f"no prefill {number}", 100)) for number in range(20)]
    retries = fleet.hermes.metric("hermes_retries_total")
    return f"20 of 20, median {milliseconds([answer.seconds for answer in answers])} ms, {retries:.0f} retries since the start"


def a_prefill_server_that_returns_is_used_again(fleet: Fleet) -> str:
    ready = fleet.restart(fleet.prefill)
    return f"ready after {ready:.0f} s; {await_pair(fleet)}"


def a_prefill_server_that_dies_before_the_handover_costs_no_answer(fleet: Fleet) -> str:
    question = chat("dies between", 600)
    [expected] = fleet.aggregated([question])
    before = fleet.prefill.finished()
    with pending(fleet.hermes.url, question) as answer:
        with fleet.decode.halted():
            wait_for(lambda: fleet.prefill.finished() > before, "the prompt is computed", 20)
            time.sleep(1)
            fleet.prefill.kill()
        begun = time.monotonic()
        assert answer.result().text == expected.text
    failed = fleet.pairs("decode_failed")
    return f"the aggregated text {time.monotonic() - begun:.1f} s after it was killed; {failed:.0f} decode legs failed"


def a_decode_server_that_dies_before_the_handover_leaves_a_lease_that_expires(fleet: Fleet) -> str:
    before = fleet.prefill.finished()
    expired = fleet.prefill.expired()
    with left_behind(fleet.hermes.url, chat("no decode", 600)):
        with fleet.decode.halted():
            wait_for(lambda: fleet.prefill.finished() > before, "the prompt is computed", 20)
            time.sleep(1)
            held = fleet.prefill.metric("vllm:kv_cache_usage_perc")
            assert held > 0, "nothing is leased"
            fleet.decode.kill()
        begun = time.monotonic()
        await_no_request(fleet)
        ended = time.monotonic() - begun
    freed = wait_for(fleet.is_idle, "nothing is leased", LEASE_SECONDS + 10)
    expired = fleet.prefill.expired() - expired
    return f"answered {ended * 1000:.0f} ms after the kill; free again {freed:.1f} s later, {expired:.0f} leases expired"


def requests_without_a_decode_server_fail_at_once(fleet: Fleet) -> str:
    before = fleet.prefill.finished()
    statuses, times = [], []
    for number in range(10):
        begun = time.monotonic()
        reply = httpx.post(f"{fleet.hermes.url}/v1/chat/completions", json=chat(f"none {number}", 100).body, timeout=60)
        statuses.append(reply.status_code)
        times.append(time.monotonic() - begun)
    assert all(500 <= status < 600 for status in statuses), f"{statuses}"
    wasted = fleet.prefill.finished() - before
    return f"{sorted(set(statuses))}, median {milliseconds(times)} ms; {wasted:.0f} of 10 prompts were computed first"


def a_decode_server_that_returns_is_used_again(fleet: Fleet) -> str:
    ready = fleet.restart(fleet.decode)
    begun = time.monotonic()

    def answers() -> bool:
        url = f"{fleet.hermes.url}/v1/chat/completions"
        return httpx.post(url, json=chat("anyone", 40, 4).body, timeout=60).status_code == 200

    wait_for(answers, "a request is answered", 60)
    return f"ready after {ready:.0f} s, answers {time.monotonic() - begun:.1f} s later; {await_pair(fleet)}"


def a_decode_server_that_stalls_longer_than_the_lease_answers_late(fleet: Fleet) -> str:
    question = chat("stalls", 600)
    [expected] = fleet.aggregated([question])

    def counts() -> list[float]:
        late = fleet.prefill.metric("vllm:nixl_num_notifications_after_expiry_total")
        return [fleet.prefill.expired(), late, fleet.pairs(), fleet.pairs("decode_failed")]

    before = counts()
    with pending(fleet.hermes.url, question) as answer:
        with fleet.decode.halted():
            time.sleep(LEASE_SECONDS + 5)
        text = answer.result().text
    # The prefill server counts what it received with its next step.
    ask(fleet.prefill.url, chat("next", 20, 1))
    expired, late, pairs, failed = (after - known for after, known in zip(counts(), before))
    assert text == expected.text
    return (
        f"halted for 35 s, the aggregated text: {pairs:.0f} by the pair, {failed:.0f} decode legs failed, "
        f"{expired:.0f} leases expired, {late:.0f} reads after the lease"
    )


def a_second_prefill_server_shares_the_prompts(fleet: Fleet) -> str:
    fleet.add(fleet.prefills, prefill_place(1))
    return shared(fleet, fleet.prefills, ["decode", "prefill", "prefill"])


def one_of_two_prefill_servers_dies_under_load_and_nothing_fails(fleet: Fleet) -> str:
    return under_load(fleet, "prefill dies", fleet.prefills[1].kill)


def a_second_decode_server_shares_the_answers(fleet: Fleet) -> str:
    fleet.remove(fleet.prefills[1])
    fleet.add(fleet.decodes, decode_place(1))
    return shared(fleet, fleet.decodes, ["decode", "decode", "prefill"])


def one_of_two_decode_servers_is_removed_under_load_and_nothing_fails(fleet: Fleet) -> str:
    removed = fleet.decodes[1]
    seen = under_load(fleet, "decode removed", lambda: fleet.remove(removed))
    wait_for(removed.is_idle, "the removed server has nothing left", 10)
    fleet.decodes.append(removed)
    fleet.configure()
    wait_for(lambda: len(fleet.roles()) == 3, "the snapshot has it again")
    return seen


def one_of_two_decode_servers_dies_under_load_and_nothing_fails(fleet: Fleet) -> str:
    return under_load(fleet, "decode dies", fleet.decodes[1].kill)


def a_decode_server_that_dies_in_a_stream_ends_it(fleet: Fleet) -> str:
    body = {**chat("dies streaming", 300, 3000).body, "stream": True}
    begun, seen = 0.0, []
    try:
        with httpx.stream("POST", f"{fleet.hermes.url}/v1/chat/completions", json=body, timeout=60) as reply:
            for line in filter(None, reply.iter_lines()):
                seen.append(line)
                if len(seen) == 5:
                    fleet.decode.kill()
                    begun = time.monotonic()
    except httpx.RemoteProtocolError:
        seen.append("the connection broke")
    assert begun and "[DONE]" not in seen[-1], f"{seen[-1:]}"
    return f"{(time.monotonic() - begun) * 1000:.0f} ms after the kill, with `{seen[-1][:120]}`"


def shared(fleet: Fleet, servers: list[Member], roles: list[str]) -> str:
    """Asks a fleet of these roles, and how much of it each of the servers did."""
    wait_for(lambda: fleet.roles() == roles, f"the snapshot has {roles}")
    asked = [KINDS[number % len(KINDS)](f"shared {roles} {number}", 40 + 5 * number) for number in range(28)]
    expected = fleet.aggregated(asked)
    pairs, before = fleet.pairs(), [server.finished() for server in servers]
    answers = [ask(fleet.hermes.url, question) for question in asked]
    assert [answer.text for answer in answers] == [answer.text for answer in expected]
    shares = [server.finished() - known for server, known in zip(servers, before)]
    assert fleet.pairs() - pairs == len(asked) and all(shares), f"shares {shares}"
    return f"{len(asked)} of {len(asked)} the aggregated texts; shares {' and '.join(f'{share:.0f}' for share in shares)}"


def under_load(fleet: Fleet, seed: str, change: Callable[[], None]) -> str:
    """Whole answers, four at once, and a change when a few have come."""
    asked = [KINDS[number % len(KINDS)](f"{seed} {number}", 60) for number in range(48)]
    before = fleet.pairs()
    with ThreadPoolExecutor(4) as users:
        answers = [users.submit(ask, fleet.hermes.url, question) for question in asked]
        wait_for(lambda: sum(answer.done() for answer in answers) >= 12, "12 answers have come", 120)
        change()
    slowest = max(answer.result().seconds for answer in answers)
    return f"{len(asked)} of {len(asked)} answered, {fleet.pairs() - before:.0f} by a pair, the slowest in {slowest:.1f} s"


def then_no_block_is_in_use(check: Callable[[Fleet], str]) -> Callable[[Fleet], str]:
    @functools.wraps(check)
    def checked(fleet: Fleet) -> str:
        try:
            seen = check(fleet)
        finally:
            took = wait_for(fleet.is_idle, "no KV block is in use", LEASE_SECONDS + 10)
        return f"{seen} | {took:.1f} s"

    return checked


CHECKS: list[Callable[[Fleet], str]] = [
    two_legs_by_hand_give_the_aggregated_text,
    the_router_knows_both_roles,
    a_hundred_greedy_answers_are_the_aggregated_ones,
    every_field_of_a_request_counts,
    errors_are_the_engines_own,
    the_first_token_needs_both_legs_and_little_more,
    usage_states_what_the_prefill_server_had_cached,
    what_no_pair_can_carry_is_served_alone,
    fields_of_the_handover_do_not_come_from_a_client,
    answers_under_load_are_complete,
    a_client_that_leaves_before_the_prefill_ends_costs_nothing,
    a_client_that_leaves_before_the_handover_frees_it,
    a_client_that_leaves_a_stream_ends_it,
    a_client_that_leaves_a_whole_answer_ends_it,
    a_prefill_server_that_dies_while_it_computes_costs_no_answer,
    requests_without_a_prefill_server_are_served_by_the_decode_server,
    a_prefill_server_that_returns_is_used_again,
    a_prefill_server_that_dies_before_the_handover_costs_no_answer,
    a_prefill_server_that_returns_is_used_again,
    a_decode_server_that_dies_before_the_handover_leaves_a_lease_that_expires,
    requests_without_a_decode_server_fail_at_once,
    a_decode_server_that_returns_is_used_again,
    a_decode_server_that_stalls_longer_than_the_lease_answers_late,
    a_second_prefill_server_shares_the_prompts,
    one_of_two_prefill_servers_dies_under_load_and_nothing_fails,
    a_second_decode_server_shares_the_answers,
    one_of_two_decode_servers_is_removed_under_load_and_nothing_fails,
    one_of_two_decode_servers_dies_under_load_and_nothing_fails,
    a_decode_server_that_dies_in_a_stream_ends_it,
]


def main() -> int:
    binary, home, logs = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with ExitStack() as stack:
        begun = time.monotonic()
        fleet = Fleet(binary, home, logs, stack)
        version = httpx.get(f"{fleet.prefill.url}/version").json()["version"]
        ready = time.monotonic() - begun
        print(f"A prefill and a decode server of vLLM {version}, one CPU core each, ready in {ready:.0f} s; `vllm-nixl`.\n")
        failed = report([then_no_block_is_in_use(check) for check in CHECKS], fleet, ("seen", "KV usage is 0 after"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
