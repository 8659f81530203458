"""Networks by name: torchvision's, timm's and the user's own, and code the user typed."""

from __future__ import annotations

import hashlib
import itertools
import sys
import textwrap
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from apl.errors import BadInput
from apl.training.networks import make_network, replace_head
from apl.usercode import look_up, source_digest

Write = Callable[..., str]
numbers = itertools.count()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module of the user's into the current folder, and says its name, a new one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def module(text: str) -> str:
        name = f"mine{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        return name

    return module


def own(name: str, shape: tuple[int, ...] = (8, 8, 3), classes: int = 5) -> nn.Module:
    return make_network(name, shape, classes, 64, imports=(name,))


# --------------------------------------------------------------------------- code the user typed


def test_look_up_imports_from_the_current_folder(write: Write) -> None:
    name = write("def soft(x):\n    return x + 1\n")
    assert look_up(f"{name}:soft")(1) == 2
    assert look_up("collections:OrderedDict") is __import__("collections").OrderedDict


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no module:name, such as nets.mine:Net"),
        ("json", "'json' is no module:name"),
        (":Net", "':Net' is no module:name"),
        ("nets/mine.py:Net", "'nets/mine.py:Net' is no module:name, such as nets.mine:Net"),
        ("nowhere:Net", "there is no module 'nowhere' in this folder or among what is installed"),
        ("json.nowhere:Net", "there is no module 'json.nowhere'"),
        ("json.decoder.x:Net", "there is no module 'json.decoder.x'"),
        ("..json:Net", "there is no module '..json'"),
        ("json:", "'json' has no '' (given 'json:')"),
        ("json:JSONDecoderr", "'json' has no 'JSONDecoderr'"),
        ("json:dmps", "(did you mean 'dumps' or 'dump'?)"),
    ],
)
def test_what_can_not_be_looked_up(write: Write, text: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        look_up(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\n1 / 0\n", "can't be imported: ZeroDivisionError: division by zero (M.py, line 2)"),
        ("def f()\n    pass\n", "can't be imported: SyntaxError: expected ':' (M.py, line 1)"),
        (
            "x = 1\nimport nowhere_to_be_found\n",
            "ModuleNotFoundError: No module named 'nowhere_to_be_found' (M.py, line 2)",
        ),
        ("import sys\nsys.exit('usage: me')\n", "SystemExit: usage: me (M.py, line 2)"),
        ("raise ValueError('two\\nlines')\n", "ValueError: two lines (M.py, line 1)"),
    ],
)
def test_an_error_inside_a_module_is_its_own_with_the_line(
    write: Write, source: str, message: str
) -> None:
    name = write(source)
    with pytest.raises(BadInput) as caught:
        look_up(f"{name}:f")
    assert message.replace("M.py", f"{name}.py") in str(caught.value)


def test_the_digest_of_code_runs_none_of_it(write: Write, tmp_path: Path) -> None:
    source = "raise SystemExit('run')\n"
    name = write(source)
    assert source_digest(f"{name}:x") == hashlib.sha256(source.encode()).hexdigest()
    package = tmp_path / f"{name}_package"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    (package / "nets.py").write_text("x = 1\n")
    inner = source_digest(f"{package.name}.nets:x")
    assert inner == hashlib.sha256(b"x = 1\n").hexdigest()
    assert not {name, package.name} & set(sys.modules)
    (package / "nets.py").write_text("x = 2\n")
    assert source_digest(f"{package.name}.nets:x") != inner
    for text, problem in (("nowhere:x", "no module 'nowhere'"), ("sys:x", "no source")):
        with pytest.raises(BadInput, match=problem):
            source_digest(text)


# ----------------------------------------------------------------------------- torchvision, timm


def last_layers(network: nn.Module) -> list[nn.Module]:
    return [each for each in network.modules() if isinstance(each, (nn.Linear, nn.Conv2d))]


