"""Dense optical flow between two drawings of a face, and its strain (SPEC section 10)."""

import cv2
import numpy as np
import torch


def flow(before, after):
    """Dense optical flow: before(x, y) = after(x + u, y + v).

    before, after: grey levels, float (H, W), 0 to 255.
    Returns: u (right) and v (down), float32 (H, W), pixels.
    """
    pair = [np.clip(np.rint(image.numpy()), 0, 255).astype(np.uint8) for image in (before, after)]
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found = torch.from_numpy(method.calc(*pair, None))
    return found[..., 0], found[..., 1]


def strain(u, v):
    """Optical strain magnitude sqrt(u_x² + v_y² + ½ (u_y + v_x)²) of a flow (..., H, W), per pixel."""
    u_y, u_x = torch.gradient(u, dim=(-2, -1))
    v_y, v_x = torch.gradient(v, dim=(-2, -1))
    return (u_x.square() + v_y.square() + (u_y + v_x).square() / 2).sqrt()
