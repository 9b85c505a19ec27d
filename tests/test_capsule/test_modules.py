"""The networks: capsule layers by hand, shapes, names, freezing, inflation, ImageNet weights."""

import urllib.error

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torchvision.models import ResNet18_Weights, resnet18, vgg11

from capsule.fold import Training
from capsule.learner import Learner
from capsule.loss import me_loss
from capsule.modules import (
    VGG,
    CoordAttention,
    MECapsule,
    MECapsuleNet,
    MECapsuleNetDual,
    MECapsuleNetDualCA,
    PrimaryCapsule,
    ResNet,
    backbone,
    network,
    squash,
)
from capsule.modules.layers import PatchProduct
from capsule.modules.registry import NETWORKS, Network, unmatched
from common.errors import InputError
from common.tensors import save_tensors

SMALL = {"pretrained": False, "width": 0.125}    # same layers, few channels
SIDE = 136                                       # leaves one place of primary capsules


def test_squash_by_hand():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.6, -0.8]])
    expected = torch.tensor([[3 / 5 * 25 / 26, 4 / 5 * 25 / 26], [0, 0], [0.3, -0.4]])
    assert torch.allclose(squash(vectors), expected)


def test_squash_of_zero_has_finite_gradient():
    vectors = torch.zeros(2, 8, requires_grad=True)
    squash(vectors).sum().backward()
    assert torch.isfinite(vectors.grad).all()


def routed_by_loops(u, weight, routings):
    """SPEC section 6 written out with numpy loops: u (in, d), weight (out, in, D, d) → v (out, D)."""
    predictions = np.einsum("oiDd,id->oiD", weight, u)
    logits = np.zeros(predictions.shape[:2])
    for turn in range(routings):
        coupling = np.exp(logits) / np.exp(logits).sum(0)
        outputs = []
        for o in range(len(weight)):
            s = sum(coupling[o, i] * predictions[o, i] for i in range(len(u)))
            length = np.linalg.norm(s)
            outputs.append(length**2 / (1 + length**2) * s / (length + 1e-8))
        if turn < routings - 1:
            for o in range(len(weight)):
                logits[o] += predictions[o] @ outputs[o]
    return np.array(outputs)


@pytest.mark.parametrize("routings", [1, 2, 3])
def test_routing_is_the_written_out_one(routings):
    torch.manual_seed(0)
    layer = MECapsule(6, 4, 3, 5, routings).double()
    layer.weight.data *= 100
    u = torch.randn(2, 6, 4, dtype=torch.float64)
    expected = [routed_by_loops(one.numpy(), layer.weight.detach().numpy(), routings) for one in u]
    assert np.allclose(layer(u).detach().numpy(), expected)


def test_gradient_flows_through_the_last_round_only():
    torch.manual_seed(0)
    layer = MECapsule(6, 4, 3, 5, 3)
    layer.weight.data *= 100
    u = torch.randn(2, 6, 4)
    with torch.no_grad():    # couplings of the last round, from its own outputs with fewer rounds
        predictions = torch.einsum("oiDd,bid->boiD", layer.weight, u)
        logits = torch.zeros(2, 3, 6)
        for _ in range(2):
            outputs = squash((logits.softmax(1).unsqueeze(-1) * predictions).sum(2))
            logits = logits + torch.einsum("boiD,boD->boi", predictions, outputs)
        coupling = logits.softmax(1)
    layer(u).sum().backward()
    weight = layer.weight.detach().clone().requires_grad_()
    squash(torch.einsum("boi,oiDd,bid->boD", coupling, weight, u)).sum().backward()
    assert torch.allclose(layer.weight.grad, weight.grad, atol=1e-6)


def test_primary_capsules_read_channels_last():
    layer = PrimaryCapsule(2, 16, 8, 1)
    x = torch.randn(1, 2, 2, 2)
    maps = layer.conv2d(x)
    capsules = layer(x)
    assert capsules.shape == (1, 8, 8)
    assert torch.allclose(capsules[0, 3], squash(maps[0, 8:, 0, 1]))      # row 0, column 1, second group
    assert torch.allclose(capsules[0, 4], squash(maps[0, :8, 1, 0]))


