"""Custom search algorithms: what they get, and the errors when they are wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.settings import Settings, check_settings
from mnist_sweep.config.space import Space, Values
from mnist_sweep.search import custom
from mnist_sweep.search.base import Answer, Result, Search, Suggestion
from mnist_sweep.search.choose import check_can_narrow, create_search, create_stopping

SWEEPS = {
    "model.layers": "range(1,4)",
    "model.units": "choice(16,32,64)",
    "model.per_layer": ["units"],
    "model.activation": "choice(relu,elu)",
    "optimizer.learning_rate": "tag(log,interval(1e-4,1e-1))",
    "training.batch_size": "tag(log,int(interval(16,256)))",
}
GOOD = {
    "model.layers": 1,
    "model.units.1": 16,
    "model.activation": "relu",
    "optimizer.learning_rate": 0.01,
    "training.batch_size": 32,
}
HEAD = """
import random
import keras_tuner
import numpy as np
from mnist_sweep.search import Answer, Result, Search, Suggestion
from mnist_sweep.search.stopping import Stopping
"""
Write = Callable[[str], None]
Make = Callable[..., Search]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a user's module to the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)

    def written(code: str, path: str = "mine.py") -> None:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(HEAD + textwrap.dedent(code))

    yield written
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("mine", "folder"):
            del sys.modules[name]


@pytest.fixture
def configured(compose_config) -> Callable[..., Settings]:
    def made(**search: Any) -> Settings:
        config = compose_config("objective=val_accuracy max")
        config["search"] = {"_target_": "mine.Mine", **search}
        for key, sweep in SWEEPS.items():
            group, _, name = key.partition(".")
            config[group][name] = sweep
        return check_settings(config)

    return made


@pytest.fixture
def make(configured) -> Make:
    def made(
        enqueued: list[Values] | None = None, earlier: list[dict[str, Any]] | None = None, **search: Any
    ) -> Search:
        settings = configured(**search)
        return create_search(settings, Space(settings.trial), enqueued or [], earlier or [])

    return made


def wrong(make: Make, **search: Any) -> str:
    """The error when a faulty algorithm is built or asked."""
    with pytest.raises(UserError) as caught:
        make(**search).ask(0)
    message = str(caught.value)
    assert message.startswith(f"search._target_={search.get('_target_', 'mine.Mine')}: ")
    assert "\n" not in message
    return message.partition(": ")[2]


RANDOM = """
class Mine(Search):
    def __init__(self, *, space, objectives, seed, most=5):
        self.space, self.rng, self.most = space, random.Random(seed), most
        self.given, self.told = (space, objectives, seed, most), []

    def ask(self, number):
        return Suggestion(self.space.sample(self.rng)) if number < self.most else Answer.FINISHED

    def tell(self, number, result):
        self.told.append((number, result))
