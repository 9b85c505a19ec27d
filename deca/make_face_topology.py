"""Makes `face_topology.npz`: how the 468 points of the face mesh network hang together.

    python -m deca.make_face_topology FOLDER_OF_FACE_CROPS      (a few hundred pictures, a minute)

The mean mesh is that of the crops, made symmetric. Its left half is triangulated (Delaunay) as it is seen
from a point behind the face, where lips and eyelids lie open; edges are flipped while that makes the surface
smoother; the right half is the left one's mirror image. The result is a disk: eyes and mouth are closed.
"""

import numpy as np
import trimesh
from scipy.sparse import csr_matrix
from scipy.spatial import Delaunay, cKDTree

from common.console import Parser, run_main
from common.errors import InputError
from common.images import find_pictures, read_image
from deca.face_mesh import POINTS, TOPOLOGY, UPPER, FaceNetwork, similarity

BEHIND, ABOVE = 200.0, 15.0     # its middle: where the face is seen from (it is 200 high)
OPENED = 2.0                    # times the opening of the faces with the most open lips and lids
FLAT = 0.3                      # a rim triangle whose height over its outer side is less fills a hollow
SLIVERS = 0.02                  # what a thin triangle costs beside a bent edge
LIPS, LIDS = ((13, 14),), ((159, 145), (386, 374))      # upper and lower points


def aligned(meshes, target, points):
    """`meshes` (n, 468, 3) moved by similarities so that their `points` lie on those of `target` (468, 3)."""
    turn, shift = similarity(meshes[:, points], target[points])
    return meshes @ turn.transpose(0, 2, 1) + shift[:, None]


def mean_mesh(meshes):
    """The symmetric mean (468, 3) of meshes (n, 468, 3), y up, 200 high; and its mirror table (468,)."""
    mean = meshes[0] - meshes[0].mean(0)
    for _ in range(5):
        mean = aligned(meshes, mean, slice(None)).mean(0)
    mean = (mean - mean.mean(0)) * 100 / np.abs(mean[:, 1]).max()
    for _ in range(5):
        mirror = cKDTree(mean).query(mean * [-1, 1, 1])[1]
        symmetric = (mean + mean[mirror] * [-1, 1, 1]) / 2
        mean = aligned(mean[None], symmetric, slice(None))[0]
    if not np.array_equal(mirror[mirror], np.arange(len(mean))):
        raise InputError("the mean mesh is not symmetric enough: give more faces")
    return (mean + mean[mirror] * [-1, 1, 1]) / 2, mirror