def test_a_convolution_as_a_matrix_product():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 12, 14, dtype=torch.double), torch.randn(6, 5, 3, 4, dtype=torch.double)
    leaves = x.requires_grad_(), weight.requires_grad_()
    found, expected = PatchProduct.apply(*leaves, 2, 3), torch.nn.functional.conv2d(*leaves, stride=(2, 3))
    assert torch.allclose(found, expected)
    upstream = torch.randn_like(expected)
    for own, right in zip(torch.autograd.grad(found, leaves, upstream),
                          torch.autograd.grad(expected, leaves, upstream), strict=True):
        assert torch.allclose(own, right)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_primary_capsules_on_a_gpu_are_those_of_a_cpu():
    torch.manual_seed(0)
    layer, x = PrimaryCapsule(16, 32, 8, 9, stride=2), torch.randn(3, 16, 20, 20)
    expected = layer(x)
    assert torch.allclose(layer.cuda()(x.cuda()).cpu(), expected, atol=1e-3)    # TF32


@pytest.mark.parametrize("conv_name", ["resnet", "vgg"])
def test_full_network_has_the_sizes_and_names_of_the_paper(conv_name):
    with torch.device("meta"):
        model = MECapsuleNet((3, 224, 224), 3, 3, conv_name=conv_name, is_freeze=True, pretrained=False)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes["digitcaps.weight"] == (3, 1152, 16, 8)
    assert shapes["conv1.weight"] == shapes["primarycaps.conv2d.weight"] == (256, 256, 9, 9)
    with torch.device("meta"):
        full = resnet18() if conv_name == "resnet" else vgg11(init_weights=False)
    prefix, left_out = "", ("layer4", "fc")
    if conv_name == "vgg":
        prefix, left_out = "features.", ("features.1", "classifier")    # 10 is a pool; 11 on are not ours
    theirs = {"conv.model." + name.removeprefix(prefix): tuple(value.shape)
              for name, value in full.state_dict().items() if not name.startswith(left_out)}
    assert {name: shape for name, shape in shapes.items() if name.startswith("conv.")} == theirs
    assert len(shapes) - len(theirs) == 5


@pytest.fixture
def imagenet(monkeypatch):
    """Stand-ins for torchvision's weights, random."""
    torch.manual_seed(0)
    weights = {"resnet": resnet18().state_dict(), "vgg": vgg11(init_weights=False).state_dict()}
    monkeypatch.setattr(backbone, "imagenet_weights", weights.get)
    return weights


def test_pretrained_first_layers_are_frozen_where_asked(imagenet):
    resnet, inflated = MECapsuleNet((3, SIDE, SIDE), 3), MECapsuleNet((39, SIDE, SIDE), 3)
    vgg, free = MECapsuleNet((3, SIDE, SIDE), 3, conv_name="vgg"), MECapsuleNet((3, SIDE, SIDE), 3,
                                                                                is_freeze=False)
    trained = [[p.requires_grad for p in model.parameters()] for model in (resnet, inflated, vgg, free)]
    assert trained[0] == [False] * 15 + [True] * (len(trained[0]) - 15)
    assert trained[1] == [True] + [False] * 14 + [True] * (len(trained[1]) - 15)
    assert trained[2] == [False] * 4 + [True] * (len(trained[2]) - 4)
    assert all(trained[3])
    assert [p.requires_grad for p in ResNet(3).parameters()][:16] == [False] * 15 + [True]
    assert all(p.requires_grad for p in ResNet(3, is_freeze=False).parameters())


@pytest.mark.parametrize("name", ["resnet", "vgg", "ResNet", "MECapsuleNetDualCA"])
def test_random_layers_are_never_frozen(name):
    channels = (3, 39) if "Dual" in name else (3,)
    for options in ({"pretrained": False}, {"quick": True}):
        model, found = network(name, 3, freeze=True, **options).make(channels)
        assert found == "none" and all(p.requires_grad for p in model.parameters())


def test_a_network_starts_from_a_state_dict_by_name(tmp_path):
    old, _ = network("resnet", 3, quick=True).make()
    state = old.state_dict()
    del state["digitcaps.weight"]
    save_tensors(tmp_path / "old.pt", {**state, "something.else": torch.zeros(2)})
    net = network("resnet", 5, freeze=True, quick=True, weights=tmp_path / "old.pt")
    model, found = net.make()
    assert torch.equal(model.conv.model.layer3[0].conv1.weight, old.conv.model.layer3[0].conv1.weight)
    assert found.startswith("old.pt ") and found.endswith(f"{len(state)} of {len(state) + 1} tensors")
    assert sum(not p.requires_grad for p in model.parameters()) == 15          # they hold its weights
    assert unmatched(model, net.tensors) == (["something.else"], ["digitcaps.weight"])
    with pytest.raises(InputError, match="none of its tensors"):
        network("vgg", 3, quick=True, weights=_file(tmp_path / "other.pt")).make()
    full = {name: torch.zeros(*shape[:1], 99) if shape else torch.tensor(0)     # only its counters fit
            for name, shape in ((name, value.shape) for name, value in state.items())}
    save_tensors(tmp_path / "full.pt", full)
    with pytest.raises(InputError, match="none of its tensors has a name and shape of resnet, as --quick"):
        network("resnet", 3, quick=True, weights=tmp_path / "full.pt").make()
    with pytest.raises(InputError, match="no such network"):
        network("vgg19", 3)


