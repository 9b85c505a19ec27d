"""Which triangle does each pixel see? A batched rasteriser in plain PyTorch, CPU and CUDA (SPEC section 4).

Every triangle is cut along the centre lines of the pixel rows into segments, one per row that it crosses.
Each pixel of a segment is offered a key, depth in the high 32 bits and the segment's number in the low 32,
and keeps the smallest, so the answer does not depend on the order of the work. A turn about the vertical axis
leaves every point in its row: turned views share the cutting.
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


class _Edges(NamedTuple):
    """On which edges of its triangle each of N segments has its two ends."""

    mesh: torch.Tensor      # (N,) the mesh of the triangle
    corner: torch.Tensor    # (2, 2, N) upper, lower × end: the edge's corners, as places in faces.flatten()
    share: torch.Tensor     # (2, N) how far down its edge each end is, 0 to 1


class Turned(NamedTuple):
    """What each pixel of images of turned meshes sees; n pixels see something, the others are not listed."""

    shape: tuple            # (images, H, W)
    pixel: torch.Tensor     # (n,) int64, place among the images' pixels, flattened
    cell: torch.Tensor      # (n,) int64, the segment that it sees, place in (Y, N) flattened
    place: torch.Tensor     # (n,) float, how many pixels it is from the segment's first
    start: torch.Tensor     # (Y, N) how far along the segment, 0 to 1, its first pixel is
    slope: torch.Tensor     # (Y, N) how much further each next pixel is; 0 where the segment is one point
    edges: _Edges           # of the N segments

    @property
    def hit(self):
        """(images, H, W) bool: where something is seen."""
        hit = torch.zeros(self.shape, dtype=torch.bool, device=self.pixel.device)
        hit.view(-1)[self.pixel] = True
        return hit

    def face(self):
        """(n,) int64: the triangle that each listed pixel sees."""
        return _take(self.edges.corner[0, 0], self.cell % self.start.shape[1]).div(3, rounding_mode="floor")

    def at_pixels(self, faces, values):
        """See `Fragments.at_pixels`."""
        meshes = self.shape[0] // len(self.start) if len(values) > 1 else 1
        table = values.unflatten(0, (meshes, -1)).permute(1, 3, 0, 2)                  # (Y|1, C, B|1, V)
        ends = _at_ends(self.edges, faces, table.flatten(0, 1)).unflatten(0, table.shape[:2])
        pixels = values.new_zeros(values.shape[2], math.prod(self.shape))
        for channel, (near, far) in zip(pixels, ends.permute(1, 2, 0, 3), strict=True):    # (Y|1, N) each
            first = torch.lerp(near, far, self.start)
            found = _take(first, self.cell).addcmul_(self.place, _take((far - near) * self.slope, self.cell))
            channel.scatter_(0, self.pixel, found)
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
        return name
    return "torch"


@torch.no_grad()
def rasterize(vertices, faces, height, width, backend="torch"):
    """The nearest triangle of each pixel, with its barycentric coordinates (SPEC section 4, Rasterisation).

    Pixel (i, j) has its centre at x = (2j+1)/W - 1, y = (2i+1)/H - 1. Smaller z is nearer; of equally near
    triangles the one with the lowest index wins. Both sides of a triangle are seen. A pixel centre on an edge
    belongs to the triangle, so neighbours leave no gap. Triangles with no area, or with a corner that is NaN
    or infinite, draw nothing. Not differentiable.

    vertices: (B, V, 3) image space: x right, y down, both in [-1, 1] over the image.
    faces: (F, 3) int64, the same for all meshes.
    backend: "torch" (this file) or "pytorch3d" (its rasteriser: a pixel centre on an edge may see nothing).
    Returns: Fragments, on the device of `vertices`.
    Raises: ValueError for other shapes or backends; InputError when pytorch3d cannot be imported.
    """
    if vertices.ndim != 3 or vertices.shape[2] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"rasterize: vertices (B,V,3) and faces (F,3), not {tuple(vertices.shape)}, "
                         f"{tuple(faces.shape)}")
    if backend not in BACKENDS:
        raise ValueError(f"rasterize: backend is one of {', '.join(BACKENDS)}, not {backend!r}")
    vertices = vertices.detach().to(torch.float32)
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
    (x, z). axis: (B, 2), x and z of the axis. Not differentiable.
    Returns: `Turned` (for pytorch3d `Fragments`) of B*Y images, mesh by mesh.
    """
    count, views = len(vertices), len(turns)
    points = vertices.float().permute(2, 0, 1)                                         # (3, B, V)
    if backend != "torch":
        x, z = _turned(turns, points[0], points[2], axis.t()[..., None])               # (Y, B, V) each
        points = torch.stack([x, points[1].expand_as(x), z], 3).transpose(0, 1)        # (B, Y, V, 3)
        return rasterize(points.flatten(0, 1), faces, height, width, backend)
    row, edges = _segments(points, faces, height)
    x, z = _at_ends(edges, faces, points[::2])                                         # (2, N) each
    x, z = _turned(turns, x, z, axis.t()[:, None, edges.mesh])                         # (Y, 2, N) each
    x, z = x.add_(1).mul_(width).sub_(1).div_(2).unbind(1), z.unbind(1)                # 2 x (Y, N); x: pixels
    # A cell is one segment in one view: Y·N of them, each a run of `number` pixels from column `first` on.
    first = torch.minimum(*x).ceil_().clamp_(min=0)
    number = torch.maximum(*x).floor_().clamp_(max=width - 1).sub_(first).add_(1).clamp_(min=0)
    slope = (x[1] - x[0]).reciprocal_().nan_to_num_(0, 0, 0)
    start, rise = (first - x[0]).mul_(slope), z[1] - z[0]
    cell, place = _runs(number.nan_to_num_(0).int().flatten())          # (M,) each, of all pixels offered
    depth = _take(torch.addcmul(z[0], start, rise), cell)
    depth.addcmul_(place.float(), _take(rise.mul_(slope), cell))
    line = ((edges.mesh * (views * height) + row) * width).int()                       # (N,) of view 0
    view = torch.arange(views, dtype=torch.int32, device=line.device)[:, None]
    pixel = (view * (height * width) + line).add_(first.int())                         # (Y, N) the first ones
    keys = torch.full((count * views * height * width,), NOTHING, dtype=torch.int64, device=cell.device)
    keys.scatter_reduce_(0, _take(pixel, cell).add_(place).long(), _key(depth, cell), "amin")
    seen = (keys != NOTHING).nonzero()[:, 0]
    cell = _take(keys, seen) & 0xFFFFFFFF
    place = (seen - _take(pixel, cell)).float()
    return Turned((count * views, height, width), seen, cell, place, start, slope, edges)


