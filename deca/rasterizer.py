"""Which triangle does each pixel see? A batched rasteriser in plain PyTorch, CPU and CUDA (SPEC section 4).

The pixels of every triangle's bounding box are tested at once: triangles are sorted into classes of box size,
and each class is one dense tensor (box rows, box columns, triangles). A pixel keeps the smallest of its
candidates' keys, depth in the high 32 bits and face index in the low 32, so the answer does not depend on the
order of the work.
"""

import math
from typing import NamedTuple

import torch
from torch.nn import functional

from common.errors import InputError

BACKENDS = ("torch", "pytorch3d")
PYTORCH3D_COMMAND = "pip install easypytorch3d==0.7.9.post1 iopath"

NOTHING = torch.iinfo(torch.int64).max      # the key of a pixel that sees no triangle
# Working sizes (triangles set up together, candidate pixels tested together): what bounds the memory.
AT_ONCE = {"cpu": (160_000, 500_000), "cuda": (1_300_000, 8_000_000)}


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
        """Values (B, V, C) at vertices, interpolated: (B, C, H, W), 0 where nothing is seen.

        faces (F, 3): the triangles that were drawn, or the rows of `values` that their corners have. Fewer
        values than images: each for as many images, one after another.
        """
        seen = self.hit
        values = values.repeat_interleave(len(seen) // len(values), 0)
        hit = seen.flatten().nonzero()[:, 0]                                           # (n,)
        index = faces.index_select(0, _take(self.face_index, hit))                     # (n, 3)
        index = index + hit.div(seen[0].numel(), rounding_mode="floor")[:, None] * values.shape[1]
        pixels = values.new_zeros(seen.numel(), values.shape[2])
        pixels[hit] = blend(values.flatten(0, 1), index, self.bary.reshape(-1, 3)[hit])
        return pixels.reshape(*seen.shape, -1).permute(0, 3, 1, 2)


def choose_rasterizer(name, device):
    """"auto", "torch" or "pytorch3d" → the backend for faces on `device`.

    auto: pytorch3d on a GPU where it can be imported, else torch. Raises: InputError for another name, or for
    pytorch3d where it cannot be imported.
    """
    if name not in ("auto", *BACKENDS):
        raise InputError(f"rasterizer {name!r}: choose one of auto, {', '.join(BACKENDS)}")
    if name == "torch" or (name == "auto" and torch.device(device).type == "cpu"):
        return "torch"
    try:
        _pytorch3d()
    except InputError:
        if name == "auto":
            return "torch"
        raise
    return "pytorch3d"


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
    at_once, _ = AT_ONCE.get(vertices.device.type, AT_ONCE["cpu"])
    meshes = max(1, at_once // max(1, len(faces)))
    parts = [_rasterize_chunk(chunk, faces, height, width) for chunk in vertices.split(meshes)]
    if len(parts) == 1:
        return parts[0]
    return Fragments(*(torch.cat(field) for field in zip(*parts, strict=True)))      # (B, ...) each


def blend(values, index, weight):
    """Weighted sums of rows: values (R, C), index (n, k), weight (n, k) → (n, C); deterministic."""
    return functional.embedding_bag(index, values, per_sample_weights=weight, mode="sum")


def pixel_centres(count, device=None):
    """(count,) float32: the centres (2k+1)/count - 1 of a row's pixels."""
    return ((2 * torch.arange(count, dtype=torch.float64, device=device) + 1) / count - 1).float()


class _Triangles(NamedTuple):
    """Triangles that may be seen, sorted by class of box size; T of them, one column each."""

    origin: torch.Tensor     # (2, 3, T) x and y of a point on each edge
    along: torch.Tensor      # (2, 3, T) the edge's direction, turned so that the inside is positive
    depth: torch.Tensor      # (5, T) z0, its change per unit of edge function 1 and 2, smallest and largest z
    box: torch.Tensor        # (4, T) xmin, ymin, xmax, ymax
    start: torch.Tensor      # (2, T) first column and row of the box, int64
    face: torch.Tensor       # (T,) index within the mesh
    mesh: torch.Tensor       # (T,)


def _rasterize_chunk(vertices, faces, height, width):
    """`rasterize` for as many meshes as fit into the memory together."""
    count, device = len(vertices), vertices.device
    keys = torch.full((count * height * width,), NOTHING, dtype=torch.int64, device=device)
    if len(faces) and count and height and width:
        corners = _corners(vertices, faces)
        triangles, classes = _set_up(corners, faces, height, width)
        _draw(keys, triangles, classes, height, width)
    else:
        corners = vertices.new_zeros(3, 3, count, max(1, len(faces)))
    return _fragments(keys, corners, _origins(faces), count, height, width)


def _corners(vertices, faces):
    """(B, V, 3) → (3, 3, B, F): coordinate, corner, mesh, face."""
    count, total = len(vertices), len(faces)
    picked = vertices.permute(2, 0, 1).index_select(2, faces.t().reshape(-1))     # (3, B, 3*F)
    return picked.reshape(3, count, 3, total).permute(0, 2, 1, 3).contiguous()    # → (3, 3, B, F)


def _origins(faces):
    """(3, F): which corner edge functions start from; edge k is opposite corner k.

    Both triangles of an edge start from the same end of it (the lower vertex index). Then their edge
    functions are each other's exact negatives, and rounding cannot leave a gap between them.
    """
    after, before = faces.roll(-1, 1).t(), faces.roll(-2, 1).t()     # the ends of edge k: corners k+1 and k+2
    corner = torch.arange(3, device=faces.device)[:, None]
    return torch.where(after < before, (corner + 1) % 3, (corner + 2) % 3)


def _edges(xy, origin):
    """Corners (2, 3, N) and origin corners (3, N) → each edge's start and direction, both (2, 3, N)."""
    return torch.gather(xy, 1, origin.expand(2, *origin.shape)), xy.roll(-2, 1) - xy.roll(-1, 1)


def _area(xy):
    """Corners (2, 3, N) → twice the signed area (N,)."""
    (x1, x2), (y1, y2) = (xy[:, 1:] - xy[:, :1]).unbind(0)
    return x1 * y2 - x2 * y1


def _steps(limit):
    """Box sides that have a class of their own: 1 2 3 4 6 8 12 16 ... `limit`."""
    steps, side = [1, 2, 3], 4
    while side < limit:
        steps += [side, side * 3 // 2]
        side *= 2
    return sorted({min(step, limit) for step in [*steps, limit]})


def _set_up(corners, faces, height, width):
    """Triangles that may touch a pixel centre, by class; the classes as [(rows, columns, how many)]."""
    flat = corners.reshape(3, 3, -1)                                   # (3, 3, B*F)
    sides = flat.new_tensor([width, height])[:, None]
    low, high = flat[:2].amin(1), flat[:2].amax(1)                     # (2, B*F)
    # 0.01 pixel of slack for rounding here: the exact test against the box follows pixel by pixel.
    first = (((low + 1) * sides - 1) / 2 - 0.01).ceil().clamp(min=0).minimum(sides)
    last = (((high + 1) * sides - 1) / 2 + 0.01).floor().clamp(min=-1).minimum(sides - 1)
    seen = ((last >= first).all(0) & (_area(flat[:2]) != 0) & flat.sum((0, 1)).isfinite()).nonzero()[:, 0]
    size = (last - first)[:, seen].long() + 1                          # (2, T) columns, rows

    columns, rows = _steps(width), _steps(height)
    wide = torch.bucketize(size[0], torch.tensor(columns, device=flat.device))
    tall = torch.bucketize(size[1], torch.tensor(rows, device=flat.device))
    kind, order = (tall * len(columns) + wide).sort(stable=True)
    counts = torch.bincount(kind, minlength=len(rows) * len(columns)).tolist()
    classes = [(rows[k // len(columns)], columns[k % len(columns)], n) for k, n in enumerate(counts) if n]
    seen = seen[order]
    start = first.index_select(1, seen).long()
    return _triangles(_columns(flat, seen), _origins(faces), seen, len(faces), start), classes


def _columns(table, index):
    """table[..., index] for a one-dimensional index, the fast way."""
    return table.flatten(0, -2).index_select(1, index).reshape(*table.shape[:-1], len(index))


def _triangles(corners, origins, seen, total, start):
    face, mesh = seen % total, seen.div(total, rounding_mode="floor")
    origin, along = _edges(corners[:2], origins.index_select(1, face))
    area, box = _area(corners[:2]), torch.cat([corners[:2].amin(1), corners[:2].amax(1)])    # (T,), (4, T)
    z = corners[2]
    rise = (z[1:] - z[:1]) / area.abs()                                # (2, T)
    depth = torch.stack([z[0], rise[0], rise[1], z.amin(0), z.amax(0)])
    return _Triangles(origin, along * area.sign(), depth, box, start, face, mesh)


def _draw(keys, triangles, classes, height, width):
    """Lower `keys` (meshes*H*W,) to the nearest triangle's, class by class."""
    device = keys.device
    _, at_once = AT_ONCE.get(device.type, AT_ONCE["cpu"])
    centres = pixel_centres(width, device), pixel_centres(height, device)
    begin = 0
    for rows, columns, count in classes:
        step = max(1, at_once // (rows * columns))
        band = min(rows, max(1, at_once // columns))                   # a very large box goes band by band
        for first in range(begin, begin + count, step):
            block = slice(first, min(first + step, begin + count))
            part = _Triangles(*(field[..., block] for field in triangles))
            left = part.start[0].clamp(max=width - columns)            # a padded box stays inside the image
            top = part.start[1].clamp(max=height - rows)
            for down in range(0, rows, band):
                pixel, key = _candidates(part, centres, left, top + down, min(band, rows - down), columns)
                keys.scatter_reduce_(0, pixel, key, "amin")
        begin += count


def _candidates(part, centres, left, top, rows, columns):
    """The pixels (n,) inside the K triangles of `part`, and their keys (n,).

    Looks at rows x columns pixels for each triangle, from column `left` (K,) and row `top` (K,) on.
    """
    device = part.face.device
    height, width = len(centres[1]), len(centres[0])
    x = centres[0][left + torch.arange(columns, device=device)[:, None]]    # (columns, K)
    y = centres[1][top + torch.arange(rows, device=device)[:, None]]        # (rows, K)
    across = -part.along[1][:, None] * (x - part.origin[0][:, None])        # (3, columns, K)
    down = part.along[0][:, None] * (y - part.origin[1][:, None])           # (3, rows, K)
    across[0].masked_fill_((x < part.box[0]) | (x > part.box[2]), -torch.inf)
    down[0].masked_fill_((y < part.box[1]) | (y > part.box[3]), -torch.inf)
    edge = [down[k][:, None] + across[k] for k in range(3)]                 # 3 x (rows, columns, K)
    inside = torch.minimum(torch.minimum(edge[0], edge[1]), edge[2]) >= 0
    depth = torch.addcmul(torch.addcmul(part.depth[0], edge[1], part.depth[1]), edge[2], part.depth[2])
    hit = inside.flatten().nonzero()[:, 0]                                  # (n,)
    cell, column = hit.div(len(part.face), rounding_mode="floor"), hit % len(part.face)
    low, high = (limit.index_select(0, column) for limit in part.depth[3:])
    z = depth.flatten().index_select(0, hit).clamp(low, high)
    corner = part.mesh * (height * width) + top * width + left              # (K,) the box's first pixel
    offset = torch.arange(rows, device=device)[:, None] * width + torch.arange(columns, device=device)
    pixel = corner.index_select(0, column) + offset.flatten().index_select(0, cell)
    return pixel, _key(z, part.face.index_select(0, column))


def _key(depth, face):
    """int64 keys in the order of (depth, face): a float's bits, read as an integer, keep its order."""
    bits = (depth + 0.0).view(torch.int32)                      # + 0.0 makes -0.0 equal to 0.0
    ordered = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)      # negative: in reverse order
    return ordered.long().bitwise_left_shift_(32).bitwise_or_(face)


def _fragments(keys, corners, origins, count, height, width):
    """Keys (B*H*W,) → Fragments; barycentric coordinates are computed at the winning face."""
    total, device = corners.shape[3], keys.device
    centres = pixel_centres(width, device), pixel_centres(height, device)
    face_index = torch.full((len(keys),), -1, dtype=torch.int64, device=device)
    bary = corners.new_zeros(len(keys), 3)
    depth = corners.new_full((len(keys),), torch.inf)
    _, at_once = AT_ONCE.get(device.type, AT_ONCE["cpu"])
    for hit in (keys != NOTHING).nonzero()[:, 0].split(at_once):                 # (n,)
        face = keys.index_select(0, hit) & 0xFFFFFFFF
        mesh, pixel = hit.div(height * width, rounding_mode="floor"), hit % (height * width)
        x, y = centres[0][pixel % width], centres[1][pixel.div(width, rounding_mode="floor")]
        own = _columns(corners.flatten(2), mesh * total + face)                  # (3, 3, n)
        origin, along = _edges(own[:2], origins.index_select(1, face))
        edge = along[0] * (y - origin[1]) - along[1] * (x - origin[0])           # (3, n)
        whole = edge.sum(0)
        weight = torch.where(whole == 0, 1 / 3, edge / whole)                    # 0: too thin for float32
        face_index[hit], bary[hit], depth[hit] = face, weight.t(), (weight * own[2]).sum(0)
    shape = (count, height, width)
    return Fragments(face_index.reshape(shape), bary.reshape(*shape, 3), depth.reshape(shape))


@torch.no_grad()
def rasterize_turned(vertices, faces, turns, axis, height, width, backend="torch"):
    """`rasterize` for meshes turned about the vertical axis: a turn leaves every point in its row of pixels.

    So the triangles are cut into the rows' segments once, and each view only asks which pixels of its row a
    turned segment covers.

    vertices, faces, height, width, backend: as for `rasterize`. turns: (Y, 2, 2) what turns (x, z) to each
    view, about axis (B, 2): its x and z.
    Returns: `Turned` (by pytorch3d `Fragments`) of B*Y images, mesh by mesh.
    """
    count, views = len(vertices), len(turns)
    points = vertices.float().permute(2, 0, 1)                                         # (3, B, V)
    if backend != "torch":
        x, z = _turned(turns, points[0], points[2], axis.t()[..., None])               # (Y, B, V) each
        points = torch.stack([x, points[1].expand_as(x), z], 3).transpose(0, 1)        # (B, Y, V, 3)
        return rasterize(points.flatten(0, 1), faces, height, width, backend)
    row, edges = _segments(points[1], faces, height)
    x, z = _at_ends(edges, faces, points[::2])                                         # (2, N) each
    x, z = _turned(turns, x, z, axis.t()[:, None, edges.mesh])                         # (Y, 2, N) each
    x, z = x.add_(1).mul_(width).sub_(1).div_(2).unbind(1), z.unbind(1)                # 2 x (Y, N); x: pixels
    first = torch.minimum(*x).ceil_().clamp_(min=0)
    number = torch.maximum(*x).floor_().clamp_(max=width - 1).sub_(first).add_(1).clamp_(min=0)
    slope = (x[1] - x[0]).reciprocal_().nan_to_num_(0, 0, 0)
    start, rise = (first - x[0]).mul_(slope), z[1] - z[0]
    cell, place = _runs(number.nan_to_num_(0).int().flatten())                         # (M,) each
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


def _turned(turns, x, z, axis):
    """x and z, (m, n) each, turned by (Y, 2, 2) about axis (2, ...): x, z of the views, (Y, m, n)."""
    x, z, turns = x - axis[0], z - axis[1], turns[..., None, None]
    return (torch.addcmul(axis[k], turns[:, k, 0], x).addcmul_(turns[:, k, 1], z) for k in range(2))


def _take(table, index):
    """table.flatten()[index], the fast way."""
    return table.flatten().index_select(0, index)


def _runs(number):
    """int32 counts (n,) → which of them each of their sum of things belongs to, and its place there; int32.

    `repeat_interleave` takes several times as long where most counts are 0, 1 and 2.
    """
    ends = number.cumsum(0, dtype=torch.int32)
    starts, total = ends - number, int(ends[-1:].sum())
    owner = torch.bincount(starts, minlength=total + 1)[:total].cumsum(0, dtype=torch.int32).sub_(1)
    return owner, torch.arange(total, dtype=torch.int32, device=owner.device).sub_(_take(starts, owner))


class _Edges(NamedTuple):
    """The edges on which the two ends of each of N segments lie."""

    mesh: torch.Tensor      # (N,)
    corner: torch.Tensor    # (2, 2, N) an end's upper and lower corner, as places in faces.flatten()
    share: torch.Tensor     # (2, N) how far down the edge the end is


def _segments(y, faces, height):
    """Triangles of meshes, y (B, V), cut at the centres of the pixel rows: rows (N,) and `_Edges`.

    Neighbours cut their edge at the same point.
    """
    y = ((y + 1) * height - 1) / 2                                                     # (B, V) pixels
    tall, order = y[:, faces].sort(dim=2)                          # (B, F, 3) top to bottom
    first = tall[..., 0].ceil().clamp(min=0)
    last = tall[..., 2].floor().clamp(max=height - 1)
    number = (last - first + 1).clamp(min=0).nan_to_num(0).int()
    cut, place = _runs(number.flatten())                                               # (N,) in B*F
    row = _take(first, cut).long() + place
    tall = tall.flatten(0, 1).index_select(0, cut).t()                                 # (3, N)
    low = (row > tall[1]).long()                # the second end lies on the upper or the lower short edge
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


class Turned(NamedTuple):
    """What each pixel of images of turned meshes sees; n pixels see something."""

    shape: tuple            # (images, H, W)
    pixel: torch.Tensor     # (n,) of all images' pixels
    cell: torch.Tensor      # (n,) the segment it sees, of the (Y, N) segments in the views
    place: torch.Tensor     # (n,) float, how many pixels from the segment's first
    start: torch.Tensor     # (Y, N) how far along a segment its first pixel is, of the whole
    slope: torch.Tensor     # (Y, N) and each further pixel; 0 where the segment is upright
    edges: _Edges

    @property
    def hit(self):
        """(images, H, W) bool: where something is seen."""
        hit = torch.zeros(self.shape, dtype=torch.bool, device=self.pixel.device)
        hit.view(-1)[self.pixel] = True
        return hit

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


def _rasterize_pytorch3d(vertices, faces, height, width):
    """The same through pytorch3d, whose x runs left, y up, and whose z must be positive.

    It adds 1e-8 to a triangle's area, so that the weights in a small one do not sum to 1: set right here.
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
