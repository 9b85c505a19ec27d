"""DECA's three networks (SPEC section 4), with the layer names of the official checkpoint.

Feng, Feng, Black, Bolkart, "Learning an Animatable Detailed 3D Face Model from In-the-Wild Images",
SIGGRAPH 2021.
"""

from torch import nn
from torchvision.models import resnet50

N_SHAPE, N_EXP, N_DETAIL = 100, 50, 128
CODE_SIZES = {"shape": N_SHAPE, "tex": 50, "exp": N_EXP, "pose": 6, "cam": 3, "light": 27}
N_CODES = sum(CODE_SIZES.values())                 # 236 outputs of E_flame
N_DETAIL_INPUT = 3 + N_EXP + N_DETAIL              # 181 = jaw pose, expression, detail


class ResnetEncoder(nn.Module):
    """ResNet-50 without its classifier, then 2048 → 1024 → `outsize`. State-dict names: SPEC section 4."""

    def __init__(self, outsize):
        super().__init__()
        self.encoder = resnet50(weights=None)
        self.encoder.fc = nn.Identity()            # holds no weights, so it adds no name to the state dict
        self.layers = nn.Sequential(nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, outsize))

    def forward(self, images):
        """images (B, 3, 224, 224) RGB in [0, 1], not normalised → (B, outsize)."""
        return self.layers(self.encoder(images))


class Generator(nn.Module):
    """The detail decoder: (B, latent) → displacement along the normal (B, 1, 256, 256), within ±0.01 m."""

    def __init__(self, latent_dim=N_DETAIL_INPUT):
        super().__init__()
        self.l1 = nn.Sequential(nn.Linear(latent_dim, 128 * 8 * 8))
        blocks = [nn.BatchNorm2d(128)]
        for n_in, n_out in ((128, 128), (128, 64), (64, 64), (64, 32), (32, 16)):
            blocks += [
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                nn.Conv2d(n_in, n_out, 3, padding=1),
                nn.BatchNorm2d(n_out, eps=0.8),    # 0.8: the official weights were trained with it
                nn.LeakyReLU(0.2),
            ]
        self.conv_blocks = nn.Sequential(*blocks, nn.Conv2d(16, 1, 3, padding=1), nn.Tanh())

    def forward(self, latent):
        """latent (B, 181) = jaw pose 3, expression 50, detail 128 → (B, 1, 256, 256)."""
        start = self.l1(latent).unflatten(1, (128, 8, 8))      # (B, 8192) → (B, 128, 8, 8)
        return 0.01 * self.conv_blocks(start)


def split_codes(outputs):
    """E_flame's outputs (B, 236) → dict of shape, tex, exp, pose, cam (B, n) and light (B, 9, 3)."""
    parts = outputs.split(tuple(CODE_SIZES.values()), dim=1)
    codes = dict(zip(CODE_SIZES, parts, strict=True))
    return {**codes, "light": codes["light"].unflatten(1, (9, 3))}     # (B, 27) → (B, 9, 3)
