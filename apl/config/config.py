"""What is asked: one `Config` decides the outcome of a run."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apl.config.presets import (
    COMMON,
    DROPS,
    HEAD,
    HEAD_WIDTH,
    HEADS,
    NETWORK,
    OTHER_WIDTH,
    PRESETS,
    REPAIRED_HEAD,
    Preset,
    own_network,
)
from apl.config.published import published_settings
from apl.errors import BadInput, require
from apl.features.catalog import (
    NONE,
    default_of,
    file_digest,
    is_installed,
    is_own_function,
    require_features,
    require_weights,
    side_of,
)
from apl.losses.catalog import PARAMS, REPAIR, Values, loss_name, loss_params, parse_loss
from apl.names import (
    DATASETS,
    HUMAN,
    METHODS,
    NETWORKS,
    NOISES,
    PRECISIONS,
    SIDE,
    check_rate,
    no_dataset,
    option,
)
from apl.usercode import is_own, source_digest

if TYPE_CHECKING:
    from apl.data.dataset import Dataset


Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Identity:
    """What a run was called when it was begun: its name, and its variant, the settings by which it
    differed from its preset then.  A release may change presets; it changes nobody's name."""

    name: str
    variant: Settings


@dataclass(frozen=True, kw_only=True)
class Config:
    """What decides the outcome of one run; `make_config` fills it from a preset.

    Every field is an option of `apl train`, and so is every parameter of the losses, by its name.
    `map_sha256` is of the content of a map's file, which decides and not its name; '' for a map
    with a name of ours.  `dataset_sha256` is of the content of the user's own data (labels, split
    and files), '' for a built-in set: their path is no part of what a run is, and what it leads to
    is.  `image_size` is then what the images have, whether asked for or not.
    `labels_sha256` is of that file's content, `features_sha256` of a file of vectors or of weights
    of features, `code_sha256` of the modules that a network, a loss and features of the user's own
    were typed from.
    `params` holds every parameter of the loss with its value, so no default may change what a run
    was; `loss` then stands without brackets.
    `typed` are the settings that were asked for, as opposed to what a preset or a loss has of
    itself, None for all; `identity` is what a run that was read is called; `tuned` is what part a
    run has where settings are chosen (`apl.config.tuning`), None where none are.  None of them
    decides what is trained, so none counts when two configs are compared.
    """

    preset: str = option(f"settings to start from: {', '.join(PRESETS)}")
    dataset: str = option(
        f"{', '.join(DATASETS)}; or a path of yours: class folders, a list, a table"
    )
    loss: str = option(
        "from `apl losses`, as `gce(q=0.9)`; a sum, as `nce + 2*mae`; or module:function"
    )
    params: Values = field(default_factory=dict)
    noise: str = option(", ".join(NOISES))
    rate: float = option("noise rate, 0 to 1")
    map: str = option("which class becomes which: see `apl noise --help`")
    map_sha256: str = ""
    method: str = option(f"how labels are drawn: {', '.join(METHODS)}")
    seed: int = option("fixes all random numbers")
    network: str = option(f"{', '.join(NETWORKS)}, torchvision:NAME, timm:NAME, module:Class")
    width: int = option("width of the network, see `apl datasets`")
    train_size: int = option("number of training images, the same in each class; 0: all")
    epochs: int = option("passes over the training images")
    batch_size: int = option("images per step")
    lr: float = option("highest learning rate")
    momentum: float = option("momentum of SGD")
    weight_decay: float = option("weight decay of SGD")
    clip: float = option("largest gradient norm; 0: any")
    augment: bool = option("random crop (pad 4) and mirroring")
    eval_every: int = option("epochs between two tests")
    # Fields that came later, with what runs did before they were there, so that old runs stay.
    warmup: float = option(
        "epochs in which the learning rate rises from 0; the loss stays the same", 0.0
    )
    precision: str = option(
        "float32; tf32: float32, faster products on CUDA; bf16: autocast",
        "tf32",
    )
    dataset_sha256: str = ""
    image_size: int = option(
        f"pixels a side for your images; 0: their own if equal squares up to {SIDE}, else {SIDE}",
        0,
    )
    label_column: str = option("column with the labels", "label")
    weights: str = option("default: pretrained weights; for features also a file", "")
    crop_size: int = option("side of random crops; 0: none", 0)
    colour: float = option("strength of random changes of colour", 0.0)
    l1: float = option("weight of an L1 penalty", 0.0)
    warm_start: float = option(
        "CE first: epochs with ce, then the loss; below 1: a share of all epochs", 0.0
    )
    select: str = option(
        "noisy: a held-out tenth with given labels chooses loss and epoch",
        "",
    )
    labels: str = option(
        "training labels: a .csv of decisions from `apl find`",
        "",
    )
    labels_sha256: str = ""
    code_sha256: str = ""
    test_set: str = option("of WebVision mini: webvision or imagenet", "")
    schedule: str = option(
        "how the learning rate falls: cosine; x0.97: each epoch; x0.1@40,80: after these",
        "cosine",
    )
    nesterov: bool = option("Nesterov's form of the momentum", False)
    crop: str = option("random crops: resized: of any size and shape; plain: squares", "resized")
    features: str = option("none: pixels; lite0, tfidf, FILE, ...", NONE)
    features_sha256: str = ""
    dropout: float = option("share of units left out", 0.0)
    fresh_data: bool = option("each seed draws its own images", False)
    weight_ema: float = option("mean of the weights; 0: none", 0.0)
    components: int = option("principal ones of the features; 0: all", 0)
    typed: tuple[str, ...] | None = field(default=None, compare=False, repr=False)
    identity: Identity | None = field(default=None, compare=False, repr=False)
    tuned: Settings | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        try:
            params = _params(self.loss, tuple(self.params.items()))
        except ValueError as error:
            raise BadInput(str(error)) from None
        object.__setattr__(self, "params", dict(params))  # frozen for everybody else
        object.__setattr__(self, "loss", loss_name(self.loss))
        self._check_names()
        self._check_data()
        self._check_numbers()

    def _check_names(self) -> None:
        for name, table in (
            ("preset", PRESETS),
            ("noise", NOISES),
            ("method", METHODS),
            ("precision", PRECISIONS),
            ("select", ("", "noisy")),
            ("crop", ("resized", "plain")),
        ):
            accepted = ", ".join(filter(None, table))
            require(getattr(self, name) in table, name, getattr(self, name), accepted)
        require_network(self.network)
        require_features(self.features)
        require_weights(self.features, self.weights)
        rows = self.features != NONE or bool(self.dataset_sha256 and self.image_size == 1)
        accepted = "repair on features (--features lite0) or a table; from pixels another loss"
        require(rows or self.loss != REPAIR, "loss", self.loss, accepted)
        if self.features != NONE:
            head = self.network in HEADS or is_own(self.network)
            accepted = f"{', '.join(HEADS)}, module:Class on features"
            require(head, "network", self.network, accepted)
            for name in ("augment", "crop_size", "colour"):
                only = "none on features, which have no pixels"
                require(not getattr(self, name), name, getattr(self, name), only)

    def _check_data(self) -> None:
        if self.dataset_sha256:
            digest = self.dataset_sha256
            known = re.fullmatch("[0-9a-f]{64}", digest) is not None
            require(known, "dataset_sha256", digest, "64 hexadecimal digits")
            require(self.image_size >= 1, "image_size", self.image_size, "a whole number >= 1")
        else:
            if self.dataset not in DATASETS:
                raise no_dataset(self.dataset)
            only = "0 with a built-in data set"
            require(self.image_size == 0, "image_size", self.image_size, only)
            only = "label with a built-in data set"
            require(self.label_column == "label", "label_column", self.label_column, only)
            require(not self.test_set, "test_set", self.test_set, "'' with a built-in data set")

    def _check_numbers(self) -> None:
        check_rate(self.rate)
        require(2 <= self.width <= 1024, "width", self.width, "a whole number from 2 to 1024")
        for name in ("epochs", "eval_every"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number >= 1")
        require(self.batch_size >= 2, "batch_size", self.batch_size, "a whole number >= 2")
        for name in ("train_size", "seed", "crop_size", "components"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a whole number >= 0")
        drawn = self.train_size > 0 or not self.fresh_data
        accepted = "no, or with train_size, the images that each seed draws for itself"
        require(drawn, "fresh_data", True, accepted)
        require(self.seed < 2**63, "seed", self.seed, "a whole number below 2^63")
        for name in ("lr", "weight_decay", "clip", "warmup", "colour", "l1", "warm_start"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, name, value, "a finite number >= 0")
        whole = self.warm_start < 1 or self.warm_start == int(self.warm_start)
        accepted = "a share below 1, or a whole number of epochs"
        require(whole, "warm_start", self.warm_start, accepted)
        blind = self.loss == "forward_est" and not self.warm_epochs
        accepted = "at least 1 epoch, after which forward_est estimates the noise"
        require(not blind, "warm_start", self.warm_start, accepted)
        require(0 <= self.momentum < 1, "momentum", self.momentum, "a number in [0, 1)")
        require(0 <= self.weight_ema < 1, "weight_ema", self.weight_ema, "a number in [0, 1)")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a number in [0, 1)")
        reduced = self.features != NONE or not self.components
        require(reduced, "components", self.components, "0 without features")
        drops = self.network in (DROPS if self.features == NONE else HEADS)
        accepted = f"0 but with {', '.join(DROPS)}; on features with {', '.join(HEADS)}"
        require(drops or not self.dropout, "dropout", self.dropout, accepted)
        only = "only with momentum"
        require(self.momentum > 0 or not self.nesterov, "nesterov", self.nesterov, only)
        require(
            self.crop_size > 0 or self.crop == "resized", "crop", self.crop, "only with crop_size"
        )
        accepted = "cosine, x0.97, or x0.1@40,80 with epochs that grow"
        require(read_schedule(self.schedule) is not None, "schedule", self.schedule, accepted)

    def to_json(self) -> dict[str, Any]:
        """What decides the outcome, as `read` takes it: the fields of own data only where it is,
        and those that came later only where they are used, so that a run's record stays as it was.
        What the run is called stands beside it, as `naming` has it."""
        fields = {name: value for name, value in vars(self).items() if name not in _NAMING}
        if not self.dataset_sha256:
            fields = {name: value for name, value in fields.items() if name not in _OF_OWN_DATA}
        return {name: value for name, value in fields.items() if value != _LATER.get(name)}

    def naming(self) -> dict[str, Any]:
        """What the run is called, for the file that holds its config: run and variant; of one that
        is tuned, what part it has in that."""
        tuned = {} if self.tuned is None else {"tuned": dict(self.tuned)}
        return {"run": self.name, "variant": dict(self.overrides), **tuned}

    @property
    def warm_epochs(self) -> int:
        """The epochs that begin with ce, none of a share where it comes to less than half of one;
        the last one at least is the loss's own."""
        share = self.warm_start if self.warm_start >= 1 else self.warm_start * self.epochs
        return min(round(share), self.epochs - 1)

    @classmethod
    def read(
        cls,
        fields: Settings,
        name: str = "",
        variant: Settings | None = None,
        tuned: Settings | None = None,
    ) -> Config:
        """A config from what a file holds, written by this apl or any before it.

        name, variant, tuned: what the run is called, as `naming` wrote it.  Until format 2 the
        variant was in the name alone, and defaults of the loss were not written; until format 1 the
        loss parameters were fields of their own, the machine's settings lay beside them, and noise
        without a rate of its own carried the preset's.
        Raises TypeError or KeyError for what is no config, BadInput for values that do not fit.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        kept = {name: value for name, value in fields.items() if name in known - _NAMING}
        unknown = set(fields) - known
        if "params" not in fields:
            given = {name: fields.get(name) for name in PARAMS}
            kept["params"] = {name: value for name, value in given.items() if value is not None}
            unknown -= {*PARAMS, *_MACHINE_ONCE}
        if unknown:
            raise KeyError(sorted(unknown)[0])
        kept["params"] = _plain(kept["params"])
        if not NOISES[kept["noise"]].rated:
            kept["rate"] = 0.0
        if variant is None and _VARIANT.search(name):
            variant = _variant_in(name, kept)
            if variant is None:  # the name was cut
                variant = beside_preset(cls(**kept, tuned=tuned))
        known_as = Identity(name, _plain(variant)) if name and variant is not None else None
        return cls(**kept, tuned=tuned, identity=known_as)

    @property
    def overrides(self) -> Settings:
        """The settings that were not the preset's when the run was begun, a loss parameter by its
        own name; noise, rate, map and seed are no settings."""
        return beside_preset(self) if self.identity is None else self.identity.variant

    @property
    def by_hand(self) -> Settings:
        """Those of the overrides that somebody set, as opposed to what was chosen by tuning."""
        chosen = (self.tuned or {}).get("part") == "evaluation"
        tuned = (self.tuned or {})["values"] if chosen else ()
        return {name: value for name, value in self.overrides.items() if name not in tuned}

    @property
    def variant(self) -> str:
        """What differs from the preset, as 'lr=0.5,width=8'; '' where nothing does."""
        return settings_text(self.overrides)

    @property
    def name(self) -> str:
        """A folder name that says all of it: 'nce_rce_sym-0.6_seed0', and what differs; of a run
        that was begun the one that it has."""
        return self._called(self.variant) if self.identity is None else self.identity.name

    def _called(self, variant: str) -> str:
        # Labels of the user's own may be wrong as they are.
        unchanged = "given" if self.dataset_sha256 else "clean"
        noise = unchanged if self.noise == "none" else self.noise
        if self.map:
            noise += f"-{self.map}"
        if NOISES[self.noise].rated:
            noise += f"-{_text(self.rate)}"
        parts = [self.loss, noise, f"seed{self.seed}", *filter(None, [variant])]
        return _safe("_".join(parts))

    def saying(self, values: Settings) -> Config:
        """This config under a name that says these of its settings, the preset's or not, so that
        no release moves it to another name."""
        variant = {**dict(values), **{n: v for n, v in self.overrides.items() if n not in values}}
        name = self._called(settings_text(variant))
        return dataclasses.replace(self, identity=Identity(name, variant))

    def differs(self, other: Config) -> list[str]:
        """The settings in which the other config is not this one, as 'lr is ..., asked for ...'."""
        return [
            f"{name} is {theirs!r}, asked for {ours!r}"
            for name, (theirs, ours) in self.differences(other).items()
        ]

    def differences(self, other: Config) -> dict[str, tuple[Any, Any]]:
        """The settings in which the other config is not this one, with its value and this one's; a
        loss parameter by its own name."""
        found = {}
        if self.loss == other.loss:
            for name in self.params:
                found[name] = other.params[name], self.params[name]
        for f in dataclasses.fields(self):
            if f.compare and f.name != "params":
                found[f.name] = getattr(other, f.name), getattr(self, f.name)
        return {name: pair for name, pair in found.items() if pair[0] != pair[1]}

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting that a preset, a loss or what is published of it may choose; a loss
        parameter by its own name."""
        chosen = {n: v for n, v in vars(self).items() if n not in {*_FIXED, *_NAMING, "params"}}
        return {**chosen, **self.params}

    def moved_to(self, settings: Settings) -> Config:
        """This run under the name that it has, with other settings."""
        params = {name: settings.get(name, value) for name, value in self.params.items()}
        rest = {name: value for name, value in settings.items() if name not in params}
        identity = Identity(self.name, self.overrides)
        return dataclasses.replace(self, params=params, identity=identity, **rest)

    def begun_as(self, begun: Config) -> dict[str, tuple[Any, Any]] | None:
        """What a release has moved since a run was begun that is now asked for again, with its
        value then and now: settings that nobody typed.  None where the two are no such run, since
        what was typed, or the content of a file, is another."""
        moved = self.differences(begun)
        typed = set(moved) if self.typed is None else self.typed
        if self.name != begun.name or set(moved) & {*typed, *_FIXED}:
            return None
        return moved


@functools.lru_cache(maxsize=1024)  # a record has a thousand runs of a few losses
def _params(loss: str, given: tuple[tuple[str, Any], ...]) -> dict[str, float | tuple[float, ...]]:
    return loss_params(loss, dict(given))


_SCHEDULE = re.compile(r"x(?P<factor>\d*\.?\d+)(@(?P<after>\d+(,\d+)*))?")


def read_schedule(text: str) -> tuple[float, tuple[int, ...]] | None:
    """What a schedule multiplies the learning rate by, and after how many epochs, () for each of
    them; (0, ()) stands for the cosine.  None for what is none."""
    if text == "cosine":
        return 0.0, ()
    found = _SCHEDULE.fullmatch(text)
    if found is None:
        return None
    after = tuple(int(epoch) for epoch in (found["after"] or "").split(",") if epoch)
    factor = float(found["factor"])
    grows = list(after) == sorted(set(after)) and 0 not in after
    return (factor, after) if 0 < factor <= 1 and grows else None


_NAMING = {"typed", "identity", "tuned"}
_OF_OWN_DATA = ("dataset_sha256", "image_size", "label_column")
_LATER = {
    f.name: f.default
    for f in itertools.dropwhile(lambda f: f.name != "weights", dataclasses.fields(Config))
}
# Which cell of a study a run is.
_CELL = ("dataset", "dataset_sha256", "loss", "noise", "rate", "map", "seed")
# What no release moves: which run it is, and the content of files.
_FIXED = {
    *("preset", *_CELL),
    *("map_sha256", "labels_sha256", "code_sha256", "features", "features_sha256"),
}
_MACHINE_ONCE = {"threads", "device", "checkpoint_minutes", "compile"}  # in configs of format 1


def beside_preset(config: Config) -> dict[str, Any]:
    """The settings that are not those of today's preset, as `Config.overrides` has them."""
    same = ("dataset", "dataset_sha256", "image_size", "loss", "noise", "rate", "features")
    base = _settings(config.preset, {name: getattr(config, name) for name in same})
    base["features"] = NONE  # they chose the head and its settings, and are a setting themselves
    if config.image_size > 1:  # it chose the network, and is a setting itself, but of a table
        base["image_size"] = 0
    usual = base.pop("params")
    changed = {name: value for name, value in config.params.items() if value != usual[name]}
    if config.network != base["network"] and config.width != _other_width(config.features):
        base["width"] = None  # the preset's width is that of its own network
    base["dropout"] = _other_dropout(config.features, config.network, base["dropout"])
    own = {name: getattr(config, name) for name in base if name not in _CELL}
    order = [f.name for f in dataclasses.fields(config) if f.name in own]
    return {**changed, **{name: own[name] for name in order if own[name] != base[name]}}


def _plain(settings: Settings) -> dict[str, Any]:
    """Settings out of JSON: a value for each part of a loss is a tuple."""
    return {n: tuple(map(float, v)) if isinstance(v, list) else v for n, v in settings.items()}


_VARIANT = re.compile(r"_seed\d+(?:_(?P<text>.*))?$")


def _variant_in(name: str, fields: Settings) -> Settings | None:
    """The variant that the name of a run of format 1 or 2 tells, with the values that it recorded;
    None where it does not, since it was cut."""
    found = _VARIANT.search(name)
    text = (found and found["text"]) or ""
    params = fields["params"]
    known = {**{f.name: f.default for f in dataclasses.fields(Config)}, **fields}
    known |= {param: params.get(param) for param in PARAMS}
    # A value may hold a comma, as the epochs of a schedule do: a key is what a setting is called.
    keys = [key for key in re.findall(r"(?:^|,)(\w+)=", text) if key in known]
    variant = {key: known[key] for key in keys}
    return variant if _safe(settings_text(variant)) == text else None


def settings_text(settings: Settings) -> str:
    """Settings as 'lr=0.5,width=8', for people to read; nothing reads it back."""
    return ",".join(f"{name}={_text(value)}" for name, value in settings.items())


def moved_text(moved: Mapping[str, tuple[Any, Any]]) -> str:
    """Settings that a release moved since a run was begun, as `Config.begun_as` has them."""
    return "; ".join(
        f"{name} is {_text(then)}, and now would be {_text(now)}"
        for name, (then, now) in moved.items()
    )


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _safe(name: str) -> str:
    """A single path component on every system: no separators, no leading dot, not too long."""
    text = re.sub("[/:@]", "-", name.replace("*", "x"))
    # Letters of any script stay, as in the name of a column, written in one way on every system.
    safe = re.sub(r"[^\w.+=,-]+", "", unicodedata.normalize("NFC", text)).lstrip(".")
    if len(safe.encode()) > 150:
        kept = safe.encode()[:140].decode(errors="ignore")
        safe = f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return safe


def _settings(preset: str, given: Settings) -> dict[str, Any]:
    """Every field of a config but `preset`: the preset's for the data set, then what is given."""
    chosen = PRESETS[preset]
    dataset = given.get("dataset", chosen.dataset)
    if given.get("dataset_sha256"):
        of_dataset = _of_own_data(chosen, dataset, given)
    else:
        of_dataset = chosen.per_dataset.get(dataset, {})
    settings = {
        **COMMON,
        **NETWORK.get(dataset, {}),
        **chosen.settings,
        **of_dataset,
        "dataset": dataset,
    }
    features = given.get("features", NONE)
    repaired = loss_name(given.get("loss", settings["loss"])) == REPAIR
    if features != NONE:
        settings |= HEAD
        if given.get("dataset_sha256") and not repaired:
            settings |= chosen.own_head
    if repaired:
        plain = {"warm_start": 0.0, "dropout": 0.0, "weight_ema": 0.0}
        settings |= plain | (REPAIRED_HEAD if features != NONE else {})
    if given.get("network", settings["network"]) != settings["network"]:
        settings["width"] = _other_width(features)
        settings["dropout"] = _other_dropout(features, given["network"], settings["dropout"])
    loss, noise, rate = (given.get(name, settings[name]) for name in ("loss", "noise", "rate"))
    published: dict[str, float] = {}
    if chosen.weights:
        published = published_settings(dataset, loss_name(loss), noise, rate)
    rest = {**published, **given}
    settings |= {name: value for name, value in rest.items() if name not in PARAMS}
    params = {name: value for name, value in given.items() if name in PARAMS}
    try:
        settings["params"] = loss_params(loss, params, published)
    except ValueError as error:
        raise BadInput(str(error)) from None
    settings["loss"] = loss_name(loss)
    return settings


def _other_width(features: str) -> int:
    """The width of a network that is not the preset's, where none is given."""
    return OTHER_WIDTH if features == NONE else HEAD_WIDTH


def _other_dropout(features: str, network: str, usual: float) -> float:
    """The dropout of a network that is not the preset's, where none is given: a preset's for pixels
    or rows only where it takes any."""
    return usual if features != NONE or network in DROPS else 0.0


def _of_own_data(preset: Preset, dataset: str, given: Settings) -> dict[str, Any]:
    """A preset's settings for data of the user's own: those of its own data set, but all images,
    and a network of their size; unless it is a published one that the preset knows."""
    usual = preset.per_dataset.get(preset.dataset, {})
    network = own_network(given.get("image_size", 0))
    settings = {**usual, "train_size": 0, **preset.own, **network}
    settings |= preset.per_dataset.get(dataset, {})
    # Their labels are noisy as they are: more is added only where it is asked for.
    settings["noise"] = "sym" if given.get("rate") else "none"
    return settings


def make_config(
    preset: str = "quick", *, dataset: str | Dataset | None = None, **given: Any
) -> Config:
    """A config from a preset: the preset's settings for the data set, then what is `given`.

    Args:
        preset: Its name. The presets `paper` and `laptop` use the published weights of each
            combination, the others each loss's own.
        dataset: A built-in name, or what `apl.load_data` made of something else; of a small set
            there are more epochs than the preset's, so that a network can learn it at all.
        **given: Fields of `Config`, and loss parameters by name; None means not given.

    Returns:
        The config, every setting filled in.

    Raises:
        BadInput: What is given does not fit.
    """
    require(preset in PRESETS, "preset", preset, ", ".join(PRESETS))
    given = {name: value for name, value in given.items() if value is not None}
    typed = set(given)
    if "=" in given.get("loss", ""):
        typed |= _in_brackets(given["loss"])
    elif "loss" in given:
        given["loss"] = loss_name(given["loss"])
    mine: Dataset | None = None  # the user's own data
    if isinstance(dataset, str):
        if dataset not in DATASETS and not given.get("dataset_sha256"):
            raise no_dataset(dataset)
        given["dataset"] = dataset
    elif dataset is not None:
        given["dataset"] = dataset.name
        if dataset.digest:
            given.update(dataset_sha256=dataset.digest, image_size=dataset.image_size)
            mine = dataset
        if "features" not in given:
            given["features"] = usual_features(dataset, given)
    if "network" in given:
        require_network(given["network"])
    if "noise" in given:
        require(given["noise"] in NOISES, "noise", given["noise"], ", ".join(NOISES))
    settings = _settings(preset, given)
    if mine is not None:
        _fit_to(settings, given, PRESETS[preset], mine)
    _set_noise(settings, PRESETS[preset])
    if settings["labels"]:
        settings["labels_sha256"] = labels_digest(settings["labels"])
    if not (isinstance(dataset, str) or dataset is None or settings["features"] != NONE):
        alone = dataset.kind == "texts" and not dataset.train.images.shape[1]
        require(not alone, "features", NONE, f"tfidf, minilm, st:NAME for {dataset.name}, of texts")
    require_features(settings["features"])
    require_weights(settings["features"], settings["weights"])
    if settings["features"] != NONE:
        settings["features_sha256"] = file_digest(settings["features"], settings["weights"])
    own = own_names(settings)
    if own:
        settings["code_sha256"] = code_digest(own)
    return Config(preset=preset, typed=tuple(sorted(typed)), **settings)


def _fit_to(settings: dict[str, Any], given: Settings, usual: Preset, data: Dataset) -> None:
    """Set what depends on how many samples of the user's own there are: a small set has few steps
    in an epoch, and is learned by heart by a head that nothing holds back."""
    count = settings["train_size"] or len(data.train)
    on_features, repaired = settings["features"] != NONE, settings["loss"] == REPAIR
    if "epochs" not in given:
        steps = max(1, count // max(settings["batch_size"], 1))
        fewest = Preset.own_steps if on_features and repaired else usual.own_steps
        settings["epochs"] = max(settings["epochs"], math.ceil(fewest / steps))
    held = on_features and not repaired and settings["network"] == "linear"
    if held and usual.own_decay and "weight_decay" not in given:
        settings["weight_decay"] = usual.decay_of(count, data.num_classes)
    if held and data.kind == "images" and "components" not in given:
        settings["components"] = usual.components_of(count)


def usual_features(dataset: Dataset, given: Settings) -> str:
    """The features that data of the user's own have where none are asked for: those of photos where
    they are installed, TF-IDF of texts; none of a table, of images where what is asked for needs
    pixels, and of a built-in set."""
    if dataset.kind == "texts":
        return "tfidf"
    if not dataset.digest or dataset.kind != "images" or _needs_pixels(given):
        return NONE
    return default_of(tuple(dataset.train.images.shape[1:]))


def _needs_pixels(given: Settings) -> bool:
    asked = any(given.get(name) for name in ("augment", "crop_size", "colour", "weights"))
    return asked or (given.get("network") or HEADS[0]) not in HEADS


def usual_side(given: Settings) -> int:
    """Pixels a side that images of the user's own are decoded to where they differ in size and none
    is asked for, by the settings that were given."""
    features = given.get("features")
    if features is None:
        features = "lite0" if is_installed("lite0") and not _needs_pixels(given) else NONE
    return side_of(features)


def own_names(settings: Settings) -> list[str]:
    """The `module:name`s of the user's own among settings: network, loss and features."""
    own = [settings[name] for name in ("network", "loss") if is_own(settings[name])]
    return own + [name for name in (settings["features"],) if is_own_function(name)]


def _set_noise(settings: dict[str, Any], preset: Preset) -> None:
    """Complete rate and map, which follow from the kind of noise where it has none of its own."""
    kind = NOISES[settings["noise"]]
    if not kind.rated:
        settings["rate"] = 0.0
    usual = preset.map_of(settings["dataset"], settings["noise"])
    settings["map"] = (settings["map"] or usual) if kind.maps else ""
    if kind.maps and not settings["map"]:
        raise BadInput(f"{settings['noise']} noise needs --map FILE: {kind.file}")
    if settings["noise"] == "human":
        named = str(settings["dataset"])
        human = named in HUMAN and not settings.get("dataset_sha256")
        require(human, "dataset", named, f"{' or '.join(HUMAN)} with human noise")
        names = HUMAN[named]
        require(settings["map"] in names, "map", settings["map"], ", ".join(names))
    elif kind.maps and settings["map"] not in kind.names:
        require(bool(kind.file), "map", settings["map"], kind.maps)
        settings["map_sha256"] = map_digest(settings["map"], settings["noise"])


def _in_brackets(loss: str) -> set[str]:
    """The parameters that a loss has in brackets, and so were typed."""
    try:
        return {name for part in parse_loss(loss) for name in part.own}
    except ValueError as error:
        raise BadInput(str(error)) from None


def require_network(name: str) -> None:
    """Raise BadInput unless the name is one of ours, a library's or `module:Class`."""
    outside = re.fullmatch(r"[\w.]+:[\w./-]+", name) is not None
    accepted = f"{', '.join(NETWORKS)}, torchvision:NAME, timm:NAME, module:Class"
    require(name in NETWORKS or outside, "network", name, accepted)


def code_digest(names: Sequence[str]) -> str:
    """The sha256 of the modules that these `module:name`s were typed from."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(source_digest(name).encode())
    return digest.hexdigest()


def labels_digest(file: str) -> str:
    """The sha256 of a file of labels; BadInput where there is none."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"no labels at {file!r}: {error.strerror}") from None


def map_digest(file: str, noise: str) -> str:
    """The sha256 of a map's content; BadInput where there is no such file."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        kind = NOISES[noise]
        known = {"matrix": "transition matrix at", "file": "labels at", "asym": "noise map"}
        what = known.get(noise, "probabilities at")
        raise BadInput(f"no {what} {file!r}; accepted: {kind.maps}") from None
