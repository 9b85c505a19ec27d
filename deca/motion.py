"""The face's own motion from one picture to another, the head's taken out (SPEC section 10).

Both pictures are drawn on the first one's surface seen from the front, each sampled where its head pose puts
that surface; the flow between the two drawings is the face's own. A pose is right to about half a pixel, and
its error would look like motion of the whole face: so the rigid part of the flow is fitted, robustly, so that
what the expression moves counts little, and added to the pose; a few times over.
"""

import cv2
import numpy as np
import torch

from deca.renderer import VIEW_CAMERA

REFINEMENTS = 3         # how often the pose is corrected
SHOWN = 0.5             # how well both pictures must show a point (`SurfaceRenderer.visibility`)
RIM = 7                 # pixels: half as many of what is shown are dropped at its rim, where flow is loose
MARGIN = 8              # pixels round the face that the flow may look at
GLARE = 250             # levels, 0 to 255: from here on it is a lamp, mirrored in lenses or in wet skin
SPILL = 7               # pixels: side of the square that is filled in round each pixel of glare
FITS, STEP = 30, 3      # reweighted least-squares steps of one refinement; it takes every third pixel


class Canvas:
    """One face seen from the front, onto which pictures of it are drawn to be compared."""

    def __init__(self, renderer, surface, grey):
        """surface: `Surfaces` of one picture, which is `grey` (1, 1, H, W), 0 to 255."""
        self._renderer, self._surface = renderer, surface
        self._seen = renderer.frontal(surface.vertices, surface.root)
        hit = self._seen.hit[0]
        ends = [(int(line.min()), int(line.max())) for line in hit.nonzero(as_tuple=True)]
        self._window = tuple(slice(max(0, first - MARGIN), last + MARGIN + 1) for first, last in ends)
        self._hit = hit[self._window].cpu().numpy()
        points = self._seen.at_pixels(renderer.faces, surface.vertices)[0].permute(1, 2, 0)
        self._points = points[self._window].double().cpu().numpy()                     # (h, w, 3) metres
        self._drawing, self._shown = self._draw(grey, surface.pose)

    def motion(self, grey, pose):
        """Motion from the canvas's picture to another one: u, v in pixels of the view, and strain.

        grey: the other picture, (1, 1, H, W), 0 to 255. pose (1, 3, 4): of the head in it, as in `Surfaces`.
        Returns: float32 (3, S, S) on the CPU, 0 where either picture does not show the face.
        """
        to_metres = np.array([2.0, -2.0]) / (VIEW_CAMERA[0] * self._renderer.image_size)
        for refinement in range(REFINEMENTS + 1):
            drawing, shown = self._draw(grey, pose)
            shown &= self._shown
            few = np.zeros_like(shown)
            few[::STEP, ::STEP] = shown[::STEP, ::STEP]
            if refinement == REFINEMENTS or few.sum() < 6:
                break
            moves = flow(self._drawing, drawing)[few] * to_metres                      # (n, 2)
            pose = pose @ torch.from_numpy(rigid_part(self._points[few], moves)).to(pose)
        u, v = symmetric_flow(self._drawing, drawing).transpose(2, 0, 1)
        maps = np.zeros((3, self._renderer.image_size, self._renderer.image_size), np.float32)
        maps[(slice(None), *self._window)] = np.stack([u, v, strain(u, v)]) * shown
        return torch.from_numpy(maps)

    def _draw(self, grey, pose):
        """The picture on the surface, from the front: levels (h, w); and bool (h, w), where it shows that."""
        posed = self._surface.posed(pose)
        visible = self._renderer.visibility(posed)
        drawn, visible = self._renderer.sampled(self._seen, grey, posed, visible)
        drawn, shown = (values[self._window].cpu().numpy() for values in (drawn[0, 0], visible[0] > SHOWN))
        shown = cv2.morphologyEx(shown.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((RIM, RIM), np.uint8))
        return drawn * self._hit, cv2.erode(shown, np.ones((RIM, RIM), np.uint8)) > 0


def flow(before, after):
    """Dense optical flow, before(x, y) = after(x + u, y + v).

    OpenCV's DIS (Kroeger, Timofte, Dai, Van Gool, ECCV 2016) down to single pixels, with small patches close
    together: on real faces warped by known amounts its error is .042 pixels where TV-L1's is .063, in a
    twelfth of the time. Glare moves like a lamp in a mirror, not with the face: where either picture has it,
    both are filled in from around it (cv2.inpaint).

    before, after: grey levels, float (H, W), 0 to 255.
    Returns: u (right), v (down): float32 (H, W, 2), pixels.
    """
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    method.setFinestScale(0)
    method.setPatchSize(8)
    method.setPatchStride(3)
    method.setVariationalRefinementIterations(10)
    pair = [np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in (before, after)]
    glare = np.maximum(*pair) >= GLARE
    if glare.any():
        glare = cv2.dilate(glare.astype(np.uint8), np.ones((SPILL, SPILL), np.uint8))
        pair = [cv2.inpaint(image, glare, 3, cv2.INPAINT_TELEA) for image in pair]
    return method.calc(*pair, None)


def symmetric_flow(before, after):
    """`flow` averaged with that of the mirrored drawings: a mirrored pair has the mirrored flow."""
    return (flow(before, after) + flow(before[:, ::-1], after[:, ::-1])[:, ::-1] * np.float32([-1, 1])) / 2


def strain(u, v):
    """Optical strain magnitude sqrt(u_x² + v_y² + ½ (u_y + v_x)²) of a flow, both (H, W), per pixel."""
    (u_y, u_x), (v_y, v_x) = np.gradient(u), np.gradient(v)
    return np.sqrt(u_x**2 + v_y**2 + (u_y + v_x) ** 2 / 2)


def rigid_part(points, moves):
    """The small turn, scaling and shift that most moves share, as a matrix (4, 4) on homogeneous columns.

    points (n, 3), metres; moves (n, 2), metres in x and y. The six numbers are fitted by robust least squares
    (Geman-McClure weights, half the median error for their width: brows and lips are outliers).
    """
    x, y, z = points.T
    none, one = np.zeros_like(x), np.ones_like(x)
    by_x = np.stack([x, none, z, -y, one, none], axis=1)       # of scale, three angles, shift in x and y
    by_y = np.stack([y, -z, none, x, none, one], axis=1)
    slopes, weight = np.stack([by_x, by_y], axis=1), one       # (n, 2, 6)
    for _ in range(FITS):
        weighed = (slopes * weight[:, None, None]).reshape(-1, 6)                      # (n, 2, 6) → (2 n, 6)
        normal = weighed.T @ slopes.reshape(-1, 6)
        fit = np.linalg.lstsq(normal, weighed.T @ moves.ravel(), rcond=None)[0]
        error = np.linalg.norm(moves - slopes @ fit, axis=1)
        weight = 1 / (1 + (error / (np.median(error) / 2 + 1e-9)) ** 2) ** 2
    scale, a, b, c, right, up = fit
    return np.array([[1 + scale, -c, b, right], [c, 1 + scale, -a, up], [-b, a, 1 + scale, 0], [0, 0, 0, 1]])