def test_weights_from_before_batch_norm_had_a_counter_are_frozen_too(tmp_path):
    state = network("resnet", 3, quick=True).make()[0].state_dict()
    save_tensors(tmp_path / "old.pt", {name: value for name, value in state.items() if value.dim()})
    model, _ = network("resnet", 3, freeze=True, quick=True, weights=tmp_path / "old.pt").make()
    assert sum(not p.requires_grad for p in model.parameters()) == 15


def test_small_networks_ask_for_no_pretrained_weights():
    assert [network(name, 3, pretrained=True).asked for name in ("STSTNet", "SVM", "resnet")] == [
        "none", "none", "ImageNet"]


def _file(path):
    save_tensors(path, {"weight": torch.zeros(3)})
    return path


def test_crop_and_views_side_by_side_are_42_channels():
    net = network("resnet", 3, quick=True, joined=True)
    model, _ = net.make((3, 39))
    assert model.conv.in_channels == 42
    crop, views = torch.rand(2, 3, 152, 152), torch.rand(2, 13, 152, 152)
    (both,) = net.prepared([crop, views])
    assert both.shape == (2, 42, 152, 152) and torch.equal(both[:, :3], crop)
    assert torch.equal(both[:, 3:].view(2, 13, 3, 152, 152), views[:, :, None].expand(-1, -1, 3, -1, -1))
    assert model.eval()(both).shape == (2, 3)


def test_training_moves_what_is_free_and_nothing_else(imagenet):
    torch.manual_seed(0)
    model = MECapsuleNet((3, SIDE, SIDE), 3)
    x = torch.rand(2, 3, SIDE, SIDE)
    before = {name: value.clone() for name, value in model.named_parameters()}
    kept, seen = x.clone(), []
    for layer in (model.conv.model.layer1, model.conv.model.layer2):
        layer.register_forward_hook(lambda layer, x, y: seen.append(y.requires_grad))
    model(x).sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    for name, value in model.named_parameters():
        frozen = name.startswith(("conv.model.conv1", "conv.model.bn1", "conv.model.layer1"))
        assert torch.equal(value, before[name]) == frozen, name
    assert torch.equal(x, kept) and seen == [False, True]      # no graph is kept for the frozen layers


