"""The loop that drives a robot: observe, plan, guard, tell, at every tick of an absolute clock."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from pizero.policy.clock import Clock, Tick, Time
from pizero.policy.controllers.player import Action, Player
from pizero.policy.director import Director
from pizero.policy.guard import Guard, Guarded
from pizero.policy.inference import Answer, Inference, Question
from pizero.policy.interpolation import Interpolator
from pizero.policy.record import AnswerRecord, ExecutorState, Record, TickRecord, Transition
from pizero.policy.robot import Robot, Stamped
from pizero.policy.steps import StepChooser
from pizero.serving.client import IncompatibleError, StopRequestedError

LATE = 0.1
"""Of a period: a tick that begins later than this missed its deadline."""

REPORT_EVERY = 10
"""Control ticks between two reports, at most."""

MAX_SKIPPED_ROWS = 100
"""Ticks that were left out at once of which a report says so, row by row."""

SWITCH_SECONDS = 0.0005
"""For which Python lets one thread compute before it looks at the others; by default ten times as long, so
that a policy's thread could keep the loop waiting for a quarter of a tick."""


class Executor:
    """Drives a robot with a player's actions through a guard; the policy computes beside it.

    The states are `starting` until the first action, then `running`, `holding` while the robot stands still
    or comes to a standstill, and `stopped` for good. A stop of the guard, an error of a class in `stop_on`
    from the policy, and an exception here stop the robot; other errors of the policy let it hold. When it
    has held, it goes on with a chunk made from where it stands.

    With a `command_rate` above the embodiment's, each action becomes several commands (`Interpolator`), and
    the guard, which must be made for that rate, sees each of them. `steps` chooses flow steps by the time
    there is. `director` gives the instruction in place of the robot's own, and may let the robot hold, which
    the guard takes for a want of actions. `report` is called every few ticks, and before each question, with
    what was executed since: a row for each control tick, NaN where the robot stood still.
    """

    def __init__(
        self,
        robot: Robot,
        player: Player,
        inference: Inference,
        guard: Guard,
        *,
        time: Time | None = None,
        command_rate: float | None = None,
        steps: StepChooser | None = None,
        director: Director | None = None,
        stop_on: tuple[type[Exception], ...] = (StopRequestedError, IncompatibleError),
        report: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        embodiment = robot.embodiment
        rate = command_rate or embodiment.rate
        self.factor = round(rate / embodiment.rate)
        if self.factor < 1 or abs(self.factor * embodiment.rate - rate) > 1e-6 * rate:
            raise ValueError(
                f"expected a whole number of commands for each of {embodiment.rate:g} actions a second, "
                f"found {rate:g} commands a second"
            )
        self.robot, self.player, self.inference, self.guard = robot, player, inference, guard
        self.clock = Clock(rate, time)
        self.interpolator = Interpolator(embodiment.actions, factor=self.factor)
        self.steps, self.director, self.stop_on, self.report = steps, director, stop_on, report
        self.replanning = threading.Event()
        self.record = Record()

    def replan(self) -> None:
        """Drop what is planned, but for what is committed, and ask again at once; from any thread."""
        self.replanning.set()

    def run(self, *, seconds: float, until: Callable[[], bool] = lambda: False) -> Record:
        """Drive the robot for some time, or until a function says so or it is stopped; return what happened.

        The robot holds at the end. An exception stops it, and goes on.
        """
        self._begin()
        try:
            with quick_switches():
                self._loop(seconds, until)
            self._tell_report(self.tick_now)
        except BaseException:
            self._enter("stopped", "an exception in the loop")
            self.robot.stop()
            raise
        finally:
            self.inference.close()
        if self.state == "stopped":
            self.robot.stop()
        else:
            self.robot.hold()
        return self.record

    def _begin(self) -> None:
        self.player.reset()
        self.guard.reset()
        self.interpolator.forget()
        if self.director is not None:
            self.director.reset()
        self.record = Record(interventions=self.guard.interventions)
        self.state: ExecutorState | None = None
        self.stamped: Stamped | None = None
        self.made_at: dict[int, float] = {}
        self.executed: list[Action] = []
        self.commands: Float[np.ndarray, "command action_dim"] | None = None
        self.tick_now = -1
        self.told_to_hold = ""
        self.clock.start()
        self._enter("starting", "")

    def _loop(self, seconds: float, until: Callable[[], bool]) -> None:
        while self.state != "stopped" and not until():
            tick = self.clock.wait()
            if tick.deadline - self.clock.origin > seconds - self.clock.period / 2:
                return
            control, part = divmod(tick.index, self.factor)
            self.record.late_ticks += tick.lateness > LATE * self.clock.period
            self.record.skipped_ticks += tick.skipped
            if control == self.tick_now:
                self._tell(self._guarded(part, tick))
                continue
            skipped = control - self.tick_now - 1
            self.tick_now = control
            self._control(tick, skipped, part)

    def _control(self, tick: Tick, skipped: int, part: int) -> None:
        laps = [self.clock.time.now()]
        wrong = self._observe(tick)
        laps.append(self.clock.time.now())
        self._direct(tick)
        planned = self._plan(may_ask=not (wrong or self.told_to_hold))
        laps.append(self.clock.time.now())
        guarded = self._guarded(part, tick)
        laps.append(self.clock.time.now())
        self._tell(guarded)
        laps.append(self.clock.time.now())
        made = self.made_at.get(self.player.played)
        self._note(guarded, skipped)
        self.record.ticks.append(
            TickRecord(
                index=self.tick_now,
                deadline=tick.deadline,
                began=tick.began,
                skipped=skipped,
                state=self.state or "starting",
                command=guarded.command,
                planned=planned,
                source=self.player.played,
                age=tick.began - made if planned and made is not None else None,
                interventions=guarded.interventions,
                seconds=dict(zip(("observe", "plan", "guard", "tell"), np.diff(laps).tolist(), strict=True)),
            )
        )
        if len(self.executed) >= REPORT_EVERY:
            self._tell_report(self.tick_now)

    def _observe(self, tick: Tick) -> tuple[str, ...]:
        """Look; return what is wrong with the view. A robot that fails to show itself shows its last view,
        which grows old.
        """
        try:
            self.stamped = self.robot.observe()
        except Exception as error:  # whatever a driver raises, the robot must be told to hold
            self.guard.interventions[f"observing-failed:{type(error).__name__}"] += 1
            if self.stamped is None:
                return ("nothing-seen",)
        assert self.stamped is not None
        return self.guard.look(self.stamped, tick.began)

    def _direct(self, tick: Tick) -> None:
        """Let the policy see the instruction in force; drop what is planned where it is another one."""
        if self.director is None or self.stamped is None:
            return
        seen = self.stamped.observation
        direction = self.director.direct(lambda: seen, tick.began)
        self.stamped = replace(self.stamped, observation=replace(seen, instruction=direction.instruction))
        self.told_to_hold = direction.hold
        if direction.new:
            self.player.replan()

    def _plan(self, *, may_ask: bool) -> bool:
        """Make the commands of this control tick; return whether there are any."""
        for answer in self.inference.answers():
            self._take(answer)
        if self.replanning.is_set():
            self.replanning.clear()
            self.player.replan()
        self.commands = None
        if not may_ask:
            self.player.halt()
            return False
        request = self.player.request()
        if request is not None and self.stamped is not None:
            self.made_at[request.sequence] = self.stamped.time
            num_steps = self.steps.choose(self._budget()) if self.steps else None
            self._tell_report(self.tick_now - 1)
            asked = self.clock.time.now()
            self.inference.ask(
                Question(request=request, stamped=self.stamped, asked=asked, num_steps=num_steps)
            )
        action = self.player.action()
        if action is None:
            self.interpolator.forget()
            return False
        self.commands = self._between(action)
        return True

    def _between(self, action: Action) -> Float[np.ndarray, "command action_dim"]:
        """Return the commands of an action; one that is no action is left to the guard to refuse."""
        following = self.player.upcoming()
        usable = action.shape == (len(self.robot.embodiment.actions),) and np.isfinite(action).all()
        if self.factor == 1 or not usable:
            return np.repeat(action[None], self.factor, axis=0)
        if self.interpolator.last is None and self.guard.limiter.last is not None:
            self.interpolator.start(self.guard.limiter.last)
        known = following if following is not None and np.isfinite(following).all() else None
        return self.interpolator.between(action, known)

    def _budget(self) -> float:
        """Return the seconds for which there are actions; none at a standstill."""
        return self.player.num_planned * self.factor * self.clock.period

    def _take(self, answer: Answer) -> None:
        sequence, error = answer.question.request.sequence, answer.error
        measured, used = None, False
        if answer.chunk is None or error is not None:
            self.player.fail(sequence)
            if isinstance(error, self.stop_on):
                self.guard.stop(f"stopped-by:{type(error).__name__}")
        else:
            before = self.player.measured
            used = self.player.answer(sequence, answer.chunk)
            measured = self.player.measured if self.player.measured is not before else None
            if self.steps is not None and answer.question.num_steps is not None:
                self.steps.add(answer.question.num_steps, answer.ended - answer.began)
        self.made_at = {key: value for key, value in self.made_at.items() if key >= sequence - 8}
        self.record.answers.append(
            AnswerRecord(
                sequence=sequence,
                tick=self.tick_now,
                waited=answer.began - answer.question.asked,
                seconds=answer.ended - answer.began,
                num_steps=answer.question.num_steps,
                delay=measured.delay if measured else None,
                estimate=measured.estimate if measured else None,
                used=used,
                continued=answer.question.request.continuation is not None,
                error="" if error is None else type(error).__name__,
                stages=dict(answer.stages),
            )
        )

    def _guarded(self, part: int, tick: Tick) -> Guarded:
        if self.stamped is None:
            return Guarded(command=None, interventions=("nothing-seen",), state="holding")
        command = None if self.commands is None else self.commands[part]
        guarded = self.guard.step(command, self.stamped, tick.began)
        if guarded.state != "running" and command is not None:
            self.player.halt()
            self.interpolator.forget()
            self.commands = None
        state = "starting" if guarded.state == "holding" and not self.guard.moved else guarded.state
        if state != self.state:
            reasons = (
                [self.told_to_hold, *guarded.interventions] if self.told_to_hold else guarded.interventions
            )
            self._enter(state, ", ".join(reasons) or self.guard.stopped_by)
        return guarded

    def _tell(self, guarded: Guarded) -> None:
        self.record.commands += 1
        if guarded.command is None or not self.guard.moved:
            self.robot.hold()
        else:
            self.robot.command(guarded.command)

    def _enter(self, state: ExecutorState, reason: str) -> None:
        self.state = state
        self.record.transitions.append(
            Transition(tick=max(0, self.tick_now), time=self.clock.time.now(), state=state, reason=reason)
        )

    def _note(self, guarded: Guarded, skipped: int) -> None:
        """Keep what this tick executed for the next report, and that nothing was in ticks left out."""
        if self.report is None:
            return
        none = np.full(len(self.robot.embodiment.actions), np.nan, dtype=np.float32)
        moved = guarded.command is not None and self.guard.moved
        rows = [*[none] * min(skipped, MAX_SKIPPED_ROWS), guarded.command if moved else none]
        self.executed += [row for row in rows if row is not None]

    def _tell_report(self, tick: int) -> None:
        """Report what was executed up to a tick: every few ticks, and before each question."""
        if self.report is None or not self.executed:
            return
        executed, self.executed = self.executed, []
        self.report(
            {
                "tick": tick,
                "executed": np.stack(executed),
                "guard": {"state": self.state, "interventions": dict(self.guard.interventions)},
                "late_ticks": self.record.late_ticks,
            }
        )


@contextmanager
def quick_switches() -> Iterator[None]:
    """Let Python's threads take turns often, for as long as a robot is driven."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
