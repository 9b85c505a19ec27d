"""Which triangle does each pixel see? A batched rasteriser in plain PyTorch, CPU and CUDA (SPEC section 4).

Every triangle is cut along the centre lines of the pixel rows into segments, one per row that it crosses
(`_cut`). In each view a segment covers a span of its row's pixels (`_spans`); each pixel sees the nearest of
those that cover it (`_nearest`). A turn about the vertical axis leaves every point in its row: turned views
share the cutting. Below: N segments, Y views, M pixels of all spans.
"""

import math
from typing import NamedTuple

import torch
from torch.nn import functional

from common.errors import InputError

BACKENDS = ("torch", "pytorch3d")
PYTORCH3D_COMMAND = "pip install easypytorch3d==0.7.9.post1 iopath"

NOTHING = torch.iinfo(torch.int64).max      # the key of a pixel that sees no triangle


class Fragments(NamedTuple):
    """What each pixel of a batch of images sees."""

    face_index: torch.Tensor    # (B, H, W) int64, -1 = nothing
    bary: torch.Tensor          # (B, H, W, 3) float32, weights of the face's corners; 0 where nothing is seen
    depth: torch.Tensor         # (B, H, W) float32, z of the point that is seen; +inf where nothing is seen

    @property
    def hit(self):
        """(B, H, W) bool: where something is seen."""
        return self.face_index >= 0

    def at_pixels(self, faces, values):
        """Values (b, V, C) at vertices, interpolated: (B, C, H, W), 0 where nothing is seen.

        faces (F, 3): the triangles that were drawn, or other rows of `values` for their corners (UV points).
        b divides B: mesh 0 is that of the first B/b images, mesh 1 of the next, and so on.
        """
        seen = self.hit
        values = values.repeat_interleave(len(seen) // len(values), 0)
        hit = seen.flatten().nonzero()[:, 0]                                           # (n,)
        index = faces[_take(self.face_index, hit)]                                     # (n, 3)
        index = index + hit.div(seen[0].numel(), rounding_mode="floor")[:, None] * values.shape[1]
        pixels = values.new_zeros(seen.numel(), values.shape[2])
        pixels[hit] = functional.embedding_bag(index, values.flatten(0, 1), mode="sum",
                                               per_sample_weights=self.bary.reshape(-1, 3)[hit])
        return pixels.reshape(*seen.shape, -1).permute(0, 3, 1, 2)


class _Segments(NamedTuple):
    """N segments: where each is, and on which edges of its triangle its two ends are."""

    row: torch.Tensor       # (N,) int64, row of pixels
    mesh: torch.Tensor      # (N,) int64, the mesh of the triangle
    corner: torch.Tensor    # (2, 2, N) upper, lower × end: the edge's corners, as places in faces.flatten()
    share: torch.Tensor     # (2, N) how far down its edge each end is, 0 to 1

    def at_ends(self, faces, values):
        """values (K, B or 1, V) at the vertices of `faces` → (K, 2, N) at the ends."""
        index = faces.flatten()[self.corner] + self.mesh * (values.shape[2] if values.shape[1] > 1 else 0)
        upper, lower = (values.flatten(1).index_select(1, part.flatten()) for part in index)
        return torch.lerp(upper, lower, self.share.flatten()).unflatten(1, (2, -1))


class Turned(NamedTuple):
    """What each pixel of images of turned meshes sees; n pixels see something, the others are not listed."""

    shape: tuple            # (images, H, W)
    pixel: torch.Tensor     # (n,) int64, place among the images' pixels, flattened
    span: torch.Tensor      # (n,) int64, the segment that it sees, place in (Y, N) flattened
    place: torch.Tensor     # (n,) float32, how many pixels it is from the first of the span
    start: torch.Tensor     # (Y, N) how far along the segment, 0 to 1, its first pixel is
    step: torch.Tensor      # (Y, N) how much further each next pixel is; 0 where the segment is one point
    segments: _Segments

    @property
    def hit(self):
        """(images, H, W) bool: where something is seen."""
        hit = torch.zeros(self.shape, dtype=torch.bool, device=self.pixel.device)
        hit.view(-1)[self.pixel] = True
        return hit

    def face(self):
        """(n,) int64: the triangle that each listed pixel sees."""
        corner = self.segments.corner[0, 0]
        return _take(corner, self.span % len(corner)).div(3, rounding_mode="floor")

    def at_pixels(self, faces, values):
        """See `Fragments.at_pixels`."""
        meshes = self.shape[0] // len(self.start) if len(values) > 1 else 1
        table = values.unflatten(0, (meshes, -1)).permute(1, 3, 0, 2)                  # (Y|1, C, B|1, V)
        ends = self.segments.at_ends(faces, table.flatten(0, 1)).unflatten(0, table.shape[:2])
        pixels = values.new_zeros(values.shape[2], math.prod(self.shape))
        for channel, (near, far) in zip(pixels, ends.permute(1, 2, 0, 3), strict=True):    # (Y|1, N) each
            first, rise = torch.lerp(near, far, self.start), (far - near) * self.step
            channel.scatter_(0, self.pixel, _along(self.span, self.place, first, rise))
        return pixels.unflatten(1, self.shape).transpose(0, 1)                         # (images, C, H, W)


def choose_rasterizer(name):
    """"auto", "torch" or "pytorch3d" → the backend: "torch" or "pytorch3d".

    auto: the faster one, which is torch, this file's, on a GPU too (docs/costs.md). Raises: InputError for
    another name, or for pytorch3d where it cannot be imported.
    """
    if name not in ("auto", *BACKENDS):
        raise InputError(f"rasterizer {name!r}: choose one of auto, {', '.join(BACKENDS)}")
    if name == "pytorch3d":
        _pytorch3d()
    return "torch" if name == "auto" else name


@torch.no_grad()
def rasterize(vertices, faces, height, width, backend="torch"):
    """The nearest triangle of each pixel, with its barycentric coordinates (SPEC section 4, Rasterisation).

    Pixel (i, j) has its centre at x = (2j+1)/W - 1, y = (2i+1)/H - 1. Smaller z is nearer; of equally near
    triangles the one with the lowest index wins. Both sides of a triangle are seen. A pixel centre on an edge
    belongs to the triangle, so neighbours leave no gap. Triangles with no area draw nothing. Not
    differentiable.

    vertices: (B, V, 3) image space: x right, y down, both in [-1, 1] over the image.
    faces: (F, 3) int64, the same for all meshes.
    backend: "torch" (this file; a triangle with a corner that is NaN or infinite draws nothing) or
    "pytorch3d" (its rasteriser: a pixel centre on an edge may see nothing).
    Returns: Fragments, on the device of `vertices`.
    Raises: ValueError for other shapes or backends; InputError when pytorch3d cannot be imported.
    """
    if vertices.ndim != 3 or vertices.shape[2] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"rasterize: vertices (B,V,3) and faces (F,3), not {tuple(vertices.shape)}, "
                         f"{tuple(faces.shape)}")
    if backend not in BACKENDS:
        raise ValueError(f"rasterize: backend is one of {', '.join(BACKENDS)}, not {backend!r}")
    vertices = vertices.float()
    faces = faces.to(vertices.device)
    if backend == "pytorch3d":
        return _rasterize_pytorch3d(vertices, faces, height, width)
    if len(vertices) > 1 and faces.device.type == "cpu":       # one mesh after another stays in the cache
        parts = [rasterize(mesh[None], faces, height, width) for mesh in vertices]
        return Fragments(*(torch.cat(field) for field in zip(*parts, strict=True)))      # (B, ...) each
    still = torch.eye(2, device=faces.device)[None]
    seen = rasterize_turned(vertices, faces, still, vertices.new_zeros(len(vertices), 2), height, width)
    face_index = torch.full(seen.shape, -1, dtype=torch.int64, device=faces.device)
    face_index.view(-1)[seen.pixel] = seen.face()
    # The weights are the interpolated unit vectors of a triangle's corners, each a vertex of its own.
    own = torch.arange(faces.numel(), device=faces.device).reshape(-1, 3)
    bary = seen.at_pixels(own, torch.eye(3, device=faces.device).repeat(len(faces), 1)[None])
    depth = seen.at_pixels(faces, vertices[..., 2:])[:, 0]
    return Fragments(face_index, bary.permute(0, 2, 3, 1), depth.masked_fill_(face_index < 0, torch.inf))