FAMILIES = [  # the smallest of each kind of last layer
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf"),
    *("resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11", "vit_b_16"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_layer_is_found_whatever_it_is_called(name: str) -> None:
    """As built for 7 classes, so is one whose layer for 1,000 was replaced (without memory)."""
    # Regnets compute their widths with tensors, which must be somewhere.
    device = "cpu" if name.startswith("regnet") else "meta"
    with torch.device(device):
        plain = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        replaced, built = (models.get_model(name, num_classes=k, **plain) for k in (1000, 7))
        replace_head(replaced, 7)
    for network in (replaced, built):
        for auxiliary in ("aux1", "aux2", "AuxLogits"):  # which we leave out
            if hasattr(network, auxiliary):
                setattr(network, auxiliary, None)
    shapes = [{k: v.shape for k, v in each.state_dict().items()} for each in (replaced, built)]
    assert shapes[0] == shapes[1]
    side = {"inception_v3": 299}.get(name, 224)
    images = torch.zeros(2, 3, side, side, device=device)
    assert replaced.eval()(images).shape == (2, 7)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_torchvision_network_trains(channels: int) -> None:
    torch.manual_seed(0)
    network = make_network("torchvision:resnet18", (32, 32, channels), 7, 64)
    assert network.training
    images = torch.randn(2, channels, 32, 32).to(memory_format=torch.channels_last)
    logits = network(images)
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    assert network.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_it_begins_as_torchvision_s_does_and_trying_it_leaves_no_trace() -> None:
    torch.manual_seed(0)
    ours = make_network("torchvision:shufflenet_v2_x0_5", (32, 32, 3), 10, 64)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    theirs = models.shufflenet_v2_x0_5(num_classes=10)
    assert torch.equal(state, torch.get_rng_state())
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_a_grey_image_is_three_equal_channels() -> None:
    torch.manual_seed(0)
    grey = make_network("torchvision:squeezenet1_1", (32, 32, 1), 4, 64).eval()
    torch.manual_seed(0)
    colour = make_network("torchvision:squeezenet1_1", (32, 32, 3), 4, 64).eval()
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("googlenet", 32), ("inception_v3", 75)])
def test_auxiliary_outputs_are_left_out(name: str, side: int) -> None:
    network = make_network(f"torchvision:{name}", (side, side, 1), 4, 64).train()
    logits = network(torch.randn(2, 1, side, side))
    assert logits.shape == (2, 4)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_pretrained_weights_that_are_there_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where torchvision keeps what it has downloaded: of the real names and shapes."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(5)
    weights = models.squeezenet1_1().state_dict()
    url = models.SqueezeNet1_1_Weights.DEFAULT.url
    torch.save(weights, folder / url.rsplit("/", 1)[-1])
    network = make_network("torchvision:squeezenet1_1", (32, 32, 3), 4, 64, weights="default")
    got = network.state_dict()
    head = {"classifier.1.weight", "classifier.1.bias"}
    assert got.keys() == weights.keys()
    assert all(torch.equal(got[key], weights[key]) for key in got.keys() - head)
    assert {key: len(got[key]) for key in head} == dict.fromkeys(head, 4)
    plain = make_network("torchvision:squeezenet1_1", (32, 32, 3), 4, 64)
    plain.load_state_dict(got)  # as a run's trained network is made again
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain.eval()(images), network.eval()(images))