@pytest.mark.parametrize("conv_name", ["resnet", "vgg"])
@pytest.mark.parametrize("channels", [6, 39])
def test_inflated_network_sees_equal_pictures_as_one(conv_name, channels):
    torch.manual_seed(0)
    single = MECapsuleNet((3, SIDE, SIDE), 3, conv_name=conv_name, **SMALL).eval()
    first = single.conv.model[0]
    wide = backbone.inflated(first, channels)
    x = torch.rand(1, 3, SIDE, SIDE)
    assert wide.weight.shape[1] == channels
    assert torch.allclose(wide(x.repeat(1, channels // 3, 1, 1)), first(x), atol=1e-5)


@pytest.mark.parametrize("conv_name", ["resnet", "vgg"])
def test_grey_planes_are_read_as_repeated_rgb(conv_name):
    torch.manual_seed(0)
    model = MECapsuleNet((6, SIDE, SIDE), 3, conv_name=conv_name, **SMALL).eval()
    model.conv.model[0].weight.data.normal_(0, 0.1)    # planes with kernels of their own
    grey = torch.rand(2, 2, SIDE, SIDE)
    rgb = grey.repeat_interleave(3, 1)
    assert torch.allclose(model.conv(grey), model.conv(rgb), atol=1e-4)
    gradients = []
    for x in (grey, rgb):
        model.zero_grad()
        model.conv(x).square().mean().backward()
        gradients.append(model.conv.model[0].weight.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5 * gradients[0].abs().max().item())


@pytest.mark.parametrize("conv_name,side", [("resnet", 129), ("vgg", 136), ("resnet", 152)])
def test_smaller_inputs(conv_name, side):
    model = MECapsuleNet((3, side, side + 8), 4, conv_name=conv_name, **SMALL)
    lengths = model(torch.rand(2, 3, side, side + 8))
    assert lengths.shape == (2, 4)
    assert bool((lengths >= 0).all()) and bool((lengths < 1).all())


@pytest.mark.parametrize("size,classes,options", [
    ((3, 128, 224), 3, {}), ((3, 135, 224), 3, {"conv_name": "vgg"}), ((4, 224, 224), 3, {}),
    ((0, 224, 224), 3, {}), ((3, 224, 224), 1, {}), ((3, 224, 224), 3, {"conv_name": "alexnet"})])
def test_impossible_networks_are_refused(size, classes, options):
    with pytest.raises(InputError):
        MECapsuleNet(size, classes, **options, **SMALL)


def test_primary_capsules_see_the_first_convolution_after_a_relu():
    torch.manual_seed(0)
    model, seen = MECapsuleNet((3, SIDE, SIDE), 3, **SMALL), []
    model.primarycaps.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    model(torch.rand(2, 3, SIDE, SIDE))
    assert seen[0].min() == 0 and (seen[0] == 0).any() and (seen[0] > 0).any()


def test_routing_weights_start_small():
    torch.manual_seed(0)
    weight = MECapsule(100, 8, 3, 16).weight                # 38400 numbers
    assert weight.std().item() == pytest.approx(0.01, rel=0.05) and abs(weight.mean()) < 0.0005


def test_fewer_primary_capsules_start_with_larger_routing_weights():
    """A sum over n vectors of size s is as long as one over 1152 of size .01 where s = .01 √(1152 / n)."""
    torch.manual_seed(0)
    weight = MECapsuleNet((3, SIDE, SIDE), 3, **SMALL).digitcaps.weight
    assert weight.shape == (3, 4, 16, 8)                    # one place, 32 channels: 4 capsules of 8
    assert weight.std().item() == pytest.approx(0.01 * 288 ** 0.5, rel=0.1)


def test_convolutions_start_with_he_weights_of_what_goes_out():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(16, 64, 3)
    backbone.initialise(layer)
    assert layer.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)     # not of 16 · 9
    assert not layer.bias.any()


def test_adam_has_torchs_defaults_and_no_weight_decay():
    net = network("MotionCapsuleNet", 3)
    learner = Learner(net.make()[0], Training(net, 1, 32, 1e-3, 1.0, 9), torch.device("cpu"))
    found = learner.optimiser.defaults
    assert type(learner.optimiser) is torch.optim.Adam
    assert (found["weight_decay"], found["betas"], found["eps"]) == (0, (0.9, 0.999), 1e-8)
    assert (found["lr"], found["amsgrad"]) == (1e-3, False)


LOSSES = {"MECapsuleNet": me_loss, "resnet": me_loss, "vgg": me_loss, "MECapsuleNetDual": me_loss,
          "MECapsuleNetDualCA": me_loss, "MotionCapsuleNet": me_loss, "ResNet": cross_entropy,
          "VGG": cross_entropy, "STSTNet": cross_entropy, "SVM": None, "ActionUnitSVM": None}


@pytest.mark.parametrize("name", NETWORKS)
def test_capsules_learn_by_margins_and_the_others_by_cross_entropy(name):
    assert network(name, 3).loss is LOSSES[name]


def test_no_round_of_routing_is_refused():
    with pytest.raises(ValueError, match="routings 0"):
        MECapsule(4, 8, 3, 16, 0)


def test_bfloat16_keeps_capsules_in_float32():
    torch.manual_seed(0)
    model = MECapsuleNet((3, SIDE, SIDE), 3, **SMALL).eval()
    x = torch.rand(2, 3, SIDE, SIDE)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x)
    assert half.dtype == torch.float32
    assert torch.allclose(half, model(x), atol=0.05)


@pytest.mark.parametrize("kind", [MECapsuleNetDual, MECapsuleNetDualCA])
def test_dual_network(kind):
    torch.manual_seed(0)
    model = kind(5, input_size=(SIDE, SIDE), **SMALL)
    crop, views = torch.rand(2, 3, SIDE, SIDE), torch.rand(2, 13, SIDE, SIDE)
    model.eval()
    lengths = model(crop, views)
    assert lengths.shape == (2, 5)
    assert torch.allclose(lengths, model(crop, views.repeat_interleave(3, 1)), atol=1e-4)
    lengths.sum().backward()
    for stream in (model.first_conv, model.second_conv):                # random layers are trained
        assert stream.model.conv1.weight.grad.abs().sum() > 0
    assert model.pretrained is False


def test_each_stream_of_the_dual_network_has_an_attention_of_its_own():
    torch.manual_seed(0)
    model = MECapsuleNetDualCA(3, input_size=(SIDE, SIDE), **SMALL)
    model(torch.rand(2, 3, SIDE, SIDE), torch.rand(2, 13, SIDE, SIDE)).sum().backward()
    for attention in (model.first_attention, model.second_attention):
        for layer in (attention.conv1, attention.conv_h, attention.conv_w):
            assert layer.weight.grad is not None and layer.weight.grad.any()


def test_full_dual_network_shapes():
    model = MECapsuleNetDualCA(3, pretrained=False).eval()
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 224, 224), torch.rand(1, 39, 224, 224)).shape == (1, 3)
    assert model.conv1.weight.shape == (256, 512, 9, 9)
    assert model.digitcaps.weight.shape == (3, 1152, 16, 8)
    assert model.first_attention.conv1.weight.shape == (8, 256, 1, 1)