@torch.no_grad()
def rasterize_turned(vertices, faces, turns, axis, height, width, backend="torch"):
    """`rasterize` for meshes turned about the vertical axis: a turn leaves every point in its row of pixels.

    So the triangles are cut into segments once, and for each view only the pixels that a turned segment
    covers in its row are looked for.

    vertices, faces, height, width, backend: as for `rasterize`. turns: (Y, 2, 2), each view's matrix on
    (x, z). axis: (B, 2), x and z of the axis, image space. Not differentiable.
    Returns: `Turned` (for pytorch3d `Fragments`) of B*Y images, mesh by mesh.
    Raises: for pytorch3d, as `rasterize`.
    """
    views, points = len(turns), vertices.float().permute(2, 0, 1)                      # (3, B, V)
    if backend != "torch":
        x, z = _turned(turns, points[0], points[2], axis.t()[..., None])               # (Y, B, V) each
        points = torch.stack([x, points[1].expand_as(x), z], 3).transpose(0, 1)        # (B, Y, V, 3)
        return rasterize(points.flatten(0, 1), faces, height, width, backend)
    segments = _cut(points, faces, height)
    x, z = segments.at_ends(faces, points[::2])                                        # (2, N) each
    x, z = _turned(turns, x, z, axis.t()[:, None, segments.mesh])                      # (Y, 2, N) each
    column, number, start, step = _spans(x.add_(1).mul_(width).sub_(1).div_(2), width)     # (Y, N) each
    line = ((segments.mesh * (views * height) + segments.row) * width).int()           # (N,) of view 0
    view = torch.arange(views, dtype=torch.int32, device=line.device)[:, None]
    first = (view * (height * width) + line).add_(column)                              # (Y, N) first pixels
    span, place = _listed(number.flatten())                             # (M,) each, of all pixels offered
    rise = z[:, 1] - z[:, 0]
    depth = _along(span, place.float(), torch.addcmul(z[:, 0], start, rise), rise.mul_(step))
    shape = (len(vertices) * views, height, width)
    pixel, span = _nearest(_take(first, span).add_(place), depth, span, math.prod(shape))
    return Turned(shape, pixel, span, (pixel - _take(first, span)).float(), start, step, segments)


