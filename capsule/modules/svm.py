"""The row that a network has to beat: a support vector machine on motion pictures (SPEC section 10).

`python -m benchmarks.motion_search` chooses patch, blur, kernel width and C by nested leave-one-subject-out;
these are the settings it takes most often with split 0 (with seven of nine others GAMMA 1.5). The mirrored
kernel and CHANNEL_WEIGHTS are not in its grid: they were kept after comparisons on the same clips, so the
scores lean high.
"""

import cv2
import numpy as np
import torch
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.svm import SVC

from capsule.modules.unit_scores import UnitScores
from common.errors import InputError

CHANNEL_WEIGHTS = (1.0, 1.0, 0.5)      # of u, v, strain
BLUR = 1.0                             # pixels of 28
PATCH, STEP = 14, 7                    # pixels: side of a patch, longest way to the next one
NOT_CODED = -1.0                       # an action unit in a state dict, whose tensors are finite
GAMMA, C = 0.5, 3.0                    # RBF width, per median squared distance; the SVM's penalty


class KernelMachine:
    """An SVM on a ready kernel, classes balanced; with action units, their likeness is added to the kernel.

    kernel: (n, n) of the training pictures. labels (n,). c: penalty. subjects, units: `UnitScores`' or None.
    """

    def __init__(self, kernel, labels, c, subjects=None, units=None):
        self.units = None if units is None else UnitScores(kernel, subjects, units)
        if self.units:
            kernel = kernel + self.units.kernel(self.units.own)
        self.machine = SVC(C=c, kernel="precomputed", class_weight="balanced", break_ties=True)
        self.machine.fit(kernel, labels)

    def with_units(self, kernel):
        """The kernel of m other pictures with the n training pictures, (m, n), plus that of action units."""
        return kernel + self.units.kernel(self.units.of(kernel)) if self.units else kernel

    def predict(self, kernel):
        """Class numbers (m,)."""
        return self.machine.predict(self.with_units(kernel))

    def decision(self, kernel):
        """(the classes that occurred in training, their decision values (m, classes))."""
        values = self.machine.decision_function(self.with_units(kernel))
        if len(self.machine.classes_) == 2:
            values = np.stack([-values, values], 1) / 2              # (m,) → (m, 2)
        return self.machine.classes_, values


class SVM:
    """An SVM whose kernel is the mean RBF kernel of overlapping patches, over a picture and its mirror image;
    classes balanced. Deterministic. patch, blur: pixels; gamma: see GAMMA."""

    pretrained = False

    def __init__(self, classes, patch=PATCH, blur=BLUR, gamma=GAMMA):
        self.classes, self.patch, self.blur, self.gamma = classes, patch, blur, gamma
        self.learnt = {}

    def fit(self, images, labels, subjects=None, units=None):
        """Learn from pictures, uint8 (n, 3, H, W) of u, v, strain, and their classes (n,); with subjects (n,)
        and action units (n, units; see `UnitScores`) from these too. Returns itself. Raises: InputError for
        pictures smaller than a patch."""
        if images.shape[-1] < self.patch:
            raise InputError(f"motion pictures of {images.shape[-1]} pixels a side: {self.patch} are needed")
        self.learnt = {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}
        if units is not None:
            self.learnt |= {"subjects": torch.from_numpy(np.unique(subjects, return_inverse=True)[1]),
                            "units": torch.from_numpy(np.nan_to_num(units, nan=NOT_CODED))}
        self.machine = KernelMachine(self.known_kernel(images), labels, C, subjects, units)
        return self

    def state_dict(self):
        """The training data as tensors, which a kernel machine needs: the file holds the pictures."""
        return self.learnt

    def load_state_dict(self, tensors):
        """Fit to what `state_dict` returned; if empty, do nothing. Raises: ValueError for other tensors."""
        if not tensors:
            return
        images, labels = (torch.as_tensor(tensors.get(name)).cpu().numpy() for name in ("images", "labels"))
        if (images.dtype != np.uint8 or images.shape[1:2] != (3,) or images.ndim != 4
                or min(images.shape[2:]) < self.patch or labels.dtype != np.int64
                or labels.shape != images.shape[:1] or not set(labels) <= set(range(self.classes))):
            raise ValueError("no motion pictures and their classes")
        more = [torch.as_tensor(tensors[name]).cpu().numpy() for name in ("subjects", "units")
                if name in tensors]
        if more and ([part.ndim for part in more] != [1, 2] or {len(part) for part in more} != {len(labels)}):
            raise ValueError("no subjects and action units of these pictures")
        if more:
            more[1] = np.where(more[1] == NOT_CODED, np.float32(np.nan), more[1])
        self.fit(images, labels, *more)

    def scores(self, images):
        """Shares of 1, float32 (n, classes), of pictures uint8 (n, 3, H, W); the largest is the prediction.

        The softmax of each class's decision value (scikit-learn's, from one-against-one machines); a class
        that was not there to learn from gets 0.
        """
        classes, decision = self.machine.decision(self.alike(images))
        powers = np.exp(decision - decision.max(1, keepdims=True))
        scores = np.zeros((len(images), self.classes), np.float32)
        scores[:, classes] = powers / powers.sum(1, keepdims=True)
        return scores

    def known_kernel(self, images):
        """Compare with these pictures from now on. Returns: how alike they are, (n, n)."""
        self.known = self.patches(images)
        self.medians = [np.median(euclidean_distances(part, squared=True)) + 1e-9 for part in self.known]
        return self.alike(images)

    def alike(self, images):
        """The kernel (n, known), in (0, 1], with the training pictures: mean over patches and mirror."""
        total = 0
        for mirrored in (False, True):
            parts = self.patches(images, mirrored)
            for part, known, median in zip(parts, self.known, self.medians, strict=True):
                total = total + np.exp(-self.gamma * euclidean_distances(part, known, squared=True) / median)
        return total / (2 * len(self.known))

    def patches(self, images, mirrored=False):
        """List of float32 (n, 3·patch²), one a place; u and v from 0, weighted, blurred."""
        motion = np.asarray(images, np.float32) - np.float32([128, 128, 0]).reshape(3, 1, 1)
        motion *= np.float32(CHANNEL_WEIGHTS).reshape(3, 1, 1)
        if mirrored:
            motion = motion[..., ::-1] * np.float32([-1, 1, 1]).reshape(3, 1, 1)
        if self.blur:
            planes = motion.reshape(-1, *motion.shape[2:])                                    # (n·3, H, W)
            motion = np.reshape([cv2.GaussianBlur(plane, (0, 0), self.blur, borderType=cv2.BORDER_REPLICATE)
                                 for plane in planes], motion.shape)
        last = motion.shape[-1] - self.patch
        starts = np.linspace(0, last, -(-last // STEP) + 1).round().astype(int)     # from edge to edge
        return [motion[:, :, i:i + self.patch, j:j + self.patch].reshape(len(motion), -1)
                for i in starts for j in starts]
