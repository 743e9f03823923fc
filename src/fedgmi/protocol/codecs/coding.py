"""From the settings `[communication]` to codecs: a wrapper for what clients send, a chain for what the server sends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedgmi.errors import ConfigError, unknown
from fedgmi.protocol.blocks import HASH_BYTES
from fedgmi.protocol.codecs.broadcast import NUMBERS_IN_BLOCK, Broadcast
from fedgmi.protocol.codecs.choices import CHOICES, Choice, Layers
from fedgmi.protocol.codecs.codec import Codec
from fedgmi.protocol.codecs.numbers import NUMBERS, Numbers
from fedgmi.protocol.codecs.upward import upward
from fedgmi.protocol.secure_sum import masked_sum
from fedgmi.protocol.step import Program
from fedgmi.protocol.wrapper import Wrapper
from fedgmi.settings.communication import CommunicationSettings
from fedgmi.settings.effects import changed

PLAIN = next(iter(NUMBERS))


@dataclass(frozen=True)
class Coding:
    """What the settings make of a run's messages.

    Attributes:
        settings: The settings.
        seed: Of the draws.
        layers: By the length of a flat model, the lengths of its layers.
    """

    settings: CommunicationSettings = field(default_factory=CommunicationSettings)
    seed: int = 0
    layers: Layers = field(default_factory=dict)

    def wrappers(self, program: Program) -> tuple[Wrapper, ...]:
        """What is done to clients' messages: nothing, or the codec."""
        if not self.settings.on:
            return ()
        return (upward(Codec(self._numbers, self._choice), self._relative, program),)

    def masks(self) -> tuple[Wrapper, ...]:
        """Masked sums, as a simulation has them. A deployment's are `fedgmi.deploy.masks`."""
        return (masked_sum(histogram=True),) if self.settings.secure else ()

    def broadcast(self, program: Program) -> Broadcast | None:
        """What is done to the server's models; None: nothing."""
        choice = self._choice if self._choice is not None and self._choice.down else None
        if choice is None and self.settings.precision == PLAIN:
            return None
        short = self.settings.precision != PLAIN
        return Broadcast(
            Codec(self._numbers, choice), program, self.seed, short=short, exact_bytes=self.settings.limited
        )

    def in_words(self, program: Program) -> str:
        """How a program's models travel, to be said after "models travel".

        Examples:
            >>> program = Program(dict, lambda ids: {}, (), kinds={"expert": "expert"})
            >>> Coding(CommunicationSettings(precision="4", top=0.1)).in_words(program)
            'in 4 bits, the largest 10 %'
            >>> Coding().in_words(program)
            'as they are, in float32'
        """
        settings = self.settings
        if not program.kinds:
            return "not at all"
        if not settings.on:
            return f"as they are, in {PLAIN}"
        if program.relative:
            return f"in {self._relative.numbers.name}, as factors of others do"
        bits = f"in {settings.precision}{' bits' * settings.precision.isdigit()}"
        parts = {
            "the largest {} %": settings.top,
            "a random {} % of what clients send": settings.mask,
            "{} % of the layers that clients send": settings.layers,
        }
        return ", ".join([bits, *(text.format(f"{100 * share:g}") for text, share in parts.items() if share < 1)])

    def line(self, name: str, program: Program) -> str:
        """What is said before a run of a method whose models travel otherwise than as they are; "": they do not."""
        on = self.settings.on and program.kinds
        return f"{name}: models travel {self.in_words(program)} ([communication])." if on else ""

    def up_bytes(self, n: int, key: tuple[int | str, ...] = ()) -> int:
        """Bytes of a model of n parameters that a client sends, without what the message says of it."""
        return Codec(self._numbers, self._choice).size(n, key) if self.settings.on else 4 * n

    def down_bytes(self, n: int) -> int:
        """Bytes of a model of n parameters that has changed, to a client that holds the one before; without headers."""
        chain = self.broadcast(Program(dict, lambda ids: {}, ()))
        if chain is None:
            return 4 * n
        whole, rest = divmod(n, NUMBERS_IN_BLOCK)
        lengths = [NUMBERS_IN_BLOCK] * whole + [rest] * bool(rest)
        return sum(HASH_BYTES + chain.codec.size(length, ()) for length in lengths)

    @property
    def _numbers(self) -> Numbers:
        return NUMBERS[self.settings.precision]()

    @property
    def _choice(self) -> Choice | None:
        found = (make(self.settings, self.layers) for make in CHOICES.values())
        return next((choice for choice in found if choice is not None), None)

    @property
    def _relative(self) -> Codec:
        """Of models that are factors of others: their numbers are rounded each by its own size."""
        return Codec(NUMBERS[PLAIN if self.settings.precision == PLAIN else "bfloat16"]())


def check_communication(settings: CommunicationSettings) -> None:
    """Refuse a precision that there is not, two rules by which entries travel, and masks around what is coded.

    Raises:
        ConfigError: It names the setting.
    """
    if settings.precision not in NUMBERS:
        raise unknown("precision", settings.precision, NUMBERS, "communication.precision")
    if settings.secure and (settings.on or settings.limited):
        named = changed(settings, set(CommunicationSettings.model_fields) - {"secure", "lost"})
        raise ConfigError(
            "masks hide whole numbers of 64 bits, which no codec makes shorter",
            where=f"communication.{named[0]}",
            fix="leave it out, or communication.secure",
        )
    made: Mapping[str, Choice | None] = {name: make(settings, {}) for name, make in CHOICES.items()}
    on = [name for name, choice in made.items() if choice is not None]
    if len(on) > 1:
        raise ConfigError(
            f"{' and '.join(on)} both say which entries travel",
            where=f"communication.{on[1]}",
            fix=f"leave out communication.{on[0]} or communication.{on[1]}",
        )


def check_fractions(settings: CommunicationSettings, layers: Layers, rounds: int) -> None:
    """Refuse fractions by which next to nothing would travel, once the models are known.

    `top` and `mask` have to stand for an entry of the largest model: top·n ≥ 1. Of smaller models one entry travels at
    least. With `layers` a client has to send a layer in the run, in expectation: layers·L·R ≥ 1.

    Args:
        settings: The settings.
        layers: By the length of a flat model, the lengths of its layers. [L]
        rounds: R.

    Raises:
        ConfigError: It names the setting, and the least fraction that works.
    """
    largest, deepest = max(layers, default=0), max(map(len, layers.values()), default=0)
    found = {
        "top": (settings.top, largest, f"the largest model has {largest} entries, of which none would travel"),
        "mask": (settings.mask, largest, f"the largest model has {largest} entries, of which none would travel"),
        "layers": (
            settings.layers,
            deepest * rounds,
            f"of {deepest} layers in {rounds} rounds a client would send less than one",
        ),
    }
    for name, (fraction, n, why) in found.items():
        if fraction < 1 and fraction * n < 1 - 1e-9:
            least = math.ceil(1e6 / max(1, n)) / 1e6
            what = f"it is {fraction:g}, and {why}"
            raise ConfigError(what, where=f"communication.{name}", fix=f"set it to {least:g} or more")