def test_coordinate_attention_by_hand():
    torch.manual_seed(0)
    layer = CoordAttention(4, 4).eval()
    x = torch.randn(2, 4, 3, 5)

    def gate(means, head):    # (B, C, n) → (B, C, n)
        middle = torch.einsum("oc,bcn->bon", layer.conv1.weight[:, :, 0, 0], means)
        middle = middle + layer.conv1.bias[:, None]
        middle = middle / (1 + layer.bn1.eps) ** 0.5
        middle = middle * (middle + 3).clamp(0, 6) / 6
        return (torch.einsum("oc,bcn->bon", head.weight[:, :, 0, 0], middle) + head.bias[:, None]).sigmoid()

    expected = x * gate(x.mean(3), layer.conv_h)[:, :, :, None] * gate(x.mean(2), layer.conv_w)[:, :, None]
    assert layer.conv1.out_channels == 8    # never fewer than 8
    assert torch.allclose(layer(x), expected, atol=1e-6)


@pytest.mark.parametrize("kind,theirs", [(ResNet, resnet18), (VGG, vgg11)])
def test_baselines_have_torchvisions_names(kind, theirs):
    with torch.device("meta"):
        model, full = kind(3, pretrained=False), theirs(num_classes=3)
        assert model(torch.rand(2, 3, 224, 224)).shape == (2, 3)
    ours = {name: value.shape for name, value in model.state_dict().items()}
    assert ours == {"model." + name: value.shape for name, value in full.state_dict().items()}


@pytest.mark.parametrize("kind", [ResNet, VGG])
def test_baseline_outputs(kind):
    torch.manual_seed(0)
    x = torch.rand(3, 3, 96, 96)
    model = kind(3, **SMALL).eval()
    probabilities = model(x)
    assert torch.allclose(probabilities.sum(1), torch.ones(3))
    model.logits = True
    assert torch.allclose(model(x).softmax(1), probabilities)
    assert all(p.requires_grad for p in model.parameters())      # random layers are trained


@pytest.mark.parametrize("kind", ["ResNet", "VGG"])
def test_scores_are_shares_with_logits_too(kind):
    """Logits that all are above 0 look like capsule lengths; late fusion would divide them by their sum."""
    logits = torch.tensor([[0.05, 0.02, 0.01]])
    assert torch.allclose(Network(kind, 3, logits=True).scores(logits), logits.softmax(1))
    assert torch.equal(Network(kind, 3).scores(logits), logits)       # probabilities already


def test_weights_that_cannot_be_had_are_said_once(monkeypatch, caplog):
    def unreachable(self, **options):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", unreachable)
    backbone.imagenet_weights.cache_clear()
    models = [MECapsuleNet((3, SIDE, SIDE), 3) for _ in range(2)]
    backbone.imagenet_weights.cache_clear()
    assert [model.pretrained for model in models] == [False, False]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1 and "no route" in messages[0] and "\n" not in messages[0]


def test_imagenet_weights_are_loaded_and_inflated(monkeypatch):
    torch.manual_seed(0)
    weights = resnet18().state_dict()
    monkeypatch.setattr(backbone, "imagenet_weights", lambda name: weights)
    model = MECapsuleNet((6, SIDE, SIDE), 3)
    assert model.pretrained is True
    state = model.state_dict()
    assert torch.equal(state["conv.model.layer3.1.bn2.weight"], weights["layer3.1.bn2.weight"])
    assert torch.equal(state["conv.model.layer2.0.conv1.weight"], weights["layer2.0.conv1.weight"])
    assert torch.allclose(state["conv.model.conv1.weight"][:, 3:], weights["conv1.weight"] / 2)
    assert ResNet(1000).model.fc.weight.shape == weights["fc.weight"].shape
    assert MECapsuleNet((3, SIDE, SIDE), 3, width=0.125).pretrained is False
