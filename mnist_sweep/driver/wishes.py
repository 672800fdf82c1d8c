"""What users want of a running sweep: it is checked like a config, written to the journal, and done."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import counted, format_setting, format_value, numbered, short_names
from mnist_sweep.config.checks import check
from mnist_sweep.config.grammar import Domain, parse_value
from mnist_sweep.config.key_names import nested_keys, unknown_key
from mnist_sweep.config.narrowing import narrow, narrowed
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space, Values, identity
from mnist_sweep.driver import enqueue, trials
from mnist_sweep.driver.attempts import Attempts
from mnist_sweep.driver.state import LoopState, Phase
from mnist_sweep.driver.steering_socket import Request
from mnist_sweep.driver.suggestions import SearchState, Suggestions
from mnist_sweep.journal.events import (
    Event,
    SettingsChanged,
    SlotsChanged,
    SweepContinued,
    SweepPaused,
    TrialAdded,
    TrialStopped,
)
from mnist_sweep.journal.state import BUDGET
from mnist_sweep.search import choose, compatibility
from mnist_sweep.search.base import Suggestion

# What can be set while a sweep runs, besides the values of what it searches.
_SETTINGS = ("search.max_trials", "search.time_budget", "search.target", "search.max_failures")
_EXAMPLE = {"add": "model.units=64", "set": "search.max_trials=80"}


@dataclass(frozen=True)
class _Done:
    """What was done, in a sentence, and the trial that was added."""

    text: str
    trial: int | None = None


class Wishes:
    """Does what users want of a running sweep."""

    def __init__(
        self,
        state: LoopState,
        attempts: Attempts,
        suggestions: Suggestions,
        space: Space,
        image: Sequence[int] | None,
        emit: Callable[[Event], None],
        then: Callable[[Callable[[], None]], None],
        clock: Callable[[], float],
    ) -> None:
        """Takes the parts of the sweep's loop; `then` does something once the journal has all events so far."""
        self._state, self._attempts, self._suggestions = state, attempts, suggestions
        self._space, self._image = space, image
        self._emit, self._then, self._clock = emit, then, clock

    def handle(self, request: Request) -> None:
        """Does what a user wants, or refuses it; the user gets the answer once the journal has the event."""
        try:
            if self._state.interruption:
                raise UserError(f"steer: the sweep is stopping ({self._state.interruption})")
            done = self._do(request.wish, request.by, request.pid)
        except UserError as error:
            request.answer({"error": str(error)})
            return
        self._then(partial(request.answer, {"done": done.text, "trial": done.trial}))

    def _do(self, wish: Mapping[str, Any], by: str, pid: int) -> _Done:
        match wish:
            case {"do": "stop", "trial": int(number)}:
                return self._stop(number, by, pid)
            case {"do": "add", "values": list(texts)} if texts and all(isinstance(text, str) for text in texts):
                return self._add({key: parse_value(value, key) for key, value in _pairs("add", texts)}, by, pid)
            case {"do": "add", "values": dict(item)} if item:
                return self._add(item, by, pid)
            case {"do": "pause"}:
                return self._pause(by, pid)
            case {"do": "continue"}:
                return self._continue(by, pid)
            case {"do": "set", "settings": list(texts)} if texts and all(isinstance(text, str) for text in texts):
                return self._set(_pairs("set", texts), by, pid)
            case {"do": "slots", "slots": int(count)}:
                return self._slots(count, by, pid)
        raise UserError(f"steer: {json.dumps(wish)}: unknown to the version of mnist_sweep that runs the sweep")

    # ---- stop, add ----------------------------------------------------------------------------------------------

    def _stop(self, number: int, by: str, pid: int) -> _Done:
        state = self._state
        trial, outcome = state.results.trials.get(number), state.results.outcomes.get(number)
        if trial is None and number not in state.added:
            running = numbered("trial", sorted(state.open)) if state.open else "none"
            raise UserError(f"stop {number}: there is no such trial; those that run: {running}")
        if outcome is not None:
            raise UserError(f"stop {number}: the trial has ended already ({outcome.status})")
        if trial is not None and trial.confirms is not None:
            raise UserError(
                f"stop {number}: the trial retrains trial {trial.confirms}, which is needed to compare the best ones"
            )
        if number in state.cut or state.phase is Phase.STOPPING:
            raise UserError(f"stop {number}: the trial stops already ({state.cut.get(number, state.stopped)})")
        self._emit(TrialStopped(self._clock(), by, pid, number))
        if self._attempts.stop_trial(number):
            return _Done(f"Trial {number} will stop after its current epoch")
        trained = state.last_epoch(number)
        return _Done(
            f"Trial {number} will not start again; it keeps what it has trained until epoch {trained}"
            if trained
            else f"Trial {number} will not start"
        )

    def _add(self, item: Mapping[str, Any], by: str, pid: int) -> _Done:
        state, settings = self._state, self._state.settings
        self._check_searching("add")
        if not self._space.hyperparameters:
            raise UserError("add: this run searches nothing; to train it with other values, use retrain")
        baseline = state.started.baseline if state.started is not None else {}
        values = enqueue.filled(item, settings, narrowed(self._space, state.narrowed), baseline, "add")
        self._check_new(values)
        most = settings.search.max_trials
        asked = self._suggestions.state is SearchState.ASKED
        if most is not None and len(state.searched) + self._attempts.to_start + asked >= most:
            raise UserError(
                f"add: all search.max_trials={most} have started; raise it first: steer … set {_SETTINGS[0]}={most + 1}"
            )
        number = state.next if state.asked is None else max(state.next, state.asked + 1)
        event = TrialAdded(self._clock(), by, pid, number, values)
        trial = trials.added(settings, self._space, event)
        if reason := trials.impossible(trial, self._image):
            raise UserError(f"add: {reason}")
        self._emit(event)
        self._suggestions.add(number, Suggestion(values))
        self._attempts.add([trial])
        short = short_names(list(values))
        shown = ", ".join(f"{short[name]}={format_value(value)}" for name, value in values.items())
        name = settings.search.algorithm
        alone = f"; search={name} does not learn from it" if choose.ALGORITHMS[name].plans else ""
        return _Done(f"Trial {number} will start next: {shown}{alone}", number)

    def _check_new(self, values: Values) -> None:
        """Refuses values that a trial has, unless the search only trains that for a part of the epochs."""
        state = self._state
        whole = self._space.config(values)["training"]["epochs"]
        known = {n: (trial.values, trial.epochs) for n, trial in state.results.trials.items() if trial.confirms is None}
        known |= {n: (event.values, whole) for n, event in state.added.items()}
        for number, (tried, epochs) in known.items():
            if epochs >= whole and identity(tried) == identity(values):
                raise UserError(f"add: trial {number} has these values; to train them once more, use retrain")

    # ---- pause, continue, slots ---------------------------------------------------------------------------------

    def _pause(self, by: str, pid: int) -> _Done:
        if self._state.paused:
            return _Done("The sweep is paused already")
        if self._state.phase not in (Phase.SEARCHING, Phase.CONFIRMING):
            raise UserError(f"pause: {self._why_over()}")
        self._emit(SweepPaused(self._clock(), by, pid))
        running = len(self._attempts.running)
        ends = f"; {counted(running, 'trial')} still {'runs' if running == 1 else 'run'}" if running else ""
        return _Done(f"Paused: no trial starts until you continue the sweep{ends}")

    def _continue(self, by: str, pid: int) -> _Done:
        if not self._state.paused:
            return _Done("The sweep is not paused")
        self._emit(SweepContinued(self._clock(), by, pid))
        return _Done("Trials start again")

    def _slots(self, count: int, by: str, pid: int) -> _Done:
        have = len(self._attempts.slots) + len(self._attempts.released)
        if not 0 <= count <= have:
            raise UserError(
                f"slots {count}: must be between 0 and {have}, which the sweep has; for more, stop it with Ctrl-C, and "
                "resume it with another workers.count or workers.trials_per_gpu"
            )
        if self._state.phase in (Phase.TESTING, Phase.OVER):
            raise UserError(f"slots {count}: {self._why_over()}")
        self._emit(SlotsChanged(self._clock(), by, pid, count))
        busy = len(self._attempts.running) - count
        back = have - count
        if not back:
            return _Done(f"All {counted(have, 'slot')} can be used" if have > 1 else "The slot can be used")
        some = "" if busy == back else f", {busy} of them"
        waits = f"{some} when {'its trial ends' if busy == 1 else 'their trials end'}" if busy > 0 else ""
        return _Done(f"{counted(back, 'slot')} of {have} {'is' if back == 1 else 'are'} given back{waits}")

    # ---- set ----------------------------------------------------------------------------------------------------

    def _set(self, pairs: Sequence[tuple[str, str]], by: str, pid: int) -> _Done:
        self._check_searching("set")
        state, before = self._state, narrowed(self._space, self._state.narrowed)
        budget: dict[str, Any] = {}
        parts: dict[str, Domain] = {}
        for key, text in pairs:
            if key in _SETTINGS:
                budget[key] = parse_value(text, key)
                continue
            found = [h for h in self._space.hyperparameters if h.name == key or _is_layer(h.name, key)]
            if not found:
                raise UserError(self._not_settable(key))
            parts |= {h.name: narrow(h.domain, text, h.name) for h in found}
        settings = _with(state.settings, budget)
        if parts:
            choose.check_can_narrow(settings)
        after = before.narrowed(parts)
        compatibility.check(settings, after)
        then = state.settings.search.model_dump()
        domains = {h.name: h.domain for h in before.hyperparameters}
        changed = {h.name: h.domain for h in after.hyperparameters if h.domain != domains[h.name]}
        said = [
            f"{key}: {format_setting(then[key.removeprefix(BUDGET)])} → {format_setting(value)}"
            for key, value in budget.items()
        ]
        said += [f"{name}: {domains[name]} → {part}, for the trials from now on" for name, part in changed.items()]
        if not said:
            return _Done("Nothing has changed")
        state.settings = settings
        parts_as_text = {name: str(part) for name, part in changed.items()}
        self._emit(SettingsChanged(self._clock(), by, pid, {**budget, **parts_as_text}))
        state.compare_all_with_target()
        if state.reached:
            said.append(f"{state.reached}, so the sweep ends")
            self._attempts.stop(state.reached)
        return _Done("; ".join(said))

    def _not_settable(self, key: str) -> str:
        searched = [h.name for h in self._space.hyperparameters]
        known = list(nested_keys(self._state.config))
        if key not in known:
            return f"set: {unknown_key(key, [*_SETTINGS, *searched, *known])}"
        return (
            f"set: {key}: cannot change while the sweep runs; only {', '.join(_SETTINGS)}"
            f"{' and what is searched' if searched else ''} can"
        )

    # ---- checks -------------------------------------------------------------------------------------------------

    def _check_searching(self, what: str) -> None:
        if self._state.phase is not Phase.SEARCHING:
            raise UserError(f"{what}: {self._why_over()}; when it has ended, resume continues it with a larger budget")

    def _why_over(self) -> str:
        match self._state.phase:
            case Phase.STOPPING:
                return f"the sweep is ending ({self._state.stopped})"
            case Phase.CONFIRMING:
                return "the search has ended, and the best trials are retrained now"
        return "the search has ended, and the winner is tested now"


def _pairs(what: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{what}: {text}: write KEY=VALUE, such as {_EXAMPLE[what]}")
        found.append((key.strip(), value.strip()))
    return found


def _is_layer(name: str, key: str) -> bool:
    """Whether a hyperparameter is that of a layer of a key."""
    return name.startswith(f"{key}.") and name.removeprefix(f"{key}.").isdigit()


def _with(settings: Settings, budget: Mapping[str, Any]) -> Settings:
    """Returns settings with another budget, which is checked."""
    search = settings.search
    given = search.model_dump(by_alias=True) | {key.removeprefix(BUDGET): value for key, value in budget.items()}
    return replace(settings, search=check(type(search), given, BUDGET)) if budget else settings