def _segments(points, faces, height):
    """Triangles of meshes, points (3, B, V), cut at the centres of the pixel rows: each of N segments' row
    (N,), and `_Edges`. Neighbours cut their common edge at the same point."""
    corners = points[:, :, faces]                                                      # (3, B, F, 3)
    x, y = (corners[:2, ..., 1:] - corners[:2, ..., :1]).unbind(0)                     # (B, F, 2) each
    usable = (x[..., 0] * y[..., 1] != x[..., 1] * y[..., 0]) & corners.sum((0, 3)).isfinite()
    tall, order = (((corners[1] + 1) * height - 1) / 2).sort(dim=2)                  # (B, F, 3) top to bottom
    first = tall[..., 0].ceil().clamp(min=0)
    last = tall[..., 2].floor().clamp(max=height - 1)
    number = torch.where(usable, (last - first + 1).clamp(min=0), 0).int()
    cut, place = _runs(number.flatten())                                               # (N,) in B*F
    row = _take(first, cut).long() + place
    tall = tall.flatten(0, 1).index_select(0, cut).t()                                 # (3, N)
    low = (row >= tall[1]).long()               # is the second end on the lower of the two short edges?
    own = torch.stack([0 * low, low, 0 * low + 2, low + 1])                            # (4, N) of (3, N)
    above, below = tall.gather(0, own).unflatten(0, (2, 2))                            # (2, N) each
    share = torch.where(below == above, 0, (row - above) / (below - above))
    corner = order.flatten(0, 1).index_select(0, cut).t().gather(0, own) + cut % len(faces) * 3
    return row, _Edges(cut.div(len(faces), rounding_mode="floor"), corner.unflatten(0, (2, 2)), share)


def _at_ends(edges, faces, values):
    """values (K, B or 1, V) at the vertices of `faces` → (K, 2, N) at the ends of segments."""
    index = faces.flatten()[edges.corner] + edges.mesh * (values.shape[2] if values.shape[1] > 1 else 0)
    upper, lower = (values.flatten(1).index_select(1, part.flatten()) for part in index)
    return torch.lerp(upper, lower, edges.share.flatten()).unflatten(1, (2, -1))


def _turned(turns, x, z, axis):
    """x and z, (m, n) each, turned by (Y, 2, 2) about the axis (2, ...): yields x, then z, (Y, m, n)."""
    x, z, turns = x - axis[0], z - axis[1], turns[..., None, None]
    return (torch.addcmul(axis[k], turns[:, k, 0], x).addcmul_(turns[:, k, 1], z) for k in range(2))


def _key(depth, face):
    """int64 keys in the order of (depth, face): a float's bits, read as an integer, keep its order."""
    bits = (depth + 0.0).view(torch.int32)                      # + 0.0 makes -0.0 equal to 0.0
    ordered = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)      # negative: in reverse order
    return ordered.long().bitwise_left_shift_(32).bitwise_or_(face)


def _runs(number):
    """int32 counts (n,) of sum M → owner (M,), i counts[i] times, and place (M,), 0 to counts[i] − 1.

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