"""


class TestSearch:
    @pytest.mark.parametrize("target", ["mine.Mine", "mine:Mine", "folder.mine.Mine", "folder.mine:Mine"])
    def test_is_asked_and_told(self, write: Write, make: Make, target: str) -> None:
        write(RANDOM, "folder/mine.py" if "folder" in target else "mine.py")
        search = make(_target_=target, most=3, seed=7)
        space = search._search.given[0]
        rng = random.Random(7)
        assert [search.ask(number) for number in range(4)] == [
            *(Suggestion(space.sample(rng)) for _ in range(3)),
            Answer.FINISHED,
        ]
        search.tell(1, Result((0.5,), 3))
        search.tell(0, Result(None))
        assert search._search.told == [(1, Result((0.5,), 3)), (0, Result(None))]

    def test_gets_the_space_the_objectives_the_seed_and_its_keys(self, write: Write, make: Make) -> None:
        write(RANDOM)
        space, objectives, seed, most = make(most=3, seed=7)._search.given
        assert [h.name for h in space.hyperparameters][:2] == ["model.layers", "model.units.1"]
        assert [(o.name, o.direction) for o in objectives] == [("val_accuracy", "max")]
        assert (seed, most) == (7, 3)

    def test_values_become_plain_python_values(self, write: Write, make: Make) -> None:
        write(f"""
        class Mine(Search):
            def __init__(self, **arguments): pass
            def tell(self, number, result): pass
            def ask(self, number):
                return Suggestion({GOOD} | {{
                    "optimizer.learning_rate": np.float64(0.1) * (1 + 1e-12),
                    "training.batch_size": np.int64(32),
                    "model.units.1": 16.0,
                    "model.units.3": 64,
                }})
        """)
        answer = make().ask(0)
        assert isinstance(answer, Suggestion)
        assert answer.values == GOOD | {"optimizer.learning_rate": 0.1}
        assert {type(value) for value in answer.values.values()} == {int, float, str}

    def test_enqueued_values_come_first_and_it_can_learn_from_them(self, write: Write, make: Make) -> None:
        write(RANDOM)
        search = make(enqueued=[GOOD, GOOD])
        assert [search.ask(0), search.ask(1)] == [Suggestion(GOOD)] * 2
        assert search.ask(2) == Suggestion(search._search.given[0].sample(random.Random(1)))
        search.tell(0, Result((0.5,)))
        search.tell(2, Result((0.7,)))
        assert [number for number, _ in search._search.told] == [2], "only trials that it suggested itself"

        write(
            RANDOM.replace("Mine", "Learner") + "    def learn(self, *what): self.told.append(what)\n", "folder/mine.py"
        )
        learner = make(
            [GOOD, GOOD], [{"values": GOOD, "scores": [0.4], "sweep": "a/b"}], _target_="folder.mine.Learner"
        )
        learner.ask(0), learner.ask(1)
        learner.tell(1, Result(None))
        learner.tell(0, Result((0.5,)))
        assert learner._search.told == [(GOOD, (0.4,)), (GOOD, None), (GOOD, (0.5,))]

    def test_a_warm_start_needs_a_learn_method(self, write: Write, make: Make) -> None:
        write(RANDOM)
        assert wrong(make, earlier=[{"values": GOOD, "scores": [0.4]}]) == (
            "cannot learn from search.warm_start; give it a method learn(values, scores)"
        )

    def test_learns_from_a_trial_that_a_user_has_added(self, write: Write, make: Make) -> None:
        write(RANDOM + "    def learn(self, *what): self.told.append(what)\n")
        search = make()
        search.add(0, Suggestion(GOOD))
        assert isinstance(search.ask(1), Suggestion)
        search.tell(0, Result((0.5,)))
        search.tell(1, Result((0.4,)))
        assert search._search.told == [(GOOD, (0.5,)), (1, Result((0.4,)))]

    def test_must_learn_to_continue_in_a_narrower_space(self, write: Write, configured) -> None:
        write(RANDOM)
        write(RANDOM + "    def learn(self, *what): self.told.append(what)\n", "folder/mine.py")
        with pytest.raises(UserError) as caught:
            check_can_narrow(configured())
        assert str(caught.value) == (
            "search={_target_: mine.Mine}: cannot continue with fewer values, as it cannot learn from the trials so "
            "far (it has no method learn(values, scores)); start a new sweep"
        )
        check_can_narrow(configured(_target_="folder.mine.Mine"))

    def test_continues_after_an_interruption(self, write: Write, make: Make) -> None:
        write(RANDOM)
        before, after = make([GOOD], seed=3), make([GOOD], seed=3)
        for number in range(3):
            answer = before.ask(number)
            assert isinstance(answer, Suggestion)
            after.restore(number, answer)
        assert before.ask(3) == after.ask(3)


class TestWrongTargets:
    @pytest.mark.parametrize("target", ["Mine", "mine:", ":Mine", "mine.py:Mine!", "a b.Mine", "mine/mine.Mine", ""])
    def test_must_have_the_form_of_a_class(self, write: Write, configured, target: str) -> None:
        write(RANDOM)
        with pytest.raises(UserError, match=r"must be package.module.Class"):
            custom.check(configured(_target_=target).search)

    @pytest.mark.parametrize(
        "target", ["nowhere.Mine", "mine.deeper.Mine", "folder.nowhere.Mine", "folder.mine.deeper:M"]
    )
    def test_must_be_in_an_existing_module(self, write: Write, configured, target: str) -> None:
        write(RANDOM)
        write(RANDOM, "folder/mine.py")
        with pytest.raises(
            UserError, match=r"there is no module (nowhere|mine.deeper|folder.nowhere|folder.mine.deeper) in the"
        ):
            custom.check(configured(_target_=target).search)

    def test_is_found_without_importing_anything(self, write: Write, configured) -> None:
        write("raise AssertionError('imported')")
        write("raise AssertionError('imported')", "folder/__init__.py")
        write("raise AssertionError('imported')", "folder/mine.py")
        for target in ("mine.Mine", "mine:Mine", "folder.mine.Mine", "mnist_sweep.search.pbt.PBT"):
            custom.check(configured(_target_=target).search)

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            (
                "import nothing_like_this",
                "cannot be imported (ModuleNotFoundError: No module named 'nothing_like_this')",
            ),
            ("1 / 0", "cannot be imported (ZeroDivisionError: division by zero)"),
            ("Yours = 1", "cannot be imported (AttributeError: module 'mine' has no attribute 'Mine')"),
            ("def Mine(**_): pass", "is not a subclass of mnist_sweep.search.Search or keras_tuner.Oracle"),
            ("class Mine: pass", "is not a subclass of mnist_sweep.search.Search or keras_tuner.Oracle"),
        ],
    )
    def test_must_name_a_search(self, write: Write, make: Make, code: str, expected: str) -> None:
        write(code)
        assert wrong(make) == expected

    def test_unknown_keys_are_an_error(self, write: Write, make: Make) -> None:
        write(RANDOM)
        expected = "cannot be built (TypeError: Mine.__init__() got an unexpected keyword argument 'mots'"
        assert wrong(make, mots=3).startswith(expected)

    def test_an_exception_of_its_init_is_an_error(self, write: Write, make: Make) -> None:
        write("""
        class Mine(Search):
            def __init__(self, **_): raise ValueError("most must be even\\nsecond line")
            def ask(self, number): ...
            def tell(self, number, result): ...
        """)
        assert wrong(make) == "cannot be built (ValueError: most must be even)"

    def test_must_have_both_methods(self, write: Write, make: Make) -> None:
        write("class Mine(Search):\n    def __init__(self, **_): ...\n    def ask(self, number): ...")
        assert wrong(make).startswith("cannot be built (TypeError: Can't instantiate abstract class Mine")


class TestWrongAnswers:
    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            ("None", "ask returned NoneType; return a Suggestion or an Answer"),
            ("{}", "ask returned dict; return a Suggestion or an Answer"),
            ("1 / 0", "its ask failed (ZeroDivisionError: division by zero)"),
            ("Suggestion([1, 2])", "suggested values of type list; they must be a dict"),
            ("Suggestion({})", "suggested no value for model.layers"),
            ("Suggestion(good | {'model.layers': 2})", "suggested no value for model.units.2"),
            (
                "Suggestion(good | {'model.unit.1': 3})",
                "suggested model.unit.1, which is not searched; did you mean 'model.units.1'?",
            ),
            (
                "Suggestion(good | {'model.units.1': 17})",
                "suggested model.units.1=17, which is not in choice(16, 32, 64)",
            ),
            (
                "Suggestion(good | {'model.layers': True})",
                "suggested model.layers=True, which is not in choice(1, 2, 3)",
            ),
            (
                "Suggestion(good | {'training.batch_size': 32.5})",
                "suggested training.batch_size=32.5, which is not in tag(log, int(interval(16, 256)))",
            ),
            (
                "Suggestion(good | {'optimizer.learning_rate': 0.11})",
                "suggested optimizer.learning_rate=0.11, which is not in tag(log, interval(0.0001, 0.1))",
            ),
            (
                "Suggestion(good | {'optimizer.learning_rate': float('nan')})",
                "suggested optimizer.learning_rate=nan, which is not in tag(log, interval(0.0001, 0.1))",
            ),
            (
                "Suggestion(good | {'optimizer.learning_rate': '0.01'})",
                "suggested optimizer.learning_rate='0.01', which is not in tag(log, interval(0.0001, 0.1))",
            ),
            (
                "Suggestion(good, epochs=0)",
                "suggested epochs=0 from initial_epoch=0; both must be whole numbers, epochs the larger",
            ),
            (
                "Suggestion(good, epochs=2.0)",
                "suggested epochs=2.0 from initial_epoch=0; both must be whole numbers, epochs the larger",
            ),
            (
                "Suggestion(good, initial_epoch=1)",
                "suggested initial_epoch=1 with parent=None; set both or neither",
            ),
            (
                "Suggestion(good, 3, 1, 7)",
                "suggested to continue from trial 7, which has not ended with a score",
            ),
        ],
    )
    def test_wrong_answers_of_ask_are_errors(self, write: Write, make: Make, answer: str, expected: str) -> None:
        write(f"""
        good = {GOOD}
        class Mine(Search):
            def __init__(self, **_): pass
            def ask(self, number): return {answer}
            def tell(self, number, result): pass
        """)
        assert wrong(make) == expected

    def test_an_exception_of_tell_is_an_error(self, write: Write, make: Make) -> None:
        write(RANDOM.replace("self.told.append", "self.tolt.append"))
        search = make()
        search.ask(0)
        with pytest.raises(UserError, match=r"mine.Mine: its tell failed \(AttributeError: 'Mine' object has no"):
            search.tell(0, Result(None))

    def test_a_trial_can_continue_from_one_that_ended_with_a_score(self, write: Write, make: Make) -> None:
        write(f"""
        class Mine(Search):
            def __init__(self, **_): pass
            def ask(self, number): return Suggestion({GOOD}, 1 + number, number, number - 1 if number else None)
            def tell(self, number, result): pass
        """)
        search = make()
        search.ask(0)
        search.tell(0, Result((0.5,), 1))
        assert search.ask(1) == Suggestion(GOOD, 2, 1, 0)
        search.tell(1, Result((0.5,), 2, whole=False, diverged=True))
        assert search.ask(2) == Suggestion(GOOD, 3), "it has left no state"
        search.tell(2, Result(None))
        with pytest.raises(UserError, match="trial 2, which has not ended with a score"):
            search.ask(3)


ORACLE = """
class Mine(keras_tuner.Oracle):
    def __init__(self, most=4, **kwargs):
        super().__init__(**kwargs)
        self.most = most

    def populate_space(self, trial_id):
        if len(self.start_order) >= self.most:
            return {"status": "STOPPED"}
        values = self._random_values()
        return {"status": "RUNNING", "values": values}
