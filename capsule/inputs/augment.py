"""From uint8 pictures to network inputs, whole batches on any device (SPEC section 7).

Random numbers are drawn on the CPU from a generator, so they are the same whatever the device; they reach a
GPU in few copies. Each function takes a list of streams, uint8 (B, C, H, W), and their kinds ("crop",
"views", "texture", "motion"; see FrameImages), and returns a list of float32 (B, C, size, size) in [0, 1];
grey views stay one channel each, which the networks read as R=G=B. Rotations are bilinear with black outside:
torchvision's default, the nearest pixel, would add jagged edges as large as the motion that the network has
to see. Motion is not a photograph: it is mirrored (u changes its sign) and shifted a little, nothing else.
"""

import functools
import warnings
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from capsule.device import can_compile, sent

MAX_ANGLE = 8.0     # degrees
MAX_SHIFT = 1 / 28  # of the side, motion only
MOTION_ZERO = 128 / 255    # a motion picture's value where nothing moves
JITTER = 0.2        # brightness, contrast, saturation: factor 1 ± 0.2; hue: ± 0.2 of the circle
PAPER_RESIZE = (234 / 224, 240 / 224)    # (height, width) before the centre crop, per pixel of the crop
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
COMPILED_SIDE = 200    # pixels: smaller pictures take less time than the compiler
GREY_WEIGHTS = (0.2989, 0.587, 0.114)    # ITU-R 601-2, as torchvision rounds them


@dataclass(frozen=True)
class Draws:
    """What was drawn for each of n samples, on the CPU.

    angle (n,): degrees, counter-clockwise. shift (n, 2): of the side, x and y. flip (n,): bool.
    factors (n, 4): brightness, contrast, saturation, and hue shift in turns. order (n, 4): the order in
    which those four are applied.
    """

    angle: torch.Tensor
    shift: torch.Tensor
    flip: torch.Tensor
    factors: torch.Tensor
    order: torch.Tensor

    def __getitem__(self, rows):
        """The draws of some of the samples."""
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

    A flip mirrors each picture, and the views' order with it (yaw → −yaw).
    """
    batch, size = [], (size, size)
    for images, kind in zip(streams, kinds, strict=True):
        images = _mirror_order(images, draws.flip, 1 if kind == "views" else 3)
        if kind == "motion":
            batch.append(_move_motion(_resized(images, size), draws))
        elif _gains_from_a_compiler(images.device, size):
            batch.append(_changed_at_once(images, kind, draws, size))
        else:
            turned = _moved(_resized(images, size), draws.angle, size, draws.flip)
            change = _jitter_grey if kind == "views" else jitter_colour
            batch.append(change(turned, draws))
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
    where = _where(angle, images.shape[2:], size, flip, shift)
    return _sampled(images, sent(where, images.device), size)


def _where(angle, shape, size, flip=None, shift=None):
    """`_moved`'s affine transforms, (B, 2, 3), of pictures of this shape (height, width)."""
    radians = torch.deg2rad(angle)
    cosine, sine = radians.cos(), radians.sin()
    mirror = torch.ones_like(cosine) if flip is None else 1 - 2 * flip.to(cosine.dtype)
    (height, width), (rows, columns) = shape, size
    across, down = (0 * sine, 0 * sine) if shift is None else (2 * shift).unbind(1)
    across = torch.stack([mirror * cosine * columns / width, -sine * rows / width, across], 1)
    down = torch.stack([mirror * sine * columns / height, cosine * rows / height, down], 1)
    return torch.stack([across, down], 1)                                # 2 × (B, 3) → (B, 2, 3)


