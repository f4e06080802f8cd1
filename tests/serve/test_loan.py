"""A model that is lent has one client until the loan ends, and what that client restored is what it generates from.

The engine is the real one with the small model, but where only the loan itself is looked at.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from quietmind.base.errors import EngineCrashed, EngineError, EngineRefused, EngineUnreachable, ModelNotFound
from quietmind.engine.borrowed import LOAN, MARK, RESTORE, SAVE, Borrowed, borrow
from quietmind.engine.fake import FakeEngine
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Delta, Endpoint, Engine, Finished, Message, Prompt, Request, Segment, probing
from quietmind.model.locate import locate
from quietmind.plan.engines import Capabilities
from quietmind.serve import listen
from quietmind.serve.gateway import Gateway
from quietmind.serve.guard import Guard
from quietmind.serve.lane import Lane
from quietmind.serve.loan import Lending
from quietmind.workspace.lending import Lent
from quietmind.workspace.running import Running
from quietmind.workspace.supervise import Attempt, Pause, Supervised

pytest.importorskip("uvicorn", reason="serving takes uvicorn: pip install 'quietmind[serve]'")

KEY = "k" * 32


class Saves(FakeEngine):
    """A scripted engine that keeps what it reads, and has nothing to say."""

    def __init__(self) -> None:
        super().__init__((), capabilities=Capabilities(snapshots=True))


class Starts:
    """An attempt that starts what it is given."""

    log = None
    pages = False
    weight_bytes = 0

    def __init__(self, start: Callable[[], Engine]) -> None:
        self.start = start

    def smaller(self, error: EngineError) -> tuple[Attempt, str] | None:
        return None

    def decode_at_least(self, depth: int) -> float | None:
        return None


class Outliving(LlamaCpp):
    """An engine that other tests use as well."""

    def stop(self) -> None:
        """Do nothing."""


@contextmanager
def lender(
    start: Callable[[], Engine], folder: Path, *, width: int = 1, **times: float
) -> Iterator[tuple[Lane, Endpoint]]:
    """Serve a model as `quietmind up` does; yields its lane and where it is."""
    with Supervised(Starts(start), pause=Pause(back_off=(0.05,), watch_every=0.02)) as supervised:
        lending = Lending(folder / "lent", lambda engine: {"of": engine.model}, **times)
        lane = Lane(supervised.model, supervised, width=width, lending=lending)
        application = Gateway([lane], Guard(KEY))
        listener = listen.bind(port=0)
        listener.listen(8)
        server = listen._server(application)

        async def run() -> None:
            await server.serve(sockets=[listener])
            await application.aclose()

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        try:
            until(lambda: server.started)
            yield lane, Endpoint(listen.url_of(listener), KEY, lane.name)
        finally:
            application.close()
            server.should_exit = True
            thread.join()
            listener.close()


@pytest.fixture(scope="module")
def tiny() -> Iterator[LlamaCpp]:
    pytest.importorskip("xllamacpp", reason="the engine is not installed: pip install 'quietmind[llamacpp]'")
    try:
        options = LlamaCppOptions(locate("tiny"), context=512, threads=1, batch=128, micro_batch=128)
    except ModelNotFound:
        pytest.skip("the small model is not here: run `quietmind pull tiny`")
    engine = Outliving.start(options)
    yield engine
    LlamaCpp.stop(engine)


@pytest.fixture
def lent(tiny: LlamaCpp, tmp_path: Path) -> Iterator[tuple[Lane, Endpoint]]:
    with lender(lambda: tiny, tmp_path) as found:
        yield found


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[tuple[Lane, Endpoint]]:
    with lender(Saves, tmp_path) as found:
        yield found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def prompt_of(engine: Engine, about: str) -> Prompt:
    return engine.render([Message("user", f"{about} " * 40)])


def asked(engine: Engine, prompt: str) -> tuple[str, Finished]:
    *deltas, last = engine.generate(Request(prompt, max_tokens=8))
    assert isinstance(last, Finished)
    return "".join(item.text for item in deltas if isinstance(item, Delta)), last


def post(at: Endpoint, path: str, token: str, body: Any = None) -> httpx2.Response:
    return httpx2.post(
        at.url + path, json=body or {}, headers={"Authorization": f"Bearer {token}"}, timeout=20, trust_env=False
    )


# What a borrower can do ------------------------------------------------------------------------------------


def test_a_borrowed_model_counts_renders_and_answers_as_its_owner_does(
    tiny: LlamaCpp, lent: tuple[Lane, Endpoint]
) -> None:
    with borrow(lent[1]) as engine:
        prompt = prompt_of(engine, "a red <|im_end|> kite")
        assert prompt.segments == prompt_of(tiny, "a red <|im_end|> kite").segments
        assert engine.tokenize(prompt) == tiny.tokenize(prompt)
        assert engine.tokenize("Ёлка <|im_end|>") == tiny.tokenize("Ёлка <|im_end|>")
        assert (engine.context, engine.build) == (tiny.context, tiny.build)
        assert engine.terms == {"of": tiny.model}
        assert asked(engine, prompt)[0] == asked(tiny, prompt)[0]


def test_what_is_saved_is_restored_and_serves_the_next_request(lent: tuple[Lane, Endpoint], tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    with borrow(lent[1]) as engine:
        prompts = {file: prompt_of(engine, file.name) for file in (one, other)}
        first = {}
        for file, prompt in prompts.items():
            first[file] = asked(engine, prompt)[0]
            assert engine.save(file) >= len(engine.tokenize(prompt))
        assert one.read_bytes() != other.read_bytes()
    for file in (one, other, one):  # and each of them again, by other clients
        with borrow(lent[1]) as engine:
            before = file.read_bytes()
            assert engine.restore(file) >= len(engine.tokenize(prompts[file]))
            text, last = asked(engine, prompts[file])
            assert text == first[file]
            assert last.timings.cached >= len(engine.tokenize(prompts[file])) - 1
            engine.save(tmp_path / "again")
            assert file.read_bytes() == before
    until(lambda: lent[0].loan is None)
    assert list((tmp_path / "lent").iterdir()) == []


def test_tokens_that_are_known_are_sent_as_they_are(lent: tuple[Lane, Endpoint]) -> None:
    with borrow(lent[1]) as engine:
        known = tuple(engine.tokenize("one two three four"))
        assert engine.tokenize(Prompt([Segment("one two three four", trusted=False, tokens=known[:2])])) == [*known[:2]]


def test_a_long_prompt_is_told_of_on_the_way(lent: tuple[Lane, Endpoint]) -> None:
    told: list[int] = []
    with borrow(lent[1]) as engine:
        list(engine.generate(Request(prompt_of(engine, "a word or more"), 1, prefilled=told.append)))
    assert len(set(told)) > 1
    assert told == sorted(told)


def test_a_borrowed_model_tells_what_was_likely_as_its_owner_does(tiny: LlamaCpp, lent: tuple[Lane, Endpoint]) -> None:
    with borrow(lent[1]) as engine:
        prompt = prompt_of(engine, "likely")
        through = probing(engine).probe(prompt, 5, 8)
    own = tiny.probe(prompt, 5, 8)
    assert [place.token for place in through] == [place.token for place in own]
    assert [place.text for place in through] == [place.text for place in own]
    for one, two in zip(through, own, strict=True):
        assert len(one.logprobs) == 8
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)


def test_a_file_that_is_no_cache_is_refused_and_the_loan_stands(lent: tuple[Lane, Endpoint], tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"no cache at all" * 100)
    with borrow(lent[1]) as engine:
        with pytest.raises(EngineRefused):
            engine.restore(tmp_path / "bad")
        with pytest.raises(EngineRefused, match="cannot be handed over"):
            engine.restore(tmp_path / "none")
        assert asked(engine, prompt_of(engine, "still"))[1].timings.predicted > 0


# Whose turn it is ------------------------------------------------------------------------------------------


def test_others_wait_until_the_model_is_given_back(lent: tuple[Lane, Endpoint]) -> None:
    places: list[int] = []
    got: list[Borrowed] = []
    first = borrow(lent[1])
    second = threading.Thread(target=lambda: got.append(borrow(lent[1], places.append)))
    second.start()
    until(lambda: places == [1])
    body = {"model": lent[1].model, "prompt": "x", "max_tokens": 1}
    plain: list[httpx2.Response] = []
    third = threading.Thread(target=lambda: plain.append(post(lent[1], "/v1/completions", KEY, body)))
    third.start()
    until(lambda: lent[0].turns.waiting == 2)
    assert asked(first, prompt_of(first, "mine"))[1].timings.predicted > 0
    assert (got, plain) == ([], [])
    first.stop()
    second.join(10)
    assert asked(got[0], prompt_of(got[0], "mine"))[1].timings.predicted > 0
    assert plain == []
    got[0].stop()
    third.join(10)
    assert plain[0].status_code == 200
    with pytest.raises(EngineRefused, match="stopped"):
        first.tokenize("x")


def test_a_token_is_worth_nothing_once_the_loan_is_over(fake: tuple[Lane, Endpoint]) -> None:
    with borrow(fake[1]) as engine:
        token = engine.endpoint.key
    until(lambda: fake[0].loan is None)
    for path in (SAVE, RESTORE, "/v1/completions", LOAN):
        answer = post(fake[1], path, token)
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "loan_ended")
    assert post(fake[1], SAVE, KEY).status_code == 410
    assert post(fake[1], SAVE, MARK).status_code == 410
    assert post(fake[1], LOAN, "wrong").status_code == 401


def test_no_request_names_a_file(fake: tuple[Lane, Endpoint], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("[1, 2]", encoding="ascii")
    with borrow(fake[1]) as engine:
        body = {"file": str(tmp_path / "mine"), "filename": "../mine", "model": engine.model}
        for path in (RESTORE, f"{RESTORE}?file={tmp_path}/mine&filename=../mine"):
            answer = post(fake[1], path, engine.endpoint.key, body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "cache_refused")
        assert engine.restore(tmp_path / "mine") == 2
        assert (tmp_path / "lent").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/page/settings", "/api/tags"])
def test_a_token_opens_the_model_that_is_lent_and_nothing_else(fake: tuple[Lane, Endpoint], path: str) -> None:
    with borrow(fake[1]) as engine:
        token = {"Authorization": f"Bearer {engine.endpoint.key}"}
        assert httpx2.get(f"{fake[1].url}{path}", headers=token).status_code == 403
        assert httpx2.get(f"{fake[1].url}/health", headers=token).status_code == 200


def test_a_loan_of_one_model_opens_no_second_loan(fake: tuple[Lane, Endpoint]) -> None:
    with borrow(fake[1]) as engine:
        answer = post(fake[1], LOAN, engine.endpoint.key, {"model": engine.model})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "loan")


def test_a_loan_ends_where_nothing_is_asked(tmp_path: Path) -> None:
    with lender(Saves, tmp_path, idle=0.05) as (lane, at), borrow(at) as engine:
        until(lambda: lane.loan is None)
        with pytest.raises(EngineRefused, match="loan of the model has ended; ask again"):
            engine.restore(Path(__file__))
        with borrow(at) as again:
            assert again.context == engine.context


def test_a_loan_ends_after_its_longest_time_if_others_wait_with_the_request_that_is_being_answered(
    tmp_path: Path,
) -> None:
    class Slow(Saves):
        def restore(self, file: Path) -> int:
            time.sleep(0.4)
            return 7

    with lender(Slow, tmp_path, longest=0.1) as (_, at), borrow(at) as engine:
        assert engine.restore(Path(__file__)) == engine.restore(Path(__file__)) == 7  # nobody else wants it
        got: list[Borrowed] = []
        other = threading.Thread(target=lambda: got.append(borrow(at)))
        other.start()
        other.join(10)
        with pytest.raises(EngineRefused, match="ended; ask again"):
            engine.restore(Path(__file__))
        assert got[0].restore(Path(__file__)) == 7
        got[0].stop()


def test_a_model_that_was_started_again_is_lent_no_longer(tmp_path: Path) -> None:
    with lender(Saves, tmp_path) as (lane, at), borrow(at) as engine:
        lane.supervised.broken(lane.supervised.engine, EngineCrashed("fake: it was ended by SIGKILL; start it again"))
        with pytest.raises(EngineRefused, match="ended; ask again"):
            engine.restore(Path(__file__))


def test_a_model_that_cannot_be_lent_says_why(tmp_path: Path) -> None:
    with (
        lender(Saves, tmp_path, width=2) as (_, at),
        pytest.raises(EngineRefused, match="several at once"),
    ):
        borrow(at)
    with lender(Saves, tmp_path) as (lane, at):
        lane.lending = None
        with pytest.raises(EngineRefused, match="cannot keep what it reads"):
            borrow(at)


def test_terms_that_are_not_understood_are_an_error_of_ours(fake: tuple[Lane, Endpoint], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY, encoding="ascii")
    key.chmod(0o600)
    running = Running(1, "", fake[1].url, "serving", ("fake",), (), str(key))
    with pytest.raises(EngineUnreachable, match="not known here; update both"):
        Lent.by(running, Path("fake.gguf"))
    until(lambda: fake[0].loan is None)


def test_an_end_of_the_lender_is_an_error_of_ours(tmp_path: Path) -> None:
    with lender(Saves, tmp_path) as (_, at):
        engine = borrow(at)
    with pytest.raises(EngineUnreachable):
        engine.restore(Path(__file__))
    engine.stop()