"""


class TestOracle:
    def test_is_called_as_keras_tuner_would(self, write: Write, make: Make) -> None:
        write(ORACLE)
        search = make(enqueued=[GOOD], earlier=[{"values": GOOD, "scores": [0.4]}], most=4, max_trials=2)
        answers = [search.ask(number) for number in range(5)]
        assert answers[0] == Suggestion(GOOD)
        assert [type(a) for a in answers] == [Suggestion] * 4 + [Answer]
        assert answers[4] is Answer.FINISHED
        for number in range(4):
            search.tell(number, Result(None if number == 1 else (number / 10,), 3))
        oracle = search._search._oracle
        assert sorted((t.score or 0, t.status) for t in oracle.trials.values()) == [
            (0, "COMPLETED"),
            (0, "FAILED"),
            (0.2, "COMPLETED"),
            (0.3, "COMPLETED"),
            (0.4, "COMPLETED"),
        ]
        assert oracle.get_best_trials(1)[0].hyperparameters.values == GOOD
        assert (oracle.objective.name, oracle.objective.direction) == ("val_accuracy", "max")

    def test_the_same_seed_gives_the_same_answers(self, write: Write, make: Make) -> None:
        write(ORACLE)
        asked = [[search.ask(n) for n in range(3)] for search in (make(seed=s) for s in (0, 0, 1))]
        assert asked[0] == asked[1]
        assert asked[0] != asked[2]

    @pytest.mark.parametrize(
        "oracle",
        ["keras_tuner.oracles.RandomSearchOracle", "keras_tuner.oracles.HyperbandOracle"],
    )
    def test_keras_tuners_oracles_are_accepted(self, write: Write, make: Make, oracle: str) -> None:
        search = make(_target_=oracle)
        for number in range(20):
            assert isinstance(search.ask(number), Suggestion)
            search.tell(number, Result(None if number % 3 else (random.random(),), 2))

    def test_failed_trials_do_not_end_an_oracle(self, write: Write, make: Make) -> None:
        write(f"""
        class Mine(keras_tuner.Oracle):
            def __init__(self, objective, hyperparameters):
                super().__init__(objective=objective, hyperparameters=hyperparameters)

            def populate_space(self, trial_id):
                return {{"status": "RUNNING", "values": {GOOD}}}
        """)
        search = make(max_trials=3)
        for number in range(10):
            assert isinstance(search.ask(number), Suggestion)
            search.tell(number, Result(None))

    @pytest.mark.parametrize(
        ("response", "expected"),
        [
            ("None", "its populate_space returned None; return a dict with the status RUNNING, IDLE or STOPPED"),
            ("{'status': 'OK'}", "its populate_space returned {'status': 'OK'}; return a dict with the status RUNNING"),
            (
                "{'status': 'RUNNING', 'values': {'model.layers': 4}}",
                "its populate_space suggested model.layers=4, which",
            ),
            (
                "{'status': 'RUNNING', 'values': {'model.layer': 1}}",
                "its populate_space suggested model.layer, which is",
            ),
            (
                "{'status': 'RUNNING', 'values': good | {'training.batch_size': 300}}",
                "its populate_space suggested training.batch_size=300, which is not in tag(log, int(",
            ),
            (
                "{'status': 'RUNNING', 'values': good | {'optimizer.learning_rate': 'x'}}",
                "its populate_space suggested optimizer.learning_rate='x', which is not in",
            ),
            ("1 / 0", "its ask failed (ZeroDivisionError: division by zero)"),
        ],
    )
    def test_wrong_answers_of_an_oracle_are_errors(
        self, write: Write, make: Make, response: str, expected: str
    ) -> None:
        write(f"""
        good = {GOOD}
        class Mine(keras_tuner.Oracle):
            def populate_space(self, trial_id):
                return {response}
        """)
        assert wrong(make).startswith(expected)

    def test_keras_tuners_rounding_is_accepted(self, write: Write, make: Make) -> None:
        write(f"""
        class Mine(keras_tuner.Oracle):
            def populate_space(self, trial_id):
                return {{"status": "RUNNING", "values": {GOOD} | {{"training.batch_size": 257}}}}
        """)
        assert make().ask(0) == Suggestion(GOOD | {"training.batch_size": 256})

    def test_must_take_the_space(self, write: Write, make: Make) -> None:
        write("class Mine(keras_tuner.Oracle):\n    def __init__(self, objective): ...")
        assert wrong(make) == "its __init__ must take hyperparameters, or **kwargs"


class TestStopping:
    RULE = """
    class Rule(Stopping):
        def __init__(self, worst): self.worst = worst
        def report(self, number, epoch, score):
            return ANSWER

    class Mine(Search):
        def ask(self, number): ...
        def tell(self, number, result): ...
        @classmethod
        def stopping(cls, *, objectives, seed, worst): return Rule(worst)
    """

    def test_a_class_can_have_a_stopping_rule(self, write: Write, configured) -> None:
        write(self.RULE.replace("ANSWER", "'too bad' if score < self.worst else ''"))
        rule = create_stopping(configured(worst=0.5))
        assert rule is not None
        assert (rule.report(0, 1, 0.4), rule.report(0, 1, 0.6)) == ("too bad", "")

    def test_a_class_need_not_have_a_stopping_rule(self, write: Write, configured) -> None:
        write(RANDOM)
        assert create_stopping(configured()) is None

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            ("True", "its stopping returned True; return a reason, or ''"),
            ("1 / 0", "its stopping failed (ZeroDivisionError: division by zero)"),
        ],
    )
    def test_mistakes_in_a_stopping_rule_are_errors(self, write: Write, configured, answer: str, expected: str) -> None:
        write(self.RULE.replace("ANSWER", answer))
        rule = create_stopping(configured(worst=0.5))
        assert rule is not None
        with pytest.raises(UserError) as caught:
            rule.report(0, 1, 0.4)
        assert str(caught.value) == f"search._target_=mine.Mine: {expected}"

    def test_must_be_a_stopping_rule(self, write: Write, configured) -> None:
        write(self.RULE.replace("return Rule(worst)", "return 0"))
        with pytest.raises(UserError, match="its stopping returns int; return a Stopping"):
            create_stopping(configured(worst=0.5))


def test_the_check_loads_no_keras_and_the_import_no_tensorflow(write: Write) -> None:
    write(ORACLE)
    code = (
        "import os, sys\n"
        "from mnist_sweep.config import compose\n"
        "from mnist_sweep.search import choose, custom\n"
        "from mnist_sweep.config.settings import check_settings\n"
        "from mnist_sweep.config.space import Space\n"
        "config = {**compose.defaults(['+experiment=mlp']), 'search': {'_target_': 'mine.Mine'}}\n"
        "settings = check_settings(config)\n"
        "custom.check(settings.search)\n"
        "print('keras' in sys.modules)\n"
        "choose.create_stopping(settings), choose.create_search(settings, Space(settings.trial)).ask(0)\n"
        "print('keras' in sys.modules, 'tensorflow' in sys.modules, 'KERAS_BACKEND' in os.environ)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path[1:]))}
    environment.pop("KERAS_BACKEND", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "True", "False", "False"]