def _sampled(images, where, size):
    grid = F.affine_grid(where, (len(images), 1, *size), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _move_motion(images, draws):
    """Mirror and shift motion pictures (B, 3k, H, W).

    A mirrored u changes its sign; nothing moves outside.
    """
    zero = images.new_tensor([MOTION_ZERO, MOTION_ZERO, 0]).repeat(images.shape[1] // 3)[:, None, None]
    moved = _moved(images - zero, torch.zeros_like(draws.angle), images.shape[2:], draws.flip, draws.shift)
    moved[:, ::3] *= sent(1 - 2 * draws.flip.to(moved.dtype), moved.device)[:, None, None, None]
    return moved + zero


def _mirror_order(images, flip, group):
    """Reverse the order of the groups of `group` channels in the flipped samples; (B, C, H, W), flip (B,)."""
    if images.shape[1] == group:
        return images
    groups = images.unflatten(1, (-1, group))                            # → (B, C/group, group, H, W)
    flip = sent(flip, images.device).view(-1, 1, 1, 1, 1)
    return torch.where(flip, groups.flip(1), groups).flatten(1, 2)       # → (B, C, H, W)


def _of_pictures(draws, images):
    """Draws of each of the RGB pictures that are stacked along the channels, (B, 3k, H, W): n = B·k."""
    count = images.shape[1] // 3
    return draws[torch.arange(len(images)).repeat_interleave(count)] if count > 1 else draws


def jitter_colour(images, draws):
    """Brightness, contrast, saturation and hue in each sample's own order; float (B, 3k, H, W) in [0, 1], RGB
    pictures stacked along the channels.

    torchvision's ColorJitter. On a CPU one picture after the other: it stays in the cache.
    """
    pictures, draws = images.reshape(-1, 3, *images.shape[2:]), _of_pictures(draws, images)
    if images.device.type == "cuda":
        numbers = (sent(part, images.device) for part in (draws.factors, draws.order))
        return jitter_all(pictures, *numbers).view(images.shape)
    changed = torch.empty_like(pictures)
    for place, order in enumerate(draws.order.tolist()):
        picture = pictures[place:place + 1]
        for change in order:
            picture = _changed(picture, change, draws.factors[place, change].view(1, 1, 1, 1))
        changed[place] = picture[0]
    return changed.view(images.shape)


def _gains_from_a_compiler(device, size):
    """Whether `_changed_at_once` is to be had and saves more time than its compiler takes."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    return device.type == "cuda" and min(size) >= COMPILED_SIDE and not deterministic and can_compile()


def _changed_at_once(images, kind, draws, size):
    """`train_batch`'s changes of grey views or RGB pictures, compiled: few kernels, less traffic."""
    where = _where(draws.angle, size, size, draws.flip)
    if kind == "views":
        change, numbers = _greys_at_once, [_grey_turns(draws)]
    else:
        each = _of_pictures(draws, images)
        change, numbers = _colours_at_once, [each.factors, each.order]
    tensors = [images, *(sent(part, images.device) for part in (where, *numbers))]
    for tensor in tensors:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")    # the compiler's remarks on its own choices
        return _compiled(change)(*tensors, size)


_compiled = functools.cache(torch.compile)


def _greys_at_once(images, where, turns, size):
    return _in_turns(_sampled(_resized(images, size), where, size), turns)


def _colours_at_once(images, where, factors, order, size):
    turned = _sampled(_resized(images, size), where, size)
    return jitter_all(turned.view(-1, 3, *size), factors, order).view(turned.shape)


def jitter_all(images, factors, order):
    """`jitter_colour` for a GPU, where a compiler makes one kernel of a turn: each picture gets all four
    changes in each turn and keeps its own. factors, order (n, 4): as in `Draws`, where the pictures are."""
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


def _changed(images, change, factors):
    """One of the four changes; images (b, 3, H, W), factors (b, 1, 1, 1)."""
    if change == HUE:
        return _turn_hue(images, factors)
    if change == BRIGHTNESS:
        return (images * factors).clamp_(0, 1)
    grey = _grey(images)
    if change == CONTRAST:
        grey = grey.mean((2, 3), keepdim=True)
    return torch.lerp(grey, images, factors).clamp_(0, 1)


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


def _jitter_grey(images, draws):
    """Brightness and contrast of grey pictures, (B, C, H, W): what jitter_colour does to each as R=G=B.

    Saturation and hue leave a grey picture as it is.
    """
    return _in_turns(images, sent(_grey_turns(draws), images.device))


def _grey_turns(draws):
    """(n, 2 turns, 2): each turn's factor, and how much of the picture's mean comes to it."""
    place = draws.order.argsort(1)    # (n, 4): when each change comes
    first = place[:, CONTRAST] < place[:, BRIGHTNESS]
    is_contrast = torch.stack([first, ~first], 1)                        # (n, 2): in which of the two turns
    factors = torch.where(is_contrast, draws.factors[:, CONTRAST, None], draws.factors[:, BRIGHTNESS, None])
    return torch.stack([factors, (1 - factors) * is_contrast], 2)        # brightness blends with black


def _in_turns(images, turns):
    """Grey pictures (B, C, H, W) after `_grey_turns`' changes."""
    for turn in turns.unbind(1):
        factor, pull = turn.view(-1, 2, 1, 1, 1).unbind(1)               # (B, 1, 1, 1)
        means = images.mean((2, 3), keepdim=True)                        # of each picture: (B, C, 1, 1)
        images = torch.addcmul(pull * means, images, factor).clamp_(0, 1)
    return images
