"""A planner in a thread of its own, so that a slow one never delays a control tick."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from pizero.planning.asking import Answer, answer_of
from pizero.planning.planner import Planner, Situation


@dataclass(frozen=True, kw_only=True)
class _Question:
    episode: int
    situation: Situation


class AskingInThread:
    """Asks in a thread; implements `Asking`. The lock is only ever held to pass a question or an answer on.

    A planner is only used by that thread. A call that never returns keeps the thread, and then no question is
    answered any more, which whoever waits notices by the silence.
    """

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.changed = threading.Condition()
        self.episode, self.prepared = 0, -1
        self.question: _Question | None = None
        self.answer: Answer | None = None
        self.waiting = self.closing = False
        self.thread = threading.Thread(target=self._work, name="planner", daemon=True)
        self.thread.start()

    def reset(self) -> None:
        """Start a new episode: an answer to what was asked before will be dropped."""
        with self.changed:
            self.episode += 1
            self.question = self.answer = None
            self.waiting = False

    @property
    def busy(self) -> bool:
        """Return whether a question is on its way."""
        return self.waiting

    def ask(self, situation: Situation) -> None:
        """Leave a question for the thread."""
        with self.changed:
            self.question = _Question(episode=self.episode, situation=situation)
            self.waiting = True
            self.changed.notify_all()

    def take(self, seconds: float) -> Answer | None:
        """Return the answer once, if it is there."""
        with self.changed:
            found, self.answer = self.answer, None
            if found is not None:
                self.waiting = False
            return found

    def close(self, *, timeout: float = 1.0) -> None:
        """End the thread, or leave it to end when its planner returns, if it does not within `timeout` s."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.thread.join(timeout)

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closing or self.question is not None)
                question, self.question = self.question, None
            if self.closing or question is None:
                return
            fresh, self.prepared = self.prepared != question.episode, question.episode
            found = answer_of(self.planner, question.situation, fresh=fresh)
            with self.changed:
                if question.episode == self.episode:
                    self.answer = found
                    self.changed.notify_all()
