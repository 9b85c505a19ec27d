"""From uint8 pictures to network inputs, whole batches on any device (SPEC section 7).

All random numbers are drawn on the CPU from a generator, so that every device gets the same ones.
`train_batch`, `strict_batch` and `paper_eval_batch` take a list of streams, uint8 (B, C, H, W), with their
kinds ("crop", "views", "texture", "motion"; see FrameImages) and return a list of float32 (B, C, size, size)
in [0, 1]; a grey view stays one channel, which the networks read as R = G = B. Rotation is bilinear, black
outside: with torchvision's default, the nearest pixel, edges become as jagged as the motion to be seen is
large. Motion is no photograph: it is only mirrored (u changes its sign) and shifted a little.
"""

import functools
import warnings
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from capsule.device import can_compile, sent

MAX_ANGLE = 8.0     # degrees
MAX_SHIFT = 1 / 28  # of the side, motion only: one pixel of the published 28-pixel pictures
MOTION_ZERO = 128 / 255    # a motion picture's value where nothing moves
JITTER = 0.2        # brightness, contrast, saturation: factor 1 ± 0.2; hue: ± 0.2 of the circle
PAPER_RESIZE = (234 / 224, 240 / 224)    # (height, width) before the centre crop, per side of the crop
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
COMPILED_SIDE = 200    # pixels: on smaller pictures a compiled step saves less time than compiling takes
GREY_WEIGHTS = (0.2989, 0.587, 0.114)    # ITU-R 601-2, as torchvision rounds them


@dataclass(frozen=True)
class Draws:
    """The random numbers of n training samples, on the CPU."""

    angle: torch.Tensor     # (n,) degrees, counter-clockwise
    shift: torch.Tensor     # (n, 2) x and y, share of the side
    flip: torch.Tensor      # (n,) bool
    factors: torch.Tensor   # (n, 4) of brightness, contrast, saturation; the hue's shift, share of the circle
    order: torch.Tensor     # (n, 4) int64, the order in which those four changes are made

    def __getitem__(self, rows):
        """`Draws` of the samples `rows`, an index or a slice."""
        return Draws(*(getattr(self, field.name)[rows] for field in fields(self)))


def draw(n, generator):
    """Draws for n training samples, as `Draws`. generator: torch.Generator on the CPU."""
    angle = _angles(n, generator)
    flip = torch.rand(n, generator=generator) < 0.5
    factors = JITTER * (2 * torch.rand(n, 4, generator=generator) - 1)
    factors[:, :HUE] += 1
    order = torch.rand(n, 4, generator=generator).argsort(1)    # a random permutation of 0 … 3 in each row
    shift = MAX_SHIFT * (2 * torch.rand(n, 2, generator=generator) - 1)
    return Draws(angle, shift, flip, factors, order)


def _angles(n, generator):
    return MAX_ANGLE * (2 * torch.rand(n, generator=generator) - 1)


def train_batch(streams, kinds, draws, size):
    """Resize to size², rotate, flip, jitter the colours: one draw per sample, the same in all streams.

    A flip mirrors each picture and reverses the order of the views: mirrored, yaw is −yaw.
    """
    batch, size = [], (size, size)
    for images, kind in zip(streams, kinds, strict=True):
        images = _mirror_order(images, draws.flip, 1 if kind == "views" else 3)
        if kind == "motion":
            batch.append(_move_motion(_resized(images, size), draws))
        else:
            batch.append(_changed(images, kind, draws, size))
    return batch


def strict_batch(streams, size):
    """Resize to size², nothing random."""
    return [_resized(images, (size, size)) for images in streams]


def paper_eval_batch(streams, kinds, generator, size):
    """The reference's evaluation: resize to 234×240 (for size 224), random rotation ±8°, centre crop size².

    generator: torch.Generator on the CPU. Motion is only resized.
    """
    angle = _angles(len(streams[0]), generator)
    larger = tuple(round(size * ratio) for ratio in PAPER_RESIZE)
    return [_resized(images, (size, size)) if kind == "motion" else
            _moved(_resized(images, larger), angle, (size, size))
            for images, kind in zip(streams, kinds, strict=True)]


