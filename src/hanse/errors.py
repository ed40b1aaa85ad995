"""The errors a person can act on.

Here: one root, and three classes that say whose fault it is. Not here: refusals of a request, which are values with
reasons and never exceptions, and our own bugs, which are assertions and stay on in production.
"""


class HanseError(Exception):
    """Something outside this program is wrong, and the message says where and what to do.

    Attributes:
        where: The path of the thing at fault, such as ``site[2].power.grid_kw_max`` or ``--from``.
        got: What was found there.
        allowed: What would have been accepted, or None where no rule was broken (a file that is missing).
        fix: The next step for the reader, or None where ``allowed`` already says it.
    """

    def __init__(
        self, where: str, *, got: object, allowed: str | None = None, fix: str | None = None
    ) -> None:
        super().__init__(where, got, allowed, fix)
        self.where = where
        self.got = got
        self.allowed = allowed
        self.fix = fix

    def __str__(self) -> str:
        text = f"{self.where}: got {self.got}"
        if self.allowed is not None:
            text += f", need {self.allowed}"
        if self.fix is not None:
            text += f". To fix: {self.fix}"
        return text

    def __reduce__(self) -> tuple[object, ...]:
        """Survive a process boundary: keyword-only arguments need more than ``args``."""
        return _rebuild, (type(self), self.where, self.got, self.allowed, self.fix)


class ConfigError(HanseError):
    """The operator's: a fleet file, a policy, a key or a command line."""


class FeedError(HanseError):
    """The outside world's: a price, carbon or weather feed that is missing, late or malformed."""


class SiteError(HanseError):
    """A site's: an engine, an agent, a meter or a link that did not do its part."""


def _rebuild(
    kind: type[HanseError], where: str, got: object, allowed: str | None, fix: str | None
) -> HanseError:
    return kind(where, got=got, allowed=allowed, fix=fix)