def _cut(points, faces, height):
    """`_Segments` of triangles, points (3, B, V), cut at the centres of the pixel rows; neighbours cut their
    common edge at the same point."""
    corners = points[:, :, faces]                                                      # (3, B, F, 3)
    x, y = (corners[:2, ..., 1:] - corners[:2, ..., :1]).unbind(0)                     # (B, F, 2) each
    usable = (x[..., 0] * y[..., 1] != x[..., 1] * y[..., 0]) & corners.sum((0, 3)).isfinite()
    level, order = (((corners[1] + 1) * height - 1) / 2).sort(dim=2)       # (B, F, 3) rows, from the top down
    top = level[..., 0].ceil().clamp(min=0)
    bottom = level[..., 2].floor().clamp(max=height - 1)
    number = torch.where(usable, (bottom - top + 1).clamp(min=0), 0).int()
    triangle, place = _listed(number.flatten())                                        # (N,) in B*F
    row = _take(top, triangle).long() + place
    level, order = (rows.flatten(0, 1).index_select(0, triangle).t() for rows in (level, order))   # (3, N)
    # Corners 0, 1, 2 from the top: one end is on the edge 0-2, the other on 0-1 or, lower, on 1-2.
    low = (row >= level[1]).long()
    edges = torch.stack([0 * low, low, 0 * low + 2, low + 1])              # (4, N) both upper, both lower
    above, below = level.gather(0, edges).unflatten(0, (2, 2))                         # (2, N) each
    share = torch.where(below == above, 0, (row - above) / (below - above))
    corner = order.gather(0, edges) + triangle % len(faces) * 3
    return _Segments(row, triangle.div(len(faces), rounding_mode="floor"), corner.unflatten(0, (2, 2)), share)


def _spans(x, width):
    """What segments, with ends x (Y, 2, N), in pixels, cover: the first pixel's column, how many, int32; how
    far along the segment, 0 to 1, the first one is, and how much further each next one: (Y, N) each."""
    one, other = x.unbind(1)
    first = torch.minimum(one, other).ceil_().clamp_(min=0)
    number = torch.maximum(one, other).floor_().clamp_(max=width - 1).sub_(first).add_(1).clamp_(min=0)
    step = (other - one).reciprocal_().nan_to_num_(0, 0, 0)
    return first.int(), number.nan_to_num_(0).int(), (first - one).mul_(step), step