def shrunk(images, size, chunk=64):
    """uint8 (N, C, H, W) as uint8 (N, C, size, size) where that is smaller, otherwise as they are.

    Training at a small input resizes each picture once, not in every epoch.
    """
    if size >= min(images.shape[2:]):
        return images
    parts = [_resized(part, (size, size)).mul_(255).round_().to(torch.uint8) for part in images.split(chunk)]
    return torch.cat(parts)    # (N, C, size, size)


def _resized(images, size):
    """uint8 (B, C, H, W) → float32 (B, C, *size) in [0, 1], bilinear, antialiased where it shrinks."""
    images = images.float() / 255
    if images.shape[2:] == torch.Size(size):
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def _moved(images, angle, size, flip=None, shift=None):
    """Rotate about the centre, cut out the central `size` (height, width), mirror where `flip`, shift,
    in one go.

    images: float (B, C, H, W). angle (B,): degrees, counter-clockwise. flip (B,): bool, or None.
    shift (B, 2): of the side, or None.
    """
    transforms = _transforms(angle, images.shape[2:], size, flip, shift)
    return _sampled(images, sent(transforms, images.device), size)


def _transforms(angle, shape, size, flip=None, shift=None):
    """`_moved`'s affine transforms for F.affine_grid, (B, 2, 3), of pictures of `shape` (height, width)."""
    radians = torch.deg2rad(angle)
    cosine, sine = radians.cos(), radians.sin()
    mirror = torch.ones_like(cosine) if flip is None else 1 - 2 * flip.to(cosine.dtype)
    (height, width), (rows, columns) = shape, size
    across, down = (0 * sine, 0 * sine) if shift is None else (2 * shift).unbind(1)
    across = torch.stack([mirror * cosine * columns / width, -sine * rows / width, across], 1)
    down = torch.stack([mirror * sine * columns / height, cosine * rows / height, down], 1)
    return torch.stack([across, down], 1)                                # 2 × (B, 3) → (B, 2, 3)


