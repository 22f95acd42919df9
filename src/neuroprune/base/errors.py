"""Errors that a user sees: what happened, where, which value, how to mend it."""

from __future__ import annotations


class NeuropruneError(Exception):
    """Base of every error this library raises on purpose.

    ``str(error)`` is the one message the command line prints; ``exit_code`` is what it exits with.
    """

    exit_code = 2

    def __init__(
        self, what: str, *, where: str | None = None, value: object = None, mend: str | None = None
    ) -> None:
        self.what, self.where, self.value, self.mend = what, where, value, mend
        parts = [what]
        if where is not None:
            parts.append(f"  where: {where}")
        if value is not None:
            parts.append(f"  value: {value}")
        if mend is not None:
            parts.append(f"  mend:  {mend}")
        super().__init__("\n".join(parts))


class UserError(NeuropruneError):
    """Something in the input (model, data, recipe, folder, option) must be changed by the user."""


class CutRefused(NeuropruneError):
    """A structural cut could not be proven equal to the masked dense network; nothing was changed."""


class BudgetNotMet(NeuropruneError):
    """The best network that was reached misses the budget; it is kept, and the message names the constraint."""

    exit_code = 3


class Interrupted(NeuropruneError):
    """The user pressed Ctrl-C; what was finished is on disk and ``--resume`` goes on from there."""

    exit_code = 130