@pytest.mark.slow
def test_pretrained_weights_that_can_not_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where connections all go to a proxy that is not there."""
    monkeypatch.setattr(urllib.request, "_opener", None)  # with the proxies it was made with
    nowhere = {"https_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
    for name, value in {"TORCH_HOME": str(tmp_path), **nowhere}.items():
        monkeypatch.setenv(name, value)
    message = "no pretrained weights for torchvision:squeezenet1_1, leave weights out: URLError:"
    with pytest.raises(BadInput, match=f"^{message}"):
        make_network("torchvision:squeezenet1_1", (32, 32, 3), 4, 64, weights="default")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "torchvision:resnet81",
            (32, 32, 3),
            "torchvision has no network 'resnet81' for images (did you mean 'resnet18'",
        ),
        ("torchvision:fcn_resnet50", (32, 32, 3), "no network 'fcn_resnet50' for images"),
        ("torchvision:inception_v3", (32, 32, 3), "fails on inputs of shape [2, 3, 32, 32]: "),
        ("torchvision:resnet18", (4,), "accepted for a table: mlp, linear, module:Class"),
        ("cnn4", (4,), "network is 'cnn4'; accepted for a table: mlp, linear, module:Class"),
        ("cnn44", (8, 8, 1), "unknown network 'cnn44'; accepted: cnn8"),
        ("cnn44", (8, 8, 1), "module:Class (did you mean 'cnn4'"),
    ],
)
def test_names_that_there_are_not(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        make_network(name, shape, 10, 64)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ours_have_no_pretrained_weights() -> None:
    with pytest.raises(BadInput, match="'cnn4' has no pretrained weights"):
        make_network("cnn4", (8, 8, 1), 10, 64, weights="default")
    with pytest.raises(BadInput, match="weights is 'imagenet'; accepted: default"):
        make_network("torchvision:resnet18", (8, 8, 1), 10, 64, weights="imagenet")


def test_timm(write: Write) -> None:
    try:
        import timm  # type: ignore[import-not-found,unused-ignore] # noqa: F401
    except ImportError:
        with pytest.raises(BadInput, match=r"^timm:resnet10t needs timm: pip install timm"):
            make_network("timm:resnet10t", (32, 32, 1), 4, 64)
        return
    network = make_network("timm:resnet10t", (32, 32, 1), 4, 64)
    assert network(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    with pytest.raises(BadInput, match=r"no network 'resnet10tt' \(did you mean 'resnet10t'"):
        make_network("timm:resnet10tt", (32, 32, 1), 4, 64)


# ------------------------------------------------------------------------------------- your own

NET = """
    import torch
    from torch import nn

    torch.manual_seed(99)  # as scripts do

    class Net(nn.Module):
        def __init__(self, num_classes, in_channels=3):
            super().__init__()
            self.conv = nn.Conv2d(in_channels, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.drop = nn.Dropout(0.5)
            self.last = nn.Linear(6 * 64, num_classes)

        def forward(self, x):
            return self.last(self.drop(self.norm(self.conv(x))).flatten(1))
"""


def test_a_network_of_your_own_is_imported_only_where_it_was_typed(write: Write) -> None:
    name = write("raise SystemExit('imported')\n")
    with pytest.raises(BadInput, match=r"imported only where you type it: give it to --network"):
        make_network(f"{name}:Net", (8, 8, 3), 5, 64)
    assert name not in sys.modules


def test_a_network_of_your_own_follows_from_the_seed_and_is_tried_without_a_trace(
    write: Write,
) -> None:
    name = f"{write(NET)}:Net"
    made = []
    for _ in range(2):  # the first one imports the module, which sets a seed of its own
        torch.manual_seed(3)
        made.append(own(name, (8, 8, 1)))
    torch.manual_seed(3)
    plain = look_up(name)(5, in_channels=1)
    state = torch.get_rng_state()
    for network in made:
        assert all(layer.training for layer in network.modules())
        for (key, a), b in zip(
            network.state_dict().items(), plain.state_dict().values(), strict=True
        ):
            assert torch.equal(a, b), key
    torch.manual_seed(3)
    own(name, (8, 8, 1))
    assert torch.equal(state, torch.get_rng_state())


def test_what_a_network_of_your_own_is_called_with(write: Write) -> None:
    module = write(
        """
        from torch import nn

        class Keep(nn.Sequential):
            def __init__(self, given, size, classes):
                super().__init__(nn.Flatten(), nn.Linear(size, classes))
                self.given = given

        class First(Keep):
            def __init__(self, classes):
                super().__init__((classes,), 192, classes)

        def by_name(image_shape, num_classes, depth=2):
            return Keep((image_shape, num_classes), 192, num_classes)

        def by_place_and_name(classes, *, in_channels):
            return Keep((classes, in_channels), 192, classes)

        def any_names(*args, **kwargs):
            return Keep((args, kwargs), 192, args[0])

        def rows(classes, in_channels):
            return Keep((classes, in_channels), in_channels, classes)
        """
    )
    for name, shape, given in (
        ("First", (8, 8, 3), (5,)),
        ("by_name", (8, 8, 3), ((8, 8, 3), 5)),
        ("by_place_and_name", (8, 8, 3), (5, 3)),
        ("any_names", (8, 8, 3), ((5,), {})),
        ("rows", (7,), (5, 7)),
    ):
        assert own(f"{module}:{name}", shape).given == given


def test_a_network_that_needs_the_usual_memory_format_gets_it(write: Write) -> None:
    module = write(
        """
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self, classes):
                super().__init__()
                self.conv, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(384, classes)

            def forward(self, x):
                x = self.conv(x)
                return self.last(x.view(x.size(0), -1))
        """
    )
    torch.manual_seed(0)
    network = own(f"{module}:Net")
    images = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    plain = look_up(f"{module}:Net")(5)
    torch.testing.assert_close(network(images), plain(images.contiguous()))
    network(images).sum().backward()


FAILING = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.last = nn.Linear(10, classes)

        def forward(self, x):
            x = x.flatten(1)
            return self.last(x)

    class Tuple(Net):
        def forward(self, x):
            return x, x

    class Flat(Net):
        def forward(self, x):
            return x.sum((1, 2, 3))

    class Wide(nn.Sequential):
        def __init__(self, classes):
            super().__init__(nn.Flatten(), nn.Linear(192, 9))

    class Asks(Net):
        def __init__(self, classes, depth):
            super().__init__(classes)

    def raises(classes):
        raise KeyError("no")

    def number(classes):
        return classes

    made = Net(5)
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Net", "fails on inputs of shape [2, 3, 8, 8]: RuntimeError: mat1 and mat2"),
        ("Net", "(M.py, line 12)"),
        ("Tuple", "makes a tuple of inputs of shape [2, 3, 8, 8]; accepted: logits [2, 5]"),
        ("Flat", "makes [2] of inputs of shape [2, 3, 8, 8]; accepted: logits [2, 5]"),
        ("Wide", "makes [2, 9] of inputs"),
        ("Asks", "Asks(5) fails: TypeError: "),
        ("raises", "raises(5) fails: KeyError: 'no' (M.py, line 31)"),
        ("number", "made a int; accepted: a torch.nn.Module"),
        ("made", "is a Net; accepted: a class or function that makes a network"),
        ("torch", "is a module; accepted: a class or function"),
        ("Nett", "(did you mean 'Net'?)"),
    ],
)
def test_a_network_of_your_own_that_does_not_fit(write: Write, name: str, message: str) -> None:
    module = write(FAILING)
    with pytest.raises(BadInput) as caught:
        own(f"{module}:{name}")
    assert message.replace("M.py", f"{module}.py") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_takes_an_mlp() -> None:
    torch.manual_seed(0)
    network = make_network("mlp", (6,), 4, 16)
    torch.manual_seed(0)
    of_pixels = make_network("mlp", (1, 6, 1), 4, 16)
    rows = torch.randn(5, 6)
    logits = network(rows)
    assert torch.equal(logits, of_pixels(rows[:, None, None]))
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize(("name", "drops"), [("cnn4", 2), ("cnn5", 2), ("cnn8", 2), ("mlp", 2)])
def test_dropout_stands_before_linear_layers_but_not_on_the_input(name: str, drops: int) -> None:
    made = []
    for dropout in (0.0, 0.5):
        torch.manual_seed(0)
        made.append(make_network(name, (16, 16, 1), 3, 8, dropout=dropout, seed=1))
    plain, dropping = made
    layers = [type(layer).__name__ for layer in dropping.children()]
    assert layers.count("Dropout") == drops
    at = layers.index("Dropout")
    assert (at > 1, layers[at + 1]) == (True, "Linear")
    images = torch.randn(8, 1, 16, 16)
    assert torch.equal(dropping.eval()(images), plain.eval()(images))
    assert not torch.equal(dropping.train()(images), plain.train()(images))
