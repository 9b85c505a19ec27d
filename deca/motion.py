"""Dense optical flow between two drawings of a face, and its strain (SPEC section 10)."""

import cv2
import numpy as np
import torch


def flow(before, after):
    """Dense optical flow: before(x, y) = after(x + u, y + v).

    OpenCV's DIS (Kroeger, Timofte, Dai, Van Gool, ECCV 2016) down to single pixels: on faces warped by known
    amounts as accurate as TV-L1, at a quarter of its time.

    before, after: grey levels, float (H, W), 0 to 255.
    Returns: u (right) and v (down), float32 (H, W), pixels.
    """
    pair = [np.clip(np.rint(image.numpy()), 0, 255).astype(np.uint8) for image in (before, after)]
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    method.setFinestScale(0)
    found = torch.from_numpy(method.calc(*pair, None))
    return found[..., 0], found[..., 1]


def inner(seen, rim=4):
    """Where a flow can be trusted: `seen` (H, W), 0 or 1, without holes and a `rim` of pixels."""
    kernel = np.ones((2 * rim + 1, 2 * rim + 1), np.uint8)
    closed = cv2.morphologyEx(seen.numpy().astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    return torch.from_numpy(cv2.erode(closed, kernel)).to(seen)


def strain(u, v):
    """Optical strain magnitude sqrt(u_x² + v_y² + ½ (u_y + v_x)²) of a flow (..., H, W), per pixel."""
    u_y, u_x = torch.gradient(u, dim=(-2, -1))
    v_y, v_x = torch.gradient(v, dim=(-2, -1))
    return (u_x.square() + v_y.square() + (u_y + v_x).square() / 2).sqrt()


def without_rigid(u, v, points, seen, rounds=10, step=3):
    """What is left of a flow when the rigid motion that most of the face shares is taken out.

    A pose from one picture is good to a degree. What it leaves is a small shift, turn and scaling of the
    whole surface, in first order u = a + s x - r y + p z and v = b + r x + s y + q z. These six are fitted to
    the flow of every `step`th pixel in robust least squares (Cauchy weights): brows or lips are outliers.

    u, v: (H, W) flow, pixels. points: (3, H, W) x, y, z of the surface at each pixel. seen: (H, W), 1 where
    the flow is known, else 0. Returns: u, v.
    """
    every, seen = _rigid_model(points), seen.double()
    model = _rigid_model(points[:, ::step, ::step])                                    # (2, n, 6)
    target = torch.stack([u, v])[:, ::step, ::step].double().flatten(1)                # (2, n)
    weight = known = seen[::step, ::step].flatten()
    if not known.any():
        return u, v
    for _ in range(rounds):
        rows = (model * weight[:, None]).flatten(0, 1)                                 # (2*n, 6)
        ridge = 1e-6 * known.sum() * torch.eye(6, dtype=torch.float64)
        motion = torch.linalg.solve(rows.T @ model.flatten(0, 1) + ridge, rows.T @ target.flatten())
        error = (target - model @ motion).norm(dim=0)
        spread = error[known > 0].median().clamp(min=0.02)
        weight = known / (1 + (error / spread).square())
    left = torch.stack([u, v]).double() - (every @ motion).reshape(2, *u.shape)
    return left.float().unbind(0)


def _rigid_model(points):
    """Points (3, H, W) → what the six numbers of a small rigid motion do to u and v there: (2, H*W, 6)."""
    x, y, z = points.double().flatten(1)
    one, none = torch.ones_like(x), torch.zeros_like(x)
    return torch.stack([torch.stack([one, none, x, -y, z, none], 1),
                        torch.stack([none, one, y, x, none, z], 1)])