def _sampled(images, transforms, size):
    if transforms.is_cuda and not torch.compiler.is_compiling():
        transforms = transforms.double()        # else in TF32: a matrix product, which compiled it is not
    grid = F.affine_grid(transforms, (len(images), 1, *size), align_corners=False).to(images.dtype)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _move_motion(images, draws):
    """Mirror and shift motion pictures, float (B, 3k, H, W).

    A mirrored u changes its sign; what comes in from outside the picture shows no motion.
    """
    zero = images.new_tensor([MOTION_ZERO, MOTION_ZERO, 0]).repeat(images.shape[1] // 3)[:, None, None]
    moved = _moved(images - zero, torch.zeros_like(draws.angle), images.shape[2:], draws.flip, draws.shift)
    moved[:, ::3] *= sent(1 - 2 * draws.flip.to(moved.dtype), moved.device)[:, None, None, None]
    return moved + zero


def _mirror_order(images, flip, group):
    """images (B, C, H, W): groups of `group` channels, in reverse order in the samples where `flip` (B,)."""
    if images.shape[1] == group:
        return images
    groups = images.unflatten(1, (-1, group))                            # → (B, C/group, group, H, W)
    flip = sent(flip, images.device).view(-1, 1, 1, 1, 1)
    return torch.where(flip, groups.flip(1), groups).flatten(1, 2)       # → (B, C, H, W)


def _changed(images, kind, draws, size):
    """`train_batch`'s changes of grey views or RGB pictures, uint8 (B, C, H, W): float (B, C, *size)."""
    transforms, factors, order = _transforms(draws.angle, size, size, draws.flip), draws.factors, draws.order
    if kind == "views":
        change, numbers = _change_greys, [_grey_rounds(factors, order)]
    else:
        count = images.shape[1] // 3
        change, numbers = _change_colours, [part.repeat_interleave(count, 0) for part in (factors, order)]
    tensors = [images, *(sent(part, images.device) for part in (transforms, *numbers))]
    if not _gains_from_a_compiler(images.device, size):
        return change(*tensors, size)
    for tensor in tensors:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")    # the compiler's remarks on its own choices
        return _compiled(change)(*tensors, size)


def _gains_from_a_compiler(device, size):
    """Whether `_changed` can be compiled, to few kernels, and saves more time than compiling takes."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    return device.type == "cuda" and min(size) >= COMPILED_SIDE and not deterministic and can_compile()


_compiled = functools.cache(torch.compile)


def _change_greys(images, transforms, rounds, size):
    """Turned, and changed as jitter_colour would change them as R = G = B: brightness and contrast alone, as
    saturation and hue leave grey as it is. rounds: `_grey_rounds`."""
    images = _sampled(_resized(images, size), transforms, size)
    for one in rounds.unbind(1):
        factor, pull = one.view(-1, 2, 1, 1, 1).unbind(1)               # (B, 1, 1, 1)
        means = images.mean((2, 3), keepdim=True)                        # of each picture: (B, C, 1, 1)
        images = torch.addcmul(pull * means, images, factor).clamp_(0, 1)
    return images


def _grey_rounds(factors, order):
    """(n, 2 rounds, 2): the factor on the picture, and the weight of its mean that is added."""
    place = order.argsort(1)    # (n, 4): when each change comes
    first = place[:, CONTRAST] < place[:, BRIGHTNESS]
    is_contrast = torch.stack([first, ~first], 1)                        # (n, 2): the change of each round
    factors = torch.where(is_contrast, factors[:, CONTRAST, None], factors[:, BRIGHTNESS, None])
    return torch.stack([factors, (1 - factors) * is_contrast], 2)        # brightness blends with black


def _change_colours(images, transforms, factors, order, size):
    turned = _sampled(_resized(images, size), transforms, size)
    change = jitter_all if images.device.type == "cuda" else jitter_colour
    return change(turned.reshape(-1, 3, *size), factors, order).view(turned.shape)


def jitter_colour(images, factors, order):
    """torchvision's ColorJitter, brightness, contrast, saturation and hue in each picture's own order.

    images: float (n, 3, H, W) in [0, 1]. factors, order (n, 4): as in `Draws`. Returns: as images.
    One picture after the other, so that it stays in a CPU's cache.
    """
    changed = torch.empty_like(images)
    for place, changes in enumerate(order.tolist()):
        picture = images[place:place + 1]
        for change in changes:
            picture = _jittered(picture, change, factors[place, change])
        changed[place] = picture[0]
    return changed


def jitter_all(images, factors, order):
    """`jitter_colour` for a GPU: in each of four rounds all four changes are computed and each picture keeps
    its own, which a compiler makes one kernel of. factors, order: on the pictures' device."""
    for change in order.unbind(1):
        factor = factors.gather(1, change[:, None]).view(-1, 1, 1, 1)
        change = change.view(-1, 1, 1, 1)
        grey = _grey(images)
        base = torch.where(change == CONTRAST, grey.mean((2, 3), keepdim=True),
                           torch.where(change == SATURATION, grey, 0.0))        # brightness: black
        images = torch.where(change == HUE, _turn_hue(images, factor),
                             torch.lerp(base.expand_as(images), images, factor).clamp(0, 1))
    return images


def _grey(images):
    red, green, blue = GREY_WEIGHTS
    return red * images[:, 0:1] + green * images[:, 1:2] + blue * images[:, 2:3]       # (b, 1, H, W)


def _jittered(images, change, factor):
    """images (b, 3, H, W) after `change`, BRIGHTNESS to HUE, by `factor`, ()."""
    if change == HUE:
        return _turn_hue(images, factor)
    if change == BRIGHTNESS:
        return (images * factor).clamp_(0, 1)
    grey = _grey(images)
    if change == CONTRAST:
        grey = grey.mean((2, 3), keepdim=True)
    return torch.lerp(grey, images, factor).clamp_(0, 1)


def _turn_hue(images, turns):
    """Shift the hue by `turns` of the colour circle, saturation and value kept.

    The way through HSV without its case table: channel n = V − chroma·clamp(min(k, 4−k), 0, 1) with
    k = (n + 6·hue) mod 6, n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)    # torch.aminmax takes ten times as long
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - low
    scale = 1 / torch.where(chroma == 0, 1, chroma)
    sixths = torch.where(value == red, (green - blue) * scale,
                         torch.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale))
    starts = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)
    k = sixths.unsqueeze(1) + (starts + 6 * turns)                       # (b, 1, H, W) + (b, 3, 1, 1)
    k = k - 6 * (k / 6).floor_()                                         # k mod 6
    share = torch.minimum(k, 4 - k).clamp_(0, 1)
    return value.unsqueeze(1) - chroma.unsqueeze(1) * share