def _along(span, place, first, rise):
    """Values (m,) at pixels `place` of spans: `first` (Y, N) at the first one, `rise` more at each next."""
    return _take(first, span).addcmul_(place, _take(rise, span))


def _nearest(pixel, depth, span, total):
    """Which of `total` pixels spans (M,) cover, (n,), and the nearest span at each, (n,).

    The smallest key is kept, depth in the high 32 bits, so the order of the work does not matter.
    """
    keys = torch.full((total,), NOTHING, dtype=torch.int64, device=pixel.device)
    keys.scatter_reduce_(0, pixel.long(), _key(depth, span), "amin")
    seen = (keys != NOTHING).nonzero()[:, 0]
    return seen, _take(keys, seen) & 0xFFFFFFFF


def _key(depth, number):
    """int64 keys in the order of (depth, number): a float's bits, read as an integer, keep its order."""
    bits = (depth + 0.0).view(torch.int32)                      # + 0.0 makes -0.0 equal to 0.0
    ordered = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)      # negative: in reverse order
    return ordered.long().bitwise_left_shift_(32).bitwise_or_(number)


def _turned(turns, x, z, axis):
    """x and z, (m, n) each, turned by (Y, 2, 2) about the axis (2, ...): yields x, then z, (Y, m, n)."""
    x, z, turns = x - axis[0], z - axis[1], turns[..., None, None]
    return (torch.addcmul(axis[k], turns[:, k, 0], x).addcmul_(turns[:, k, 1], z) for k in range(2))


def _listed(number):
    """int32 counts (n,) of sum M → owner (M,), i number[i] times, and place (M,), 0 to number[i] − 1.

    `repeat_interleave` takes several times as long where most counts are 0, 1 and 2.
    """
    ends = number.cumsum(0, dtype=torch.int32)
    starts, total = ends - number, int(ends[-1:].sum())
    owner = torch.bincount(starts, minlength=total + 1)[:total].cumsum(0, dtype=torch.int32).sub_(1)
    return owner, torch.arange(total, dtype=torch.int32, device=owner.device).sub_(_take(starts, owner))


def _take(table, index):
    """table.flatten()[index]; index_select is faster than indexing."""
    return table.flatten().index_select(0, index)


def _rasterize_pytorch3d(vertices, faces, height, width):
    """`rasterize` by pytorch3d, whose x runs left, y up, and whose z must be positive.

    It adds 1e-8 to a triangle's area, so that the weights in a small one do not sum to 1: corrected here.
    """
    rasterize_meshes, Meshes = _pytorch3d()
    short = min(height, width)      # pytorch3d's [-1, 1] spans the shorter side
    scale = vertices.new_tensor([-width / short, -height / short, 1.0])
    shift = 1 - vertices[..., 2].amin()
    turned = vertices * scale + torch.stack([shift * 0, shift * 0, shift])
    meshes = Meshes(turned, faces.expand(len(vertices), *faces.shape))
    face, depth, bary, _ = rasterize_meshes(
        meshes, image_size=(height, width), blur_radius=0.0, faces_per_pixel=1, perspective_correct=False,
        clip_barycentric_coords=False, cull_backfaces=False)
    face, depth, bary = face[..., 0], depth[..., 0], bary[..., 0, :]
    hit = face >= 0
    mesh = torch.arange(len(vertices), device=face.device)[:, None, None]
    whole = torch.where(hit, bary.sum(-1), 1.0)
    return Fragments(torch.where(hit, face - mesh * len(faces), -1), bary / whole[..., None] * hit[..., None],
                     torch.where(hit, depth / whole - shift, torch.inf))


def _pytorch3d():
    try:
        from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
        from pytorch3d.structures import Meshes
    except ImportError as error:
        raise InputError(f"rasterizer pytorch3d: cannot be imported ({error}); install it with "
                         f"`{PYTORCH3D_COMMAND}` or use the rasterizer torch") from error
    return rasterize_meshes, Meshes
