"""The errors a person can act on.

Here: one root, three classes that say whose fault it is, and several errors as one. Not here: refusals of a request, which are values with
reasons and never exceptions, and our own bugs, which are assertions and stay on in production.
"""

from collections.abc import Sequence


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


class ConfigErrors(ConfigError):
    """Several of them at once, a line each; `where`, `got`, `allowed` and `fix` are the first's.

    Attributes:
        each: All of them.
    """

    def __init__(self, each: tuple[ConfigError, ...]) -> None:
        first = each[0]
        super().__init__(first.where, got=first.got, allowed=first.allowed, fix=first.fix)
        self.each = each

    def __str__(self) -> str:
        return "\n".join(str(one) for one in self.each)

    def __reduce__(self) -> tuple[object, ...]:
        return ConfigErrors, (self.each,)


class FeedError(HanseError):
    """The outside world's: a price, carbon or weather feed that is missing, late or malformed."""


class SiteError(HanseError):
    """A site's: an engine, an agent, a meter or a link that did not do its part."""


def all_of(each: Sequence[ConfigError], *, within: str = "") -> ConfigError:
    """One error of one or several; `within` is the file that they are about."""
    if within:
        each = [
            ConfigError(f"{within}: {one.where}", got=one.got, allowed=one.allowed, fix=one.fix)
            for one in each
        ]
    return each[0] if len(each) == 1 else ConfigErrors(tuple(each))


def _rebuild(
    kind: type[HanseError], where: str, got: object, allowed: str | None, fix: str | None
) -> HanseError:
    return kind(where, got=got, allowed=allowed, fix=fix)