def opened_mesh(meshes, mean, mirror):
    """The mean with lips and eyelids open, symmetric (468, 3): what tells upper from lower points."""
    faces = aligned(meshes, mean, UPPER)
    opened = mean.copy()
    for pairs in (LIPS, LIDS):
        gap = sum(faces[:, upper, 1] - faces[:, lower, 1] for upper, lower in pairs)
        opened += OPENED * (faces[np.argsort(gap)[-len(faces) // 15:]].mean(0) - faces.mean(0))
    return (opened + opened[mirror] * [-1, 1, 1]) / 2


def triangulate_half(mean, opened, mirror):
    """Counter-clockwise triangles (F, 3) of the points with x <= 0; the midline is part of the outline."""
    middle = mirror == np.arange(len(mean))
    half = np.flatnonzero((opened[:, 0] < 0) | middle)
    seen = (opened[:, :2] - [0, ABOVE]) / (opened[:, 2:] + BEHIND)
    seen[middle, 0] = 0
    triangles = half[Delaunay(seen[half]).simplices]
    a, b, c = seen[triangles].transpose(1, 0, 2)
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    triangles[area < 0] = triangles[area < 0][:, ::-1]
    triangles = triangles[np.abs(area) > 1e-12]
    while True:     # hollows of the outline that Delaunay has filled: slivers on the rim
        sides = triangles[:, [[0, 1], [1, 2], [2, 0]]]                                  # (F, 3, 2)
        _, place, count = np.unique(np.sort(sides, axis=2).reshape(-1, 2), axis=0, return_inverse=True,
                                    return_counts=True)
        rim = (count[place].reshape(-1, 3) == 1) & ~middle[sides].all(2)                # (F, 3)
        a, b, c = mean[triangles].transpose(1, 0, 2)
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
        length = np.linalg.norm(mean[sides[..., 0]] - mean[sides[..., 1]], axis=2)
        sliver = (rim.sum(1) == 1) & ((rim * length**2).sum(1) * FLAT > area)
        if not sliver.any():
            return triangles
        triangles = triangles[~sliver]


class Flipper:
    """Flips edges of a triangulated half while bent edges and slivers become fewer, over several shapes."""

    def __init__(self, triangles, shapes, middle):
        self.shapes, self.middle = shapes, middle
        self.third = {}                     # directed edge → the triangle's third corner
        for triangle in triangles.tolist():
            self._add(triangle)

    def _add(self, triangle):
        a, b, c = triangle
        self.third |= {(a, b): c, (b, c): a, (c, a): b}

    def _edge(self, a, b):
        """Length times bend of an edge, over the shapes; 0 on the outline."""
        total = 0.0
        if (a, b) in self.third and (b, a) in self.third:
            for shape in self.shapes:
                left = np.cross(shape[b] - shape[a], shape[self.third[a, b]] - shape[a])
                right = np.cross(shape[a] - shape[b], shape[self.third[b, a]] - shape[b])
                cosine = left @ right / max(np.linalg.norm(left) * np.linalg.norm(right), 1e-9)
                total += np.linalg.norm(shape[a] - shape[b]) * np.arccos(np.clip(cosine, -1, 1))
        return total

    def _sliver(self, *triangle):
        total = 0.0
        for shape in self.shapes:
            a, b, c = shape[list(triangle)]
            longest = max(np.linalg.norm(side) for side in (a - b, b - c, c - a))
            total += longest**3 / max(np.linalg.norm(np.cross(b - a, c - a)), 1e-3)
        return SLIVERS * total

    def _cost(self, triangles, edges):
        return sum(self._sliver(*t) for t in triangles) + sum(self._edge(*e) for e in edges)

    def _flip(self, a, b):
        """Replace edge ab by the other diagonal if that costs less; True when it did."""
        c, d = self.third[a, b], self.third[b, a]
        if (c, d) in self.third or (d, c) in self.third or (self.middle[c] and self.middle[d]):
            return False
        rim, old, before = [(a, d), (d, b), (b, c), (c, a)], [(a, b, c), (b, a, d)], dict(self.third)
        cost = self._cost(old, [(a, b), *rim])
        del self.third[a, b], self.third[b, a]
        new = [(a, d, c), (d, b, c)]
        for triangle in new:
            self._add(triangle)
        if self._cost(new, [(c, d), *rim]) < cost - 1e-6:
            return True
        self.third = before
        return False

    def triangles(self):
        """The triangles (F, 3) when no flip helps any more."""
        while sum(self._flip(a, b) for a, b in list(self.third)
                  if a < b and (a, b) in self.third and (b, a) in self.third):
            pass
        found = [(a, b, c) for (a, b), c in self.third.items() if a < b and a < c]
        return np.array(sorted(found))


def loop_matrix(triangles):
    """Two Loop subdivisions as a matrix: (fine points, 468) float32 sparse; and the fine triangles (F, 3)."""
    columns, parts = np.eye(POINTS), []
    for first in range(0, POINTS, 3):       # three coordinates at a time
        fine, faces = trimesh.remesh.subdivide_loop(columns[:, first:first + 3], triangles, iterations=2)
        parts.append(fine)
    return csr_matrix(np.concatenate(parts, axis=1).astype(np.float32)), faces


def make_topology(meshes):
    """Everything `face_topology.npz` holds, from meshes (n, 468, 3), pixels, y up, z to the viewer."""
    mean, mirror = mean_mesh(meshes)
    opened = opened_mesh(meshes, mean, mirror)
    half = triangulate_half(mean, opened, mirror)
    half = Flipper(half, (mean, opened), mirror == np.arange(POINTS)).triangles()
    triangles = np.concatenate([half, mirror[half][:, ::-1]])
    matrix, fine = loop_matrix(triangles)
    return {"mean": mean.astype(np.float32), "weights": matrix.data, "rows": matrix.indptr.astype(np.int32),
            **{name: values.astype(np.int16) for name, values in (
                ("mirror", mirror), ("triangles", triangles), ("fine_triangles", fine),
                ("columns", matrix.indices))}}


def main():
    """Reads the crops of the folder named on the command line and writes `deca/face_topology.npz`."""
    parser = Parser(prog="python -m deca.make_face_topology", description=__doc__)
    parser.add_argument("folder", help="of face crops")
    paths, network = find_pictures([parser.parse_args().folder]), FaceNetwork()
    meshes = np.concatenate([network(read_image(path)[None])[0] for path in paths]) * [1, -1, -1]
    np.savez_compressed(TOPOLOGY, **make_topology(meshes))


if __name__ == "__main__":
    run_main(main)
