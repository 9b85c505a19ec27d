"""DECA's networks: the checkpoint's names, sizes, and what depends on them."""

import pytest
import torch
from torch.nn import functional
from torchvision.models import resnet50

from deca.networks import CODE_SIZES, N_CODES, Generator, ResnetEncoder, split_codes


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return ResnetEncoder(236).eval()


def test_encoder_names_are_resnet50s_without_classifier(encoder):
    with torch.device("meta"):
        reference = resnet50(weights=None).state_dict()
    names = {f"encoder.{name}": tuple(value.shape) for name, value in reference.items()
             if not name.startswith("fc.")}
    names |= {"layers.0.weight": (1024, 2048), "layers.0.bias": (1024,),
              "layers.2.weight": (236, 1024), "layers.2.bias": (236,)}
    assert {name: tuple(value.shape) for name, value in encoder.state_dict().items()} == names


def test_encoder_is_pooled_features_then_two_layers(encoder):
    images = torch.rand(2, 3, 224, 224)
    net = encoder.encoder
    with torch.no_grad():
        x = net.maxpool(functional.relu(net.bn1(net.conv1(images))))
        x = net.layer4(net.layer3(net.layer2(net.layer1(x))))
        assert x.shape == (2, 2048, 7, 7)
        x = functional.relu(encoder.layers[0](functional.avg_pool2d(x, 7).flatten(1)))
        torch.testing.assert_close(encoder(images), encoder.layers[2](x), rtol=1e-4, atol=1e-6)


def test_decoder_names_and_shapes():
    shapes = {name: tuple(value.shape) for name, value in Generator(181).state_dict().items()}
    assert shapes.pop("l1.0.weight") == (8192, 181) and shapes.pop("l1.0.bias") == (8192,)
    norms = {0: 128, 3: 128, 7: 64, 11: 64, 15: 32, 19: 16}
    convs = {2: (128, 128), 6: (64, 128), 10: (64, 64), 14: (32, 64), 18: (16, 32), 21: (1, 16)}
    expected = {}
    for index, width in norms.items():
        for name in ("weight", "bias", "running_mean", "running_var"):
            expected[f"conv_blocks.{index}.{name}"] = (width,)
        expected[f"conv_blocks.{index}.num_batches_tracked"] = ()
    for index, (n_out, n_in) in convs.items():
        expected[f"conv_blocks.{index}.weight"] = (n_out, n_in, 3, 3)
        expected[f"conv_blocks.{index}.bias"] = (n_out,)
    assert shapes == expected


def by_functions(state, latent):
    """SPEC section 4's list of layers, written out with plain functions."""
    def norm(x, index, eps):
        name = f"conv_blocks.{index}."
        return functional.batch_norm(x, state[name + "running_mean"], state[name + "running_var"],
                                     state[name + "weight"], state[name + "bias"], eps=eps)
    x = functional.linear(latent, state["l1.0.weight"], state["l1.0.bias"]).reshape(-1, 128, 8, 8)
    x = norm(x, 0, 1e-5)
    for index in (2, 6, 10, 14, 18):
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        name = f"conv_blocks.{index}."
        x = functional.conv2d(x, state[name + "weight"], state[name + "bias"], padding=1)
        x = functional.leaky_relu(norm(x, index + 1, 0.8), 0.2)
    x = functional.conv2d(x, state["conv_blocks.21.weight"], state["conv_blocks.21.bias"], padding=1)
    return 0.01 * torch.tanh(x)


def test_decoder_equals_the_listed_layers():
    torch.manual_seed(1)
    decoder = Generator(181).eval()
    for name, value in decoder.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.2)
        elif name.endswith("running_var"):
            value.uniform_(0.1, 2)
    with torch.no_grad():
        latent = torch.randn(2, 181)
        found = decoder(latent)
        assert found.shape == (2, 1, 256, 256) and found.abs().max() <= 0.01
        torch.testing.assert_close(found, by_functions(decoder.state_dict(), latent), rtol=1e-4, atol=1e-7)


def test_codes_split_in_the_papers_order():
    assert N_CODES == 236
    codes = split_codes(torch.arange(2 * 236.0).reshape(2, 236))
    assert {name: tuple(value.shape) for name, value in codes.items()} == {
        "shape": (2, 100), "tex": (2, 50), "exp": (2, 50), "pose": (2, 6), "cam": (2, 3), "light": (2, 9, 3)}
    assert list(CODE_SIZES) == ["shape", "tex", "exp", "pose", "cam", "light"]
    first = {name: int(value[0].flatten()[0]) for name, value in codes.items()}
    assert first == {"shape": 0, "tex": 100, "exp": 150, "pose": 200, "cam": 206, "light": 209}
    assert codes["light"][0, 1, 2] == 209 + 5
